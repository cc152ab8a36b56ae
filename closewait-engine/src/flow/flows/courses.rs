//! Courses of the open incidents of flows.

use super::Flows;
use crate::{
    flow::group_key::FlowKey,
    flow::growth::{Aged, CourseLog, Growth, Point},
    model::IncidentCourse,
    time::BootTime,
};

/// Maximum number of open incidents with a log, at about 14 KB each. A report shows fewer groups.
const MAX_LOGS: usize = 256;

impl Flows {
    /// Whether another incident may have a log.
    pub(super) fn may_log(&self) -> bool {
        self.growths().filter(|(_, growth)| growth.log().is_some()).count() < MAX_LOGS
    }

    /// Logs the open descriptors of the owners of open incidents; `read` returns them with the time of the inspection.
    pub(crate) fn log_descriptors(&mut self, read: impl Fn(u32) -> Option<(BootTime, u64)>) {
        let growths = self.flows.values_mut().filter_map(|stats| stats.growth.as_deref_mut());
        for log in growths.filter_map(Growth::log_mut) {
            if let Some((at, open)) = log.owner().and_then(&read) {
                log.descriptors(at, open);
            }
        }
    }

    /// Returns the course of a flow's open incident; with the time and the numbers of sockets and of stuck sockets `now`, until
    /// that time.
    pub(crate) fn course(&self, key: FlowKey, now: Option<(BootTime, u64, u64)>) -> Option<IncidentCourse> {
        let stats = self.flows.get(&key)?;
        let growth = stats.growth.as_deref()?;
        let now = now.map(|(at, present, stuck)| Point {
            at,
            present,
            stuck: Aged { present: stuck, left: stats.stuck_left },
            entered: stats.entered,
            left: stats.closed + stats.lost,
            ..stats.latest
        });
        Some(CourseLog::course(growth.log()?, growth.incident()?.id, now.as_ref()))
    }
}
