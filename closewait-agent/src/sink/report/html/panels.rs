//! Panels on the evidence of a group: ages, read states, threads, oldest sockets.

use maud::{Markup, html};

use super::{
    super::content::read_text,
    words::{self, foreign},
};
use crate::sink::{
    stacks::{owner_clause, pinned_line},
    text::{dwell, owner_list},
};
use closewait_engine::{
    model::{AGE_BOUNDS, Dwell, Evidence, Pileup, ReadState},
    process::{Process, ThreadGroup, ThreadState},
    stacks::ProcessStacks,
    text::{Comm, count, duration},
    time::BootTime,
};

/// Heights of the bars of the ages, with the number above the highest and the labels below, pixels.
const AGES_HEIGHT: f64 = 112.0;
const AGES_ABOVE: f64 = 16.0;
const AGES_BELOW: f64 = 18.0;
/// Minimum number of places for bars of ages.
const MIN_COLUMNS: usize = 7;
/// Share of its place that a bar takes.
const BAR_SHARE: f64 = 0.86;
/// Maximum number of places of threads.
const MAX_PLACES: usize = 8;
/// Maximum number of groups of stacks, and of frames of each.
const MAX_STACKS: usize = 5;
const MAX_FRAMES: usize = 24;
/// Read states in the order of the bar: from the unread requests to those that are read.
const READ_ORDER: [ReadState; 6] = [
    ReadState::NeverRead,
    ReadState::Partial,
    ReadState::Goodbye,
    ReadState::IdleFin,
    ReadState::Probe,
    ReadState::FinConsumed,
];

/// Returns all panels of a group at `now`. `prefix` makes the element identifiers unique.
pub(super) fn panels(pileup: &Pileup, now: BootTime, prefix: &str) -> Markup {
    let evidence = &pileup.evidence;
    html! {
        div.panels {
            (ages(evidence, prefix))
            (reads(pileup, prefix))
            @if let Some(process) = evidence.process.as_deref().filter(|process| !process.groups.is_empty()) {
                (threads(process, evidence, now))
            }
        }
        @if let Some(stacks) = evidence.stacks.as_deref() { (stack_groups(stacks, now)) }
        (oldest(evidence))
    }
}

/// Returns the histogram of ages; its axis is logarithmic.
fn ages(evidence: &Evidence, prefix: &str) -> Markup {
    let counts = &evidence.ages;
    let used = |at: &usize| counts.get(*at).is_some_and(|count| *count > 0);
    let (Some(first), Some(last)) = ((0..counts.len()).find(used), (0..counts.len()).rev().find(used)) else {
        return html! {};
    };
    // A bar alone would not show whether it is the only one.
    let end = (last + 2).max(MIN_COLUMNS).min(counts.len());
    let shown = first.saturating_sub(1).min(end - MIN_COLUMNS)..end;
    let highest = counts.iter().copied().max().unwrap_or(1).max(1);
    let place = 100.0 / shown.len() as f64;
    let bars: Vec<_> = shown
        .enumerate()
        .map(|(column, bucket)| {
            let number = counts.get(bucket).copied().unwrap_or(0);
            let height = f64::from(number) / f64::from(highest) * AGES_HEIGHT;
            // A single socket must be seen.
            let height = if number > 0 { height.max(2.0) } else { 0.0 };
            (column as f64 * place, bucket, number, height)
        })
        .collect();
    let base = AGES_ABOVE + AGES_HEIGHT;
    let (title, desc) = (format!("{prefix}-at"), format!("{prefix}-ad"));
    let text: Vec<_> = bars.iter().map(|(_, bucket, number, _)| format!("{}: {number}", range(*bucket))).collect();
    html! {
        figure {
            figcaption { "Ages of the sockets" }
            p { (summary(evidence)) }
            svg role="img" width="100%" height=(base + AGES_BELOW) aria-labelledby={ (title) " " (desc) } {
                title id=(title) { "Number of sockets by age" }
                desc id=(desc) { (text.join("; ")) }
                @for (x, bucket, number, height) in &bars {
                    @let middle = format!("{:.2}%", x + place / 2.0);
                    rect.bar x=(format!("{:.2}%", x + place * (1.0 - BAR_SHARE) / 2.0))
                        width=(format!("{:.2}%", place * BAR_SHARE)) y=(format!("{:.0}", base - height))
                        height=(format!("{height:.0}")) {}
                    @if *number > 0 {
                        text.value x=(middle) y=(format!("{:.0}", base - height - 4.0)) text-anchor="middle" { (number) }
                    }
                    text.tick x=(middle) y=(base + 14.0) text-anchor="middle" { (short_range(*bucket)) }
                }
                line.zero x1="0" x2="100%" y1=(base) y2=(base) {}
            }
            p.note { "Each bar counts the sockets from its age up to the age of the next bar." }
        }
    }
}

