//! What the engine knows, takes in and gives out. Every other part of the agent speaks in these types.

mod finding;
mod observation;
mod pileup;
mod socket;
mod stay;
mod verdict;

pub use self::{
    finding::{Counters, Finding, InspectionRequest, Output, PeerQuestion, QueryCommand, QueryId, Scope, Totals},
    observation::{
        InspectionEnd, InspectionFact, Observation, PeerEnd, PortCloses, QueryEvent, RefreshEnd, RefreshFact, ScanEnd,
        ScanFact, SocketEvent, WatchedPort,
    },
    pileup::{
        Evidence, Forecast, IncidentReport, Limit, Moment, Oldest, Onset, Pileup, PileupEnd, PileupGroup, Recovery,
        ReportedGroup, Shape, Slope,
    },
    socket::{
        Connection, Endpoint, KeySecret, Listener, Opener, Owner, Protocol, ProxyPeer, ReadState, Role, Socket,
        SocketKey, SocketLocation, Task, Timer, TimerKind,
    },
    stay::{Dwell, Exit, How, Since},
    verdict::{Certainty, Class, RuleName, Verdict},
};
