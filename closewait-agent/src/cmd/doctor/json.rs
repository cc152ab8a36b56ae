//! JSON of `closewait doctor`.

use std::io::{self, Write};

use serde::Serialize;

use super::{Check, DoctorReport};
#[cfg(test)]
use crate::sink::document::*;

/// Check of one facility.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct CheckLine<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    #[serde(flatten)]
    check: &'a Check,
}

/// Consequence of all checks for `closewait run`, as the last line.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct SummaryLine<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Result of all checks.
    #[cfg_attr(test, schemars(with = "DoctorResultName"))]
    summary: &'static str,
    /// Exit code of `closewait doctor`: 0 if `closewait run` can work, else the one that it would end with.
    exit_code: u8,
    /// Hook of `closewait run`; `null` if it would refuse to start.
    #[cfg_attr(test, schemars(with = "Option<HookName>"))]
    hook: Option<&'static str>,
    /// Reason why `closewait run` would refuse to start, as text for people; otherwise `null`.
    message: Option<String>,
    /// Features that would be degraded.
    degraded: Vec<DegradedLine<'a>>,
}

/// Feature that would be degraded.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "DegradedFeature"))]
struct DegradedLine<'a> {
    /// Name of the feature.
    what: &'a str,
    /// Reason.
    why: &'a str,
    /// Action for the user; `null` if there is none.
    fix: Option<&'a str>,
}

/// Writes one object per check, and the summary.
///
/// # Errors
///
/// If `out` cannot be written to.
pub(super) fn write(report: &DoctorReport, out: &mut impl Write) -> io::Result<()> {
    const SCHEMA_VERSION: u32 = 1;
    for check in &report.checks {
        serde_json::to_writer(&mut *out, &CheckLine { schema_version: SCHEMA_VERSION, check })?;
        writeln!(out)?;
    }
    let plan = report.outcome.as_ref().ok();
    let degraded: Vec<_> = plan
        .into_iter()
        .flat_map(|plan| &plan.degraded)
        .map(|one| DegradedLine { what: one.what, why: &one.why, fix: one.fix.as_deref() })
        .collect();
    let summary = match plan {
        Some(_) if degraded.is_empty() => "ok",
        Some(_) => "degraded",
        None => "refused",
    };
    let line = SummaryLine {
        schema_version: SCHEMA_VERSION,
        summary,
        exit_code: report.exit_code(),
        hook: plan.map(|plan| plan.hook.as_str()),
        message: report.outcome.as_ref().err().map(ToString::to_string),
        degraded,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)?;
    out.flush()
}
