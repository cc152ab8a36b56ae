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
    /// Reads the sockets of a group; `onset` is the entry of the oldest. With `watched`, the opener of each connection that was
    /// made after the onset is known, so that one without was made before.
    pub(crate) fn of<'a>(sockets: impl Iterator<Item = (&'a Socket, Since)>, onset: BootTime, watched: bool) -> Self {
        let (mut facts, mut entries) = (Self::default(), Vec::new());
        facts.opened_after_onset = watched.then_some(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Opener, Task},
        testing::socket,
        text::Comm,
    };

    const ENTERED: BootTime = BootTime(100_000_000_000);

    /// Last sent and received so many milliseconds before the FIN.
    fn client(sent: u64, received: u64, unread: u32) -> Socket {
        let before = |millis: u64| Some(BootTime(ENTERED.0 - millis * 1_000_000));
        Socket {
            last_sent: before(sent),
            last_received: before(received),
            unread_bytes: Some(unread),
            sent_bytes: Some(9),
            ..socket()
        }
    }

    fn facts(sockets: &[Socket]) -> ClientFacts {
        ClientFacts::of(sockets.iter().map(|socket| (socket, Since::Exact(ENTERED))), ENTERED, false)
    }

    #[test]
    fn a_farewell_comes_with_the_fin_after_a_silence() {
        assert_eq!(facts(&[client(5000, 0, 118)]).farewells, 1);
        assert_eq!(facts(&[client(100, 0, 54)]).farewells, 0, "it answers what was just sent");
        assert_eq!(facts(&[client(5000, 4000, 5000)]).farewells, 0, "a response that was not read");
        assert_eq!(facts(&[client(5000, 4000, 1)]).idle, 1);
        assert_eq!(facts(&[client(100, 90, 5000)]).responses, 1);
    }

    #[test]
    fn what_was_opened_after_the_onset_is_counted() {
        let opened = |at| Socket {
            opener: Some(Box::new(Opener { task: Task { pid: 1, comm: Comm::from_name(b"x") }, at })),
            ..client(100, 90, 1)
        };
        assert_eq!(facts(&[client(100, 90, 1)]).opened_after_onset, None, "no opener is known");
        let (before, after) = (opened(BootTime(1)), opened(BootTime(ENTERED.0 + 1)));
        let found = facts(&[before, after]);
        assert_eq!((found.opened_after_onset, found.same_moment), (Some(1), 2));
    }
}
