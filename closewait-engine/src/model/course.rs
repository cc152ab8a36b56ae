//! Course of an incident over time.

use serde::{Deserialize, Serialize};

use super::{AgeCounts, IncidentId, Limit, PileupEnd, Recovery};
use crate::time::BootTime;

/// Course of an incident: its milestones, the first forecast, and counts over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentCourse {
    /// Identifier of the incident.
    pub id: IncidentId,
    /// Known milestones in order of time.
    pub milestones: Vec<Milestone>,
    /// First forecast of the incident; `None` if there was none.
    pub forecast: Option<FirstForecast>,
    /// Counts from before the incident until now, oldest first; fewer for each second the longer the incident lasts. Counts from
    /// before the first count of the agent contain only sockets that remained until then.
    pub points: Vec<CoursePoint>,
}

/// Event in the course of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// Time of the event.
    pub at: BootTime,
    /// Event.
    pub kind: MilestoneKind,
    /// Number of sockets in CLOSE_WAIT at that time; `None` if unknown.
    pub count: Option<u64>,
    /// Used amount of a limit and its maximum at that time; `None` if unknown.
    pub used: Option<(Limit, u64, u64)>,
}

/// Kind of a [`Milestone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MilestoneKind {
    /// Last exit from CLOSE_WAIT that the program caused before the incident.
    LastClosed,
    /// Entry of the first socket that remained.
    FirstStuck,
    /// Entry of the first socket that no program has accepted.
    FirstUnaccepted,
    /// First report of the incident.
    Detected,
    /// Report of twice as many sockets as at detection, or at the last report of this kind.
    Doubled,
    /// First report of a limit that will be reached soon.
    LimitNear(Limit),
    /// First report of a limit that is reached.
    LimitReached(Limit),
    /// End of the incident.
    Resolved(Recovery),
}

impl MilestoneKind {
    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastClosed => "last_closed",
            Self::FirstStuck => "first_stuck",
            Self::FirstUnaccepted => "first_unaccepted",
            Self::Detected => "detected",
            Self::Doubled => "doubled",
            Self::LimitNear(_) => "limit_near",
            Self::LimitReached(_) => "limit_reached",
            Self::Resolved(_) => "resolved",
        }
    }
}

/// First forecast of an incident, to compare with what came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstForecast {
    /// Time of the forecast.
    pub made_at: BootTime,
    /// Limit that the forecast is for.
    pub limit: Limit,
    /// Used amount at `made_at`.
    pub used: u64,
    /// Maximum amount.
    pub most: u64,
    /// Forecast time of exhaustion.
    pub exhausted_at: BootTime,
    /// Earliest time of exhaustion that the counts allowed.
    pub earliest: BootTime,
    /// Latest time of exhaustion that the counts allowed; `None` if they also allowed no growth.
    pub latest: Option<BootTime>,
}

/// Counts of a group at one time, with those of its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoursePoint {
    /// Time of the count.
    pub at: BootTime,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Number of stuck sockets among them.
    pub stuck: u64,
    /// Number of entries since the previous point; 0 at the first.
    pub entered: u64,
    /// Number of exits since the previous point; 0 at the first.
    pub left: u64,
    /// Open descriptors of the owner; `None` if no inspection has read them since the previous point.
    pub descriptors: Option<u64>,
    /// Number of sockets by minimum age. At times before the incident was detected it contains only the sockets that were present
    /// at the detection; `None` at a time without a count by age.
    pub ages: Option<AgeCounts>,
}

/// Incident that has ended, with its course.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedIncident {
    /// Time of the end.
    pub at: BootTime,
    /// Report of the end.
    pub end: PileupEnd,
    /// Course of the incident.
    pub course: IncidentCourse,
}
