//! The helper: takes requests from an agent and runs the programs.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

use super::{
    HookPrograms, Occasion,
    desk::{Desk, NextEvent},
    running::{GRACE, attend},
};
use crate::clock;

/// How long programs may take to end with the agent: one that the kernel cannot kill is not waited for.
const LAST: Duration = GRACE.saturating_add(Duration::from_secs(1));

/// Runs `programs` as asked by what comes from `requests`, each no longer than `timeout`, until that ends. What runs then is
/// ended.
///
/// # Errors
///
/// If signals cannot be caught.
pub async fn serve(requests: Receiver, programs: HookPrograms, timeout: Duration) -> anyhow::Result<()> {
    detach();
    // Whoever ends the agent may send them to all of its processes. Its end is told by the pipe.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        // The handler stays.
        let _unread: Signal =
            signal(kind).context("sigaction failed; report this with the output of `closewait doctor`")?;
    }
    let (hand_on, mut occasions) = mpsc::channel(1);
    let reading = tokio::spawn(read_all(requests, hand_on));
    let programs = Arc::new(programs);
    let (stop, stopping) = watch::channel(false);
    let (mut desk, mut running) = (Desk::new(timeout), JoinSet::new());
    loop {
        while let Some(next) = desk.next(clock::now()) {
            let occasion = match next {
                NextEvent::Run(occasion) => occasion,
                NextEvent::Stale(group) => {
                    log::warn!("hook for {group}: not run, as it has waited too long for others to end");
                    continue;
                }
            };
            let (programs, stopping) = (Arc::clone(&programs), stopping.clone());
            running.spawn(async move {
                if let Some(program) = programs.of(occasion.group.kind) {
                    attend(program, &occasion, timeout, stopping).await;
                }
                occasion.group
            });
        }
        tokio::select! {
            occasion = occasions.recv() => {
                let Some(occasion): Option<Occasion> = occasion else { break };
                let group = occasion.group.clone();
                if let Err(refused) = desk.offer(occasion, clock::now()) {
                    log::warn!("hook for {group}: not run, as {}", refused.why());
                }
            }
            Some(ended) = running.join_next() => match ended {
                Ok(group) => desk.finished(&group),
                Err(error) => log::error!("running a hook failed: {error}; report this"),
            },
        }
    }
    if let Ok(Err(error)) = reading.await {
        log::error!("reading requests for hooks failed: {error}; report this");
    }
    // They listen until they end.
    let _nobody: Result<(), watch::error::SendError<bool>> = stop.send(true);
    let all = async { while running.join_next().await.is_some() {} };
    // What does not end now is killed already.
    let _late: Result<(), time::error::Elapsed> = time::timeout(LAST, all).await;
    Ok(())
}

/// Hands every request on, until the agent ends.
async fn read_all(mut from: Receiver, to: mpsc::Sender<Occasion>) -> io::Result<()> {
    loop {
        let mut first = [0; 4];
        match from.read_exact(&mut first).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let mut body = vec![0; Occasion::length(first)?];
        match from.read_exact(&mut body).await {
            // It has ended in the midst of it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        if to.send(Occasion::of_body(&body)?).await.is_err() {
            return Ok(());
        }
    }
}

/// Leaves the agent's terminal, whose signals are for the agent, and takes a name by which it is known.
fn detach() {
    // SAFETY: takes nothing; it fails only for one that leads a group already, which then has its own.
    let _leader: libc::pid_t = unsafe { libc::setsid() };
    let name = c"closewait-hooks";
    // SAFETY: the name ends in a zero, and is 16 bytes long with it, as many as are read.
    let _never: libc::c_int = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}
