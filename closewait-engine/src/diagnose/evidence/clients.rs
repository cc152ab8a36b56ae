//! What tells idle connections of a pool from forgotten ones, on the connecting side.

use std::time::Duration;

use crate::{
    model::{Since, Socket},
    time::BootTime,
};

/// Silence before the FIN from which on a connection was idle.
const IDLE: Duration = Duration::from_secs(1);
/// Longest time between a farewell and its FIN, with the resolution of the kernel's times.
const TOGETHER: Duration = Duration::from_millis(50);
/// Longest time between the FINs of one event at the peer.
const ONE_EVENT: Duration = Duration::from_millis(1500);

/// Counts of the sockets of a group that its program connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Sockets that were idle when the FIN came, and got unread data together with it: a farewell.
    pub farewells: u32,
    /// Sockets that were idle when the FIN came.
    pub idle: u32,
    /// Sockets with unread data that came before the FIN, in answer to what the program had sent: a response.
    pub responses: u32,
    /// Most sockets whose FINs came within a moment.
    pub same_moment: u32,
    /// Sockets that were opened after the onset; `None` if that is not known of any.
    pub opened_after_onset: Option<u32>,
}

impl ClientFacts {
    /// Reads the sockets of a group; `onset` is the entry of the oldest.
    pub(crate) fn of<'a>(sockets: impl Iterator<Item = (&'a Socket, Since)>, onset: BootTime) -> Self {
        let (mut facts, mut entries) = (Self::default(), Vec::new());
        for (socket, since) in sockets {
            let Since::Exact(entered) = since else { continue };
            entries.push(entered);
            let unread = socket.unread_bytes.unwrap_or(0) > 1;
            // Never used connections have no time of sending of their own: the kernel has that of the set-up there.
            let silence = socket.last_sent.map(|sent| entered.since(sent));
            let with_fin =
                socket.last_received.map(|received| received + TOGETHER >= entered && received <= entered + TOGETHER);
            let idle = silence.is_some_and(|silence| silence >= IDLE);
            facts.idle += u32::from(idle);
            match with_fin {
                Some(true) if unread && idle => facts.farewells += 1,
                Some(_) if unread => facts.responses += 1,
                Some(_) | None => {}
            }
            if let Some(opener) = &socket.opener {
                let after = facts.opened_after_onset.get_or_insert(0);
                *after += u32::from(opener.at > onset);
            }
        }
        entries.sort_unstable();
        let within = |first: usize| {
            let from = entries.get(first).copied().unwrap_or_default();
            entries.get(first..).unwrap_or_default().partition_point(|entry| entry.since(from) <= ONE_EVENT)
        };
        facts.same_moment =
            (0..entries.len()).map(within).max().map_or(0, |most| u32::try_from(most).unwrap_or(u32::MAX));
        facts
    }
}
