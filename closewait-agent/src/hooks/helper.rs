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
    HookEvent, HookPrograms,
    queue::{HookQueue, NextEvent},
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
    let (hand_on, mut events) = mpsc::channel(1);
    let reading = tokio::spawn(read_all(requests, hand_on));
    let programs = Arc::new(programs);
    let (stop, stopping) = watch::channel(false);
    let (mut queue, mut running) = (HookQueue::new(timeout), JoinSet::new());
    loop {
        while let Some(next) = queue.next(clock::now()) {
            let event = match next {
                NextEvent::Run(event) => event,
                NextEvent::Stale(group) => {
                    log::warn!("hook for {group}: not run, as it has waited too long for others to end");
                    continue;
                }
            };
            let (programs, stopping) = (Arc::clone(&programs), stopping.clone());
            running.spawn(async move {
                if let Some(program) = programs.of(event.group.kind) {
                    attend(program, &event, timeout, stopping).await;
                }
                event.group
            });
        }
        tokio::select! {
            event = events.recv() => {
                let Some(event): Option<HookEvent> = event else { break };
                let group = event.group.clone();
                if let Err(refused) = queue.offer(event, clock::now()) {
                    log::warn!("hook for {group}: not run, as {}", refused.why());
                }
            }
            Some(ended) = running.join_next() => match ended {
                Ok(group) => queue.finished(&group),
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
async fn read_all(mut from: Receiver, to: mpsc::Sender<HookEvent>) -> io::Result<()> {
    loop {
        let mut first = [0; 4];
        match from.read_exact(&mut first).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let mut body = vec![0; HookEvent::length(first)?];
        match from.read_exact(&mut body).await {
            // It has ended in the midst of it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        if to.send(HookEvent::of_body(&body)?).await.is_err() {
            return Ok(());
        }
    }
}

/// Leaves the agent's terminal, whose signals are for the agent, and takes a name by which it is known.
fn detach() {
    // It fails only for one that leads a group already, which then has its own.
    let _leader = rustix::process::setsid();
    let _never = rustix::thread::set_name(c"closewait-hooks");
}
