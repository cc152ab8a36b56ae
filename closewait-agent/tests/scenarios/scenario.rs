//! Scenarios, and the expected output of the agent.

use std::ops::RangeInclusive;

use serde_json::Value;

/// Certainties of a statement that has to be firm.
pub(crate) const FIRM: &[&str] = &["fact", "high"];
/// Certainties of a good guess.
pub(crate) const LIKELY: &[&str] = &["high", "medium"];
/// Certainties of a statement that has to be careful.
pub(crate) const CAREFUL: &[&str] = &["medium", "low"];
/// Certainty of a guess: the facts that decide are not visible from outside, or not yet.
pub(crate) const GUESS: &[&str] = &["low"];
/// Any certainty.
pub(crate) const ANY: &[&str] = &["fact", "high", "medium", "low"];

/// Program in a situation.
pub(crate) struct Scenario {
    /// Short name, for files.
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    /// Whether nothing is wrong with the program: then no verdict may blame it (`tests_support::blame`).
    pub(crate) healthy: bool,
    pub(crate) until: Until,
    /// Sockets of the scenario, by expected output.
    pub(crate) parts: &'static [Part],
}

/// End of the scenario after the last client has done its part.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// Every socket has been reported as stuck at this age, in multiples of the threshold.
    Stuck(u32),
    /// Every socket has been reported as stuck once. That is too early for blame.
    Young,
    /// No socket is left.
    Left,
}

impl Scenario {
    /// Whether a verdict may blame the program.
    pub(crate) fn allows_blame(&self) -> bool {
        !self.healthy && !matches!(self.until, Until::Young)
    }

    /// Whether the sockets are still there when the agent ends.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self.until, Until::Left)
    }
}

/// Sockets of which the same is to be said.
pub(crate) struct Part {
    pub(crate) situation: &'static str,
    /// Selects the part's sockets, by the object `socket` of the last event.
    pub(crate) of: fn(&Value) -> bool,
    pub(crate) count: RangeInclusive<usize>,
    /// `unread_bytes` of each stuck socket, which proves the situation.
    pub(crate) unread: RangeInclusive<u64>,
    /// Any of these classes; any at all if empty.
    pub(crate) expected: &'static [&'static str],
    pub(crate) certainties: &'static [&'static str],
    /// Text that the verdict has to contain.
    pub(crate) mentions: Option<&'static str>,
    /// A text that the next step or its command has to contain.
    pub(crate) advises: Option<&'static str>,
    pub(crate) owner: Owner,
    /// Way of each exit, and whether its descriptor is still open.
    pub(crate) leave: Option<(&'static str, bool)>,
}

/// Owner of a socket.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    /// One process of this name.
    One(&'static str),
    /// Two processes of this name.
    Two(&'static str),
    Nobody,
    /// Different owners in the course of the scenario.
    Changing,
}

impl Part {
    /// Default expectation of a part.
    pub(crate) const DEFAULT: Self = Self {
        situation: "",
        of: |_socket| true,
        count: 12..=12,
        unread: 1..=1,
        expected: &[],
        certainties: LIKELY,
        mentions: None,
        advises: None,
        owner: Owner::One("python3"),
        leave: None,
    };
}

/// Selects accepted sockets, for [`Part::of`].
pub(crate) fn accepted(socket: &Value) -> bool {
    socket["accepted"] == true
}

/// Selects sockets in the backlog, for [`Part::of`].
pub(crate) fn queued(socket: &Value) -> bool {
    socket["accepted"] == false
}