fn summary(evidence: &Evidence) -> String {
    let oldest = match evidence.oldest.first().map(|oldest| oldest.dwell) {
        Some(Dwell::Exact(age)) => format!(", oldest {}", duration(age)),
        Some(Dwell::Between { at_least, .. }) => format!(", oldest at least {}", duration(at_least)),
        None => String::new(),
    };
    format!("Median {}, p90 {}{oldest}.", duration(evidence.median), duration(evidence.p90))
}

/// Returns the lower bound of an age bucket.
pub(super) fn short_range(bucket: usize) -> String {
    bucket
        .checked_sub(1)
        .and_then(|before| AGE_BOUNDS.get(before))
        .map_or_else(|| "0".to_owned(), |from| duration(*from))
}

pub(super) fn range(bucket: usize) -> String {
    match AGE_BOUNDS.get(bucket) {
        Some(to) => format!("{} to {}", short_range(bucket), duration(*to)),
        None => format!("{} or older", short_range(bucket)),
    }
}

/// Returns the bar of read states, with its legend and conclusion.
fn reads(pileup: &Pileup, prefix: &str) -> Markup {
    let number = |state: ReadState| {
        pileup.evidence.reads.iter().filter(|(of, _)| *of == state).map(|(_, count)| u64::from(*count)).sum::<u64>()
    };
    let known: Vec<_> =
        READ_ORDER.map(|state| (state, number(state))).into_iter().filter(|(_, count)| *count > 0).collect();
    let sum: u64 = known.iter().map(|(_, count)| count).sum();
    let Some((most, _)) = known.iter().copied().max_by_key(|(_, count)| *count) else { return html! {} };
    let unknown = pileup.count.saturating_sub(sum);
    let all = (sum + unknown) as f64;
    let mut parts: Vec<(&str, String, u64)> =
        known.iter().map(|(state, count)| (read_text(*state), format!("read-{}", position(*state)), *count)).collect();
    if unknown > 0 {
        parts.push(("unknown", "read-unknown".to_owned(), unknown));
    }
    let text: Vec<_> = parts.iter().map(|(name, _, count)| format!("{name}: {count}")).collect();
    let (title, desc) = (format!("{prefix}-rt"), format!("{prefix}-rd"));
    let mut x = 0.0;
    let mut next = |count: u64| {
        let (from, width) = (x, count as f64 / all * 100.0);
        x += width;
        (format!("{from:.2}%"), format!("{width:.2}%"))
    };
    html! {
        figure {
            figcaption { "Read by the program" }
            p { (if unknown > sum { words::READ_UNKNOWN } else { words::read_meaning(most) }) }
            svg role="img" width="100%" height="28" aria-labelledby={ (title) " " (desc) } {
                title id=(title) { "Number of sockets by what the program has read" }
                desc id=(desc) { (text.join("; ")) }
                @for (_, class, count) in &parts {
                    @let (x, width) = next(*count);
                    rect.part.(class) x=(x) width=(width) y="0" height="28" {}
                }
            }
            ul.legend {
                @for (name, class, count) in &parts {
                    li {
                        svg.swatch width="14" height="14" aria-hidden="true" { rect.(class) width="14" height="14" {} }
                        (name) " " b { (count) }
                    }
                }
            }
        }
    }
}

fn position(state: ReadState) -> usize {
    READ_ORDER.iter().position(|one| *one == state).unwrap_or(0) + 1
}

