//! Text of `closewait report`, for a ticket.

use crate::sink::{
    list::{missing, none},
    text::pileup,
};
use closewait_engine::{
    model::{IncidentReport, ReportedGroup},
    text::duration,
    time::BootTime,
};

pub(super) fn text(report: &IncidentReport, version: &str, time: &impl Fn(BootTime) -> String) -> String {
    let IncidentReport { at, watched, stuck_after, totals, untracked, unseen, groups, more, .. } = report;
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("closewait {version} report of {}", short(time(*at))));
    line(match watched {
        Some(watched) => format!(
            "watched for {}; {} entered CLOSE_WAIT, {} left, {} are there; stuck is what is older than {}",
            duration(*watched),
            totals.entered,
            totals.left,
            totals.tracked,
            duration(*stuck_after)
        ),
        None => format!("a single look: {} are in CLOSE_WAIT; nothing is known of what came and went", totals.tracked),
    });
    if groups.is_empty() {
        line(none(*untracked, unseen.as_deref()).to_owned());
    }
    for (number, ReportedGroup { piles_up_since, pileup: group, .. }) in (1..).zip(groups) {
        line(String::new());
        line(format!("{number}. {}", pileup::line(group, *at)));
        if let Some(since) = piles_up_since {
            line(format!("   PILES UP, found {} ago", duration(at.since(*since))));
        }
        line(format!("   since: {} at the latest", short(time(group.onset.first_stuck))));
        for evidence in pileup::evidence(group, *at) {
            line(format!("   {evidence}"));
        }
        let history = pileup::history(group, *at);
        if !history.is_empty() {
            line(format!("   history (seconds ago: there, +entered -left): {history}"));
        }
    }
    if *more > 0 {
        line(String::new());
        line(format!("and {more} more groups, which are less urgent"));
    }
    for missing in missing(*untracked, unseen.as_deref()) {
        line(String::new());
        line(missing);
    }
    text
}

/// Cuts a time to the second.
fn short(time: String) -> String {
    format!("{}Z", time.get(..19).unwrap_or(&time))
}
