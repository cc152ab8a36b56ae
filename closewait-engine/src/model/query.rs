//! Inputs of the engine about queries.

use serde::{Deserialize, Serialize};

use super::QueryId;
use crate::time::BootTime;

/// Start of a query, or end of one of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryEvent {
    /// A user sent a query.
    Asked {
        /// The query.
        query: QueryId,
        /// Time at which the user sent the query.
        at: BootTime,
        /// Whether a process of [`crate::Engine::owner_pids`] has ended.
        owner_ended: bool,
        /// Facts that the answer needs.
        #[serde(default)]
        needs: AnswerNeeds,
    },
    /// The scan for [`super::QueryCommand::ScanAll`] ended.
    ScannedAll {
        /// The query.
        query: QueryId,
    },
    /// The refresh for [`super::QueryCommand::Refresh`] ended.
    Refreshed {
        /// The query.
        query: QueryId,
    },
    /// The inspection for [`super::QueryCommand::Inspect`] ended.
    Inspected {
        /// The query.
        query: QueryId,
    },
}

/// Facts that an answer needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerNeeds {
    /// Facts about all sockets and their owners, as all queries of older recordings.
    #[default]
    Everything,
    /// Facts about all sockets, and the owners of those that have been in CLOSE_WAIT for a second or longer.
    LastingOwners,
    /// Only the number of sockets: no socket matches the filter.
    Counts,
}