/// Returns the places in which threads wait, as bars.
fn threads(process: &Process, evidence: &Evidence, now: BootTime) -> Markup {
    let all: u32 = process.groups.iter().map(|group| group.count).sum();
    let rest: u32 = process.groups.iter().skip(MAX_PLACES).map(|group| group.count).sum();
    html! {
        figure {
            figcaption { "Threads of " (foreign(&format!("{}[{}]", process.comm, process.pid))) }
            @if let Some(activity) = evidence.activity(now) { p { (foreign(&activity)) } }
            table.bars {
                thead { tr { th scope="col" { "Place" } th.amount scope="col" { "Threads" } th.graph scope="col" { "Share" } } }
                tbody {
                    @for group in process.groups.iter().take(MAX_PLACES) {
                        tr {
                            td {
                                (foreign(&place(group)))
                                span.note { (foreign(&names(group))) }
                            }
                            td.amount { (group.count) }
                            td.graph {
                                svg width="100%" height="12" aria-hidden="true" {
                                    rect.bar height="12" width=(format!("{:.1}%", f64::from(group.count) / f64::from(all.max(1)) * 100.0)) {}
                                }
                            }
                        }
                    }
                }
            }
            @if rest > 0 { p.note { (count(rest, "more thread")) " in other places." } }
            @if let Some(more) = process.threads.and_then(|threads| threads.checked_sub(all)).filter(|more| *more > 0) {
                p.note { (count(more, "thread")) " not inspected." }
            }
        }
    }
}

/// Returns the stacks of the threads that do something, with the application's own frame in bold.
fn stack_groups(stacks: &ProcessStacks, now: BootTime) -> Markup {
    let groups = || stacks.working_groups().take(MAX_STACKS);
    html! {
        @if groups().next().is_some() {
            figure {
                figcaption { "Stacks of its threads, innermost function first" (stacks.as_of(now)) }
                @if let Some(pinned) = stacks.pinned_carriers() { p { (foreign(&pinned_line(&pinned))) } }
                @for group in groups() {
                    p { (foreign(&(group.headline() + &owner_clause(group.lock_owner.as_ref(), ", ")))) }
                    @if !group.frames.is_empty() { div.scroll { pre {
                        @for (at, frame) in group.frames.iter().take(MAX_FRAMES).enumerate() {
                            @if group.place == Some(at) { b { (foreign(&frame.to_string())) } } @else { (foreign(&frame.to_string())) }
                            "\n"
                        }
                    } } }
                }
            }
        }
    }
}

/// Returns the state and place of threads.
fn place(group: &ThreadGroup) -> String {
    let state = match group.state {
        ThreadState::Running => "runs",
        ThreadState::Sleeping => "waits",
        ThreadState::DiskSleep => "waits uninterruptibly",
        ThreadState::Stopped => "stopped",
        ThreadState::Zombie => "ended",
        ThreadState::Other => "unknown state",
    };
    match group.place() {
        Some(place) => format!("{state} in {place}"),
        None => state.to_owned(),
    }
}

/// Returns the names of threads.
fn names(group: &ThreadGroup) -> String {
    group.comms.iter().map(Comm::as_str).collect::<Vec<_>>().join(", ")
}

/// Returns the table of the oldest sockets.
fn oldest(evidence: &Evidence) -> Markup {
    if evidence.oldest.is_empty() {
        return html! {};
    }
    html! {
        figure { figcaption { "Oldest sockets: they show the cause, and later ones its effect" } div.scroll { table {
            thead { tr {
                th scope="col" { "Peer" } th.amount scope="col" { "Age" } th scope="col" { "Read" }
                th scope="col" { "Owners and descriptors" } th.amount scope="col" { "Cookie" }
            } }
            tbody {
                @for socket in &evidence.oldest {
                    tr {
                        td { code { (socket.remote) } }
                        td.amount { (dwell(socket.dwell)) }
                        td.keep { (socket.read.map_or("unknown", read_text)) }
                        td { (foreign(owner_list(socket.owners.as_deref()).trim_start_matches([' ', ',', ';']))) }
                        td.amount { @if let Some(cookie) = socket.cookie { (cookie) } }
                    }
                }
            }
        } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ages_have_both_bounds() {
        assert_eq!([0, 1, 5].map(range), ["0 to 1s", "1s to 3s", "1m to 3m"]);
        assert_eq!(range(AGE_BOUNDS.len()), "1d or older");
    }
}
