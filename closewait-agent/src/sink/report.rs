//! Text and JSON of `closewait report`, for a ticket.

use std::io;

use serde::Serialize;

use super::{
    Form,
    list::{missing, none},
    schema::{self, PileupObject, SCHEMA_VERSION, TotalsObject},
    text::pileup,
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{IncidentReport, ReportedGroup},
    text::duration,
    time::BootTime,
};

/// Whole report, in one object.
#[derive(Serialize)]
struct ReportObject<'a> {
    schema_version: u32,
    time: String,
    closewait: &'a str,
    watched_seconds: Option<f64>,
    stuck_after_seconds: f64,
    totals: TotalsObject,
    untracked: u64,
    unseen: Option<&'a str>,
    groups: Vec<ReportedObject<'a>>,
    more_groups: u64,
}

#[derive(Serialize)]
struct ReportedObject<'a> {
    piles_up_since: Option<String>,
    stuck: u64,
    #[serde(flatten)]
    pileup: PileupObject<'a>,
}

/// Writes a report that closewait of this `version` has made.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn render(
    report: &IncidentReport,
    version: &str,
    form: Form,
    anchor: TimeAnchor,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    let time = |at: BootTime| schema::time(anchor.wall(at));
    match form {
        Form::Text => to.extend_from_slice(text(report, version, &time).as_bytes()),
        Form::Json => {
            let groups =
                report.groups.iter().map(|ReportedGroup { piles_up_since, stuck, pileup, .. }| ReportedObject {
                    stuck: *stuck,
                    piles_up_since: piles_up_since.map(time),
                    pileup: PileupObject::new(pileup, report.at, &time),
                });
            let object = ReportObject {
                schema_version: SCHEMA_VERSION,
                time: time(report.at),
                closewait: version,
                watched_seconds: report.watched.map(schema::seconds),
                stuck_after_seconds: schema::seconds(report.stuck_after),
                totals: report.totals.into(),
                untracked: report.untracked,
                unseen: report.unseen.as_deref(),
                groups: groups.collect(),
                more_groups: report.more,
            };
            serde_json::to_writer(&mut *to, &object)?;
            to.push(b'\n');
        }
    }
    Ok(())
}

fn text(report: &IncidentReport, version: &str, time: &impl Fn(BootTime) -> String) -> String {
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
