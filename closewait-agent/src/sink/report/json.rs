//! JSON object of `closewait report`.

use std::io;

use serde::Serialize;

use crate::sink::schema::{self, PileupObject, SCHEMA_VERSION, TotalsObject};
use closewait_engine::{
    model::{IncidentReport, ReportedGroup},
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

/// Writes the object.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub(super) fn write(
    report: &IncidentReport,
    version: &str,
    time: &impl Fn(BootTime) -> String,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    let groups = report.groups.iter().map(|ReportedGroup { piles_up_since, stuck, pileup, .. }| ReportedObject {
        stuck: *stuck,
        piles_up_since: piles_up_since.map(time),
        pileup: PileupObject::new(pileup, report.at, time),
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
    Ok(())
}
