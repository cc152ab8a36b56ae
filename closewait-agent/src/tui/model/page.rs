//! Pages and input of the view.

use std::time::Duration;

use crate::tui::messages::TopKey;
use closewait_engine::{
    model::Pileup,
    snapshot::query::{Filter, Peer},
    time::BootTime,
};

/// Number of rows that a page key moves.
pub(in crate::tui) const PAGE: usize = 10;

/// Order of the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tui) enum GroupOrder {
    /// The most urgent first.
    #[default]
    Urgency,
    /// The largest first.
    Sockets,
    /// The fastest growing first.
    Growth,
    /// The oldest socket first.
    Age,
    /// By name of the owner.
    Name,
}

impl GroupOrder {
    pub(in crate::tui) fn name(self) -> &'static str {
        match self {
            Self::Urgency => "urgency",
            Self::Sockets => "sockets",
            Self::Growth => "growth",
            Self::Age => "age",
            Self::Name => "name",
        }
    }

    pub(in crate::tui) fn next(self) -> Self {
        match self {
            Self::Urgency => Self::Sockets,
            Self::Sockets => Self::Growth,
            Self::Growth => Self::Age,
            Self::Age => Self::Name,
            Self::Name => Self::Urgency,
        }
    }
}

/// Content of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::tui) enum TopPage {
    /// Groups, and details of the selected one.
    #[default]
    Groups,
    /// Keys.
    Help {
        /// First shown line.
        offset: usize,
    },
    /// Text from the source.
    Text(Box<SocketText>),
}

/// Sockets of a group, or the plan to destroy them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct SocketText {
    /// Filter that selects the sockets.
    pub(in crate::tui) filter: Filter,
    /// Name of the group.
    pub(in crate::tui) title: String,
    /// Lines; `None` until the source has answered.
    pub(in crate::tui) lines: Option<Vec<String>>,
    /// First shown line.
    pub(in crate::tui) offset: usize,
    /// Number of sockets to destroy, and the time of the request; `None` for a list of sockets, and until the source has
    /// answered.
    pub(in crate::tui) planned: Option<(usize, BootTime)>,
    /// Whether it is a plan.
    pub(in crate::tui) is_plan: bool,
}

/// Line that the user types into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct InputLine {
    pub(in crate::tui) purpose: InputPurpose,
    pub(in crate::tui) text: String,
}

/// Use of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) enum InputPurpose {
    Filter,
    Time,
    /// Number of sockets to destroy, as a confirmation.
    Count,
}

/// Moves the first shown line.
#[expect(clippy::wildcard_enum_match_arm, reason = "other keys do not scroll")]
pub(in crate::tui) fn scroll(offset: &mut usize, key: TopKey) {
    *offset = match key {
        TopKey::Up | TopKey::Char('k') => offset.saturating_sub(1),
        TopKey::Down | TopKey::Char('j') => offset.saturating_add(1),
        TopKey::PageUp => offset.saturating_sub(PAGE),
        TopKey::PageDown | TopKey::Char(' ') => offset.saturating_add(PAGE),
        TopKey::Home | TopKey::Char('g') => 0,
        TopKey::End | TopKey::Char('G') => usize::MAX,
        _ => *offset,
    };
}

/// Returns a filter that matches the sockets of a group: those of its first owner, on its port or with its remote endpoint.
pub(in crate::tui) fn filter_of(pileup: &Pileup, older_than: Option<Duration>) -> Filter {
    let peer = pileup.group.remote.and_then(|remote| remote.to_string().parse::<Peer>().ok());
    Filter {
        pids: pileup.service().owner.map(|(_, pid)| pid).into_iter().collect(),
        ports: pileup.group.local_port.into_iter().collect(),
        peers: peer.into_iter().collect(),
        older_than,
        ..Filter::default()
    }
}

/// Returns the command that shows the plan of a destruction; `agent_options` are those for the same agent.
pub fn kill_command(filter: &Filter, agent_options: &str) -> String {
    let mut command = "closewait kill".to_owned();
    command.extend(filter.pids.iter().map(|pid| format!(" --pid {pid}")));
    command.extend(filter.ports.iter().map(|port| format!(" --port {port}")));
    command.extend(filter.peers.iter().map(|peer| {
        let peer = peer.to_string();
        // A shell takes brackets for a pattern.
        if peer.contains('[') { format!(" --peer '{peer}'") } else { format!(" --peer {peer}") }
    }));
    command.extend(
        filter
            .older_than
            .map(|age| format!(" --older-than {}", humantime::format_duration(age).to_string().replace(' ', ""))),
    );
    command.push_str(agent_options);
    command
}
