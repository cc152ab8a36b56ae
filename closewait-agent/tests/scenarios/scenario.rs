//! What a scenario is, and what is expected of the agent.

use std::ops::RangeInclusive;

use serde_json::Value;

/// Certainties of a statement that has to be firm.
pub(crate) const FIRM: &[&str] = &["fact", "high"];
/// Certainties of a good guess.
pub(crate) const LIKELY: &[&str] = &["high", "medium"];
/// Certainties of a statement that has to be careful.
pub(crate) const CAREFUL: &[&str] = &["medium", "low"];
/// For what may be said as surely or as carefully as one likes.
pub(crate) const ANY: &[&str] = &["fact", "high", "medium", "low"];

/// A program in a situation.
pub(crate) struct Scenario {
    /// Short, for the names of files.
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    /// Whether nothing is wrong: then no verdict may blame the program (`tests_support::blame`).
    pub(crate) healthy: bool,
    pub(crate) until: Until,
    /// Its sockets, by what is to be said of them.
    pub(crate) parts: &'static [Part],
}

/// How long the agent watches after the last client has done its part.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// Every socket has been reported as stuck at this age, in multiples of the threshold.
    Stuck(u32),
    /// No socket is left.
    Left,
}

/// Sockets of which the same is to be said.
pub(crate) struct Part {
    pub(crate) situation: &'static str,
    /// Which of the scenario's sockets, by the object `socket` of the last event.
    pub(crate) of: fn(&Value) -> bool,
    pub(crate) count: RangeInclusive<usize>,
    /// `unread_bytes` of each while it is stuck: that the program has made what it was to make.
    pub(crate) unread: RangeInclusive<u64>,
    /// Any of these classes; none if all will do.
    pub(crate) expected: &'static [&'static str],
    pub(crate) certainties: &'static [&'static str],
    /// A text that the verdict has to contain.
    pub(crate) mentions: Option<&'static str>,
    pub(crate) owner: Owner,
    /// How each has left, and whether its descriptor is still open.
    pub(crate) leave: Option<(&'static str, bool)>,
}

/// Who holds a socket.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    /// One process of this name.
    One(&'static str),
    /// Two processes of this name.
    Two(&'static str),
    Nobody,
    /// It changes in the course of the scenario.
    Changing,
}

impl Part {
    /// What is expected where a part says nothing else.
    pub(crate) const DEFAULT: Self = Self {
        situation: "",
        of: |_socket| true,
        count: 12..=12,
        unread: 1..=1,
        expected: &[],
        certainties: LIKELY,
        mentions: None,
        owner: Owner::One("python3"),
        leave: None,
    };
}

/// For [`Part::of`]: some program has accepted it.
pub(crate) fn accepted(socket: &Value) -> bool {
    socket["accepted"] == true
}

/// For [`Part::of`]: it waits in the backlog.
pub(crate) fn queued(socket: &Value) -> bool {
    socket["accepted"] == false
}
