//! Human-readable text of groups that grow without closing.

use std::{fmt::Write as _, path::Path};

use super::{dwell, owner_list};
use crate::sink::command::with_socket;
use closewait_engine::{
    model::{Forecast, Limit, Pileup, PileupEnd, Task},
    stacks::ConnectStacks,
    text::{bounds, duration, rate},
    time::BootTime,
};

/// Divisor of a slope: a larger error than this part of it is shown.
const ERROR_DIVISOR: f64 = 4.0;

/// Formats the group, its growth and the forecast.
pub(in crate::sink) fn line(pileup: &Pileup, at: BootTime) -> String {
    let Pileup { group, count, owners, shape, slope, stuck_permille, onset, forecast, verdict, .. } = pileup;
    let mut line = format!("{count} {} {group}", pileup.count_words("in CLOSE_WAIT"));
    if let Some([(Task { pid, comm }, _), others @ ..]) = owners.as_deref() {
        push(&mut line, format_args!(", {comm}[{pid}]"));
        if !others.is_empty() {
            push(&mut line, format_args!(" and {} more", others.len()));
        }
    }
    if let Some((slope, shape)) = slope.zip(*shape) {
        let sign = if slope.per_second > 0.0 { "+" } else { "" };
        push(&mut line, format_args!("; {sign}{}", rate(slope.per_second)));
        if slope.error > slope.per_second.abs() / ERROR_DIVISOR {
            push(&mut line, format_args!(" (±{})", rate(slope.error)));
        }
        push(&mut line, format_args!(", {}", shape.name()));
    }
    if let Some(share) = stuck_permille {
        push(&mut line, format_args!("; {} % stay", share / 10));
    }
    push(&mut line, format_args!("; the oldest for {}", duration(at.since(onset.first_stuck))));
    match onset.last_closed {
        Some(closed) => push(&mut line, format_args!(", the last was closed {} ago", duration(at.since(closed)))),
        None => line.push_str(", none was seen to be closed"),
    }
    if let Some(forecast) = forecast {
        push(&mut line, format_args!("; {}", ending(forecast)));
    }
    push(&mut line, format_args!("; {}, {}", verdict.class.name(), verdict.certainty.name()));
    line
}

fn ending(forecast: &Forecast) -> String {
    let Forecast { limit, used, most, read_at: _, left, at_least, at_most } = forecast;
    let what = match limit {
        Limit::Descriptors => "descriptors exhausted",
        Limit::Backlog => "backlog exhausted",
        Limit::Connections => "connection limit reached",
    };
    let (left, range) = (duration(*left), bounds(*at_least, *at_most));
    let range = if range == left { String::new() } else { format!("{range}; ") };
    format!("{what} in {left} ({range}{used} of {most} used)")
}

/// Formats a command for a line of its own, from which it can be copied. It asks the agent with this control socket.
pub(in crate::sink) fn command(command: &str, socket: Option<&Path>) -> String {
    format!("    {}", with_socket(command, socket))
}

/// Formats the evidence, one line each. A suggested command asks the agent with this control socket.
pub(in crate::sink) fn evidence(pileup: &Pileup, at: BootTime, socket: Option<&Path>) -> Vec<String> {
    let Pileup { owners, verdict, evidence, onset, .. } = pileup;
    let mut lines = vec![format!("why: {}", verdict.text), format!("next: {}", verdict.next.text)];
    lines.extend(verdict.next.command.as_deref().map(|next| command(next, socket)));
    if let Some(owners) = owners.as_deref().filter(|owners| owners.len() > 1) {
        let each: Vec<_> = owners.iter().map(|(task, count)| format!("{}[{}] {count}", task.comm, task.pid)).collect();
        lines.push(format!("owners: {}", each.join(", ")));
    }
    for oldest in &evidence.oldest {
        lines.push(format!(
            "oldest: {} for {}{}",
            oldest.remote,
            dwell(oldest.dwell),
            owner_list(oldest.owners.as_deref())
        ));
    }
    lines.extend(evidence.unread.as_ref().map(|unread| format!("unread: {}", unread.text())));
    lines.extend(evidence.connects.as_ref().and_then(ConnectStacks::text).map(|text| format!("opened in {text}")));
    let remotes: Vec<_> = evidence.top_remotes.iter().map(|(address, count)| format!("{address} {count}")).collect();
    lines.push(format!(
        "ages: p50 {}, p90 {}; {} remote address{}: {}",
        duration(evidence.median),
        duration(evidence.p90),
        evidence.remotes,
        if evidence.remotes == 1 { "" } else { "es" },
        remotes.join(", "),
    ));
    if let Some(process) = &evidence.process {
        let (pid, comm) = (process.pid, &process.comm);
        if let Some(activity) = evidence.activity(at) {
            lines.push(format!("{comm}[{pid}]: {activity}"));
        }
        if let Some((open, limit)) = process.descriptors() {
            lines.push(format!("{comm}[{pid}]: {open} of {limit} descriptors are open"));
        }
    }
    if let Some((backlog, most)) = evidence.backlog.filter(|(backlog, _)| *backlog > 0) {
        let first = onset.unaccepted_since.map(|since| format!(", the first for {}", duration(at.since(since))));
        lines.push(format!("backlog: {backlog} of {most} wait to be accepted{}", first.unwrap_or_default()));
    }
    if let Some(proxy_peer) = &evidence.proxy_peer {
        lines.push(format!("waits for: {}", proxy_peer.socket.remote));
    }
    lines
}

/// Formats the end of an incident.
pub(in crate::sink) fn end(end: &PileupEnd, at: BootTime) -> String {
    let PileupEnd { group, began, count, most, how, .. } = end;
    format!("{group}, {count} of {most} are left; it lasted {}, {}", duration(at.since(*began)), how.words())
}

fn push(to: &mut String, what: std::fmt::Arguments<'_>) {
    let _infallible: std::fmt::Result = to.write_fmt(what);
}
