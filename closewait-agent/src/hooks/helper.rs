//! Helper process that receives requests from an agent and runs the programs.

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
    running::{GRACE_PERIOD, attend},
};
use crate::{clock, host::helper::detach};

/// Maximum time for programs to end with the agent. The helper does not wait for one that the kernel cannot kill.
const STOP_PATIENCE: Duration = GRACE_PERIOD.saturating_add(Duration::from_secs(1));

/// Runs `programs` for the events in `requests`, each no longer than `timeout`, until `requests` ends. Then ends all
/// running programs.
///
/// # Errors
///
/// If signals cannot be caught.
pub async fn serve(requests: Receiver, programs: HookPrograms, timeout: Duration) -> anyhow::Result<()> {
    detach(c"closewait-hooks");
    // A user who ends the agent may signal all of its processes. The helper notices the agent's end by the pipe.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        // The handler stays installed.
        let _unread: Signal =
            signal(kind).context("sigaction failed\nhint: report this with the output of `closewait doctor`")?;
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
                Err(error) => log::error!("running a hook failed: {error}\nhint: report this with the output of `closewait doctor`"),
            },
        }
    }
    if let Ok(Err(error)) = reading.await {
        log::error!(
            "reading requests for hooks failed: {error}\nhint: report this with the output of `closewait doctor`"
        );
    }
    // The programs' tasks listen until they end.
    let _nobody: Result<(), watch::error::SendError<bool>> = stop.send(true);
    let all = async { while running.join_next().await.is_some() {} };
    // A program that has not ended by now was already killed.
    let _late: Result<(), time::error::Elapsed> = time::timeout(STOP_PATIENCE, all).await;
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
            // The agent has ended in the middle of a request.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        if to.send(HookEvent::of_body(&body)?).await.is_err() {
            return Ok(());
        }
    }
}
