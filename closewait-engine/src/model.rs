//! Types of the engine's inputs, facts and outputs, which all parts of the agent share.

mod course;
mod dwell;
mod exit;
mod finding;
mod incident;
mod observation;
mod passed;
mod pileup;
mod query;
mod socket;
mod summary;
mod unix;
mod verdict;

pub(crate) use self::finding::sparse;
pub use self::{
    course::{CoursePoint, FirstForecast, IncidentCourse, Milestone, MilestoneKind, ResolvedIncident},
    dwell::{Dwell, Since},
    exit::{Exit, ExitCause},
    finding::{
        ConnectQuestion, Counters, Finding, InspectionRequest, Output, PeerQuestion, QueryCommand, QueryId, Scope,
        Totals, UnreadQuestion,
    },
    incident::{Host, IncidentId, IncidentState, IncidentStatus, LastDiagnosis, StuckCounts},
    observation::{
        InspectionEnd, InspectionFact, Observation, PeerEnd, PortCloses, RefreshEnd, RefreshFact, ScanEnd, ScanFact,
        SocketEvent, WatchedPort,
    },
    passed::PassedSockets,
    pileup::{
        AGE_BOUNDS, AgeCounts, Evidence, Forecast, IncidentReport, Limit, Moment, Oldest, Onset, Pileup, PileupEnd,
        PileupGroup, Recovery, ReportedGroup, Shape, Slope, count_age,
    },
    query::{AnswerNeeds, QueryEvent},
    socket::{
        Connection, Endpoint, KeySecret, Listener, Opener, Owner, Protocol, ProxyPeer, ReadState, Role, Socket,
        SocketKey, SocketLocation, Task, Timer, TimerKind,
    },
    summary::MAX_SUMMARY_CHARS,
    unix::{UnixBackend, UnixConnections, UnixListener},
    verdict::{Certainty, Class, RuleName, Verdict},
};
