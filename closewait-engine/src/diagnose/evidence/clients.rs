//! Facts that distinguish idle connections of a pool from forgotten ones.

use std::{borrow::Borrow, time::Duration};

use crate::{
    model::{Since, Socket},
    time::BootTime,
};

/// Minimum silence before the FIN of an idle connection.
const IDLE: Duration = Duration::from_secs(1);
/// Maximum time between a closing message and its FIN, including the resolution of the kernel's times. A busy server needs longer
/// than a tick from one call to the next.
const TOGETHER: Duration = Duration::from_millis(200);
/// Maximum size of a closing message, bytes: one segment of a handshake or of a protocol with a text.
const MAX_CLOSING_MESSAGE: u32 = 4096;
/// Maximum time between the FINs of one event at the peer.
const ONE_EVENT: Duration = Duration::from_millis(1500);

/// Counts of a group's sockets, if its program opened the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Number of sockets that were idle when the FIN arrived, and received data with it that is unread: a closing message that no
    /// request asked for.
    pub closing_messages: u32,
    /// Number of sockets that were idle when the FIN arrived.
    pub idle: u32,
    /// Number of sockets with other unread data: a response to what the program had sent.
    pub responses: u32,
    /// Largest number of sockets whose FINs arrived within 1.5 s.
    pub same_moment: u32,
    /// Number of sockets from which the program still reads: less was unread at a refresh in the second half of the time since the
    /// FIN.
    pub reading: u32,
    /// Number of sockets that were opened after the onset; `None` if no time of opening is known.
    pub opened_after_onset: Option<u32>,
    /// Connections of the same owner in CLOSE_WAIT, to any remote endpoint.
    pub of_owner: OwnerClients,
}

/// Connections in CLOSE_WAIT that one process opened, to any remote endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerClients {
    /// Number of connections.
    pub count: u32,
    /// Number of groups, each with another remote endpoint.
    pub groups: u32,
    /// Time between the first and the last entry.
    pub span: Duration,
}

impl ClientFacts {
    /// Counts the sockets of a group at `now`, each with the time at which a refresh last saw that data was read. `onset` is the
    /// entry of the oldest. With `watched`, the agent knows the opener of each connection that was opened after the onset, so a
    /// connection without an opener is older.
    pub(crate) fn of<S: Borrow<Socket>>(
        sockets: impl Iterator<Item = (S, Since, BootTime)>,
        onset: BootTime,
        watched: bool,
        now: BootTime,
    ) -> Self {
        let (mut facts, mut entries) = (Self::default(), Vec::new());
        facts.opened_after_onset = watched.then_some(0);
        for (socket, since, read) in sockets {
            let (Some(entered), socket) = (known(since), socket.borrow()) else { continue };
            entries.push(entered);
            let unread_bytes = socket.unread_bytes.unwrap_or(0);
            let unread = unread_bytes > 1;
            let (age, until_read) = (now.since(entered), read.since(entered));
            // The agent did not see whether the program has read since an entry that it did not see.
            let is_exact = matches!(since, Since::Exact(_));
            facts.reading += u32::from(is_exact && unread && until_read >= IDLE && until_read * 2 >= age);
            // On a connection without data, the kernel's time of sending is that of the handshake.
            let silence = socket.last_sent.map(|sent| entered.since(sent));
            let with_fin =
                socket.last_received.map(|received| received + TOGETHER >= entered && received <= entered + TOGETHER);
            let idle = silence.is_some_and(|silence| silence >= IDLE);
            facts.idle += u32::from(idle);
            match with_fin {
                Some(true) if unread && idle && unread_bytes <= MAX_CLOSING_MESSAGE => facts.closing_messages += 1,
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

/// Returns the time of an entry, also of one before the agent's start whose bounds are close: TCP's own times then tell it well enough.
fn known(since: Since) -> Option<BootTime> {
    match since {
        Since::Exact(entered) => Some(entered),
        Since::Between { earliest, latest } => {
            earliest.filter(|earliest| latest.since(*earliest) <= TOGETHER).map(|_| latest)
        }
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

    /// Returns a socket that last sent and received data this number of milliseconds before the FIN.
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
        let sockets = sockets.iter().map(|socket| (socket, Since::Exact(ENTERED), ENTERED));
        ClientFacts::of(sockets, ENTERED, false, ENTERED + Duration::from_secs(20))
    }

    #[test]
    fn an_entry_before_the_agents_start_counts_if_its_bounds_are_close() {
        let sockets = [client(5000, 0, 118), client(5000, 0, 118)];
        let of = |since: Since| {
            let sockets = sockets.iter().map(|socket| (socket, since, ENTERED + Duration::from_secs(19)));
            ClientFacts::of(sockets, ENTERED, false, ENTERED + Duration::from_secs(20))
        };
        let exact = of(Since::Exact(ENTERED));
        assert_eq!((exact.closing_messages, exact.same_moment, exact.reading), (2, 2, 2));
        let between =
            |millis: u64| Since::Between { earliest: Some(BootTime(ENTERED.0 - millis * 1_000_000)), latest: ENTERED };
        let unseen = ClientFacts { reading: 0, ..exact };
        assert_eq!(of(between(14)), unseen, "the agent did not see whether the program read since then");
        assert_eq!(of(between(201)), ClientFacts::default());
        assert_eq!(of(Since::Between { earliest: None, latest: ENTERED }), ClientFacts::default());
    }

    #[test]
    fn a_program_still_reads_if_less_was_unread_lately() {
        let socket = client(5000, 0, 1135);
        let reading = |read, age| {
            let after = |seconds| ENTERED + Duration::from_secs(seconds);
            let sockets = std::iter::once((&socket, Since::Exact(ENTERED), after(read)));
            ClientFacts::of(sockets, ENTERED, false, after(age)).reading
        };
        assert_eq!([reading(0, 20), reading(9, 20), reading(10, 20)], [0, 0, 1]);
    }

    #[test]
    fn a_closing_message_comes_with_the_fin_after_a_silence() {
        assert_eq!(facts(&[client(5000, 0, 118)]).closing_messages, 1);
        assert_eq!(facts(&[client(100, 0, 54)]).closing_messages, 0, "it answers a request");
        assert_eq!(facts(&[client(5000, 4000, 5000)]).closing_messages, 0, "an unread response");
        assert_eq!(facts(&[client(5000, 4000, 1)]).idle, 1);
        assert_eq!(facts(&[client(100, 90, 5000)]).responses, 1);
    }

    #[test]
    fn connections_opened_after_the_onset_are_counted() {
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
