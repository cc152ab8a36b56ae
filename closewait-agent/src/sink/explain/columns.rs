//! Columns of the tables of `list`, `status` and `top`.

use super::words::{Word, word};

const fn column(name: &'static str, meaning: &'static str) -> Word {
    word(name, &[], meaning)
}

/// All columns by the names that `--columns` takes, those of sockets first.
pub(super) const COLUMNS: [Word; 38] = [
    column(
        "age",
        "the time that the socket has spent in CLOSE_WAIT, or limits of it, as in `≥12m00s ≤3h00m`; of an ended connection, how it ended, \
         as in `gone: reset`",
    ),
    column(
        "recv-q",
        "the number of bytes that have arrived and that the program has not read, as in `ss`; the FIN counts as one",
    ),
    column("send-q", "the number of bytes that the program has written and the peer has not acknowledged, as in `ss`"),
    column(
        "timer",
        "the socket's running timer, as in `ss -o`: its kind, the time that is left, and the number of retransmissions or probes; \
         left out if no socket has one",
    ),
    column("local", "the address and port at this end"),
    column("remote", "the address and port of the peer"),
    column(
        "owner",
        "a process that has a descriptor of the socket, with its pid and the descriptor, as in `python3[12] fd 7`; of a socket that \
         no program has accepted, the process that listens, and its backlog; with --by process, the process",
    ),
    column("where", "the pod, container or unit in which the owner runs, or its cgroup; left out if no socket has one"),
    column(
        "verdict",
        "the cause, as a class and its certainty; of several sockets, the most frequent class and its share",
    ),
    column(
        "netns",
        "the inode of the network namespace, as in /proc/PID/ns/net; left out if it is the same for all sockets",
    ),
    column("protocol", "`tcp`, or `mptcp` for Multipath TCP"),
    column("role", "`server` if a listener accepted the connection, `client` if the program connected"),
    column("cookie", "the number that the kernel gave to the socket, as in `ss -e`"),
    column("inode", "the inode of the socket, as in /proc/PID/fd"),
    column("cgroup", "the id of the socket's cgroup; with --by cgroup, its name"),
    column("received", "the number of bytes received since the connection began; the FIN counts as one"),
    column("sent", "the number of bytes sent since the connection began, with those sent again"),
    column("acked", "the number of sent bytes that the peer has acknowledged"),
    column(
        "read",
        "what the program has read: nothing (`never_read`; `probe` if only the FIN arrived), some (`partial`), all but a short last \
         message (`goodbye`), all but the FIN (`idle_fin`), or all (`fin_consumed`)",
    ),
    column("keepalive", "whether the socket has the option SO_KEEPALIVE"),
    column(
        "listener",
        "of a socket that no program has accepted, the listener's address, the length of its backlog and the limit; with --by \
         listener, the address",
    ),
    column("waits-for", "the remote end of a proxy's other connection, on which it waits"),
    column("opener", "the thread that connected the socket, and when; only with --openers of `closewait run`"),
    column("rule", "the rule that gave the verdict"),
    column("cause", "the verdict as a sentence"),
    column("count", "the number of sockets"),
    column("oldest", "the age of the oldest socket; with `≥`, the socket is older than the agent"),
    column("median", "the median of the ages"),
    column("peer", "the peer's address, with the port if it is a server's"),
    column("owners", "the processes that have descriptors of the sockets"),
    column(
        "fds",
        "the number of open descriptors of the process and its limit; `gone` are those whose connection has ended, but which are still open",
    ),
    column("who", "the service or program that has the sockets; `+2`: two more processes have them, too"),
    column("port", "the port of a server, as `:8080`, or the remote end of a client's connections, as `>10.0.0.7:443`"),
    column("sockets", "the number of sockets that the program has not closed"),
    column(
        "grows",
        "the number of sockets that the group gains or loses each second; `-` if no agent has watched for long enough",
    ),
    column(
        "limit",
        "how much of a limit is used: of the open descriptors, unless it says `backlog` or `conns` (connections of a port)",
    ),
    column("full-in", "the forecast of the time until the limit is reached; FULL if it is"),
    column("trend", "a graph of the number of sockets, in `closewait top`"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sink::list::{headings, headings_of_groups};
    use closewait_engine::snapshot::query::GroupBy;

    #[test]
    fn every_column_has_a_meaning_and_only_these_have() {
        let groupings = [GroupBy::Process, GroupBy::Listener, GroupBy::Peer, GroupBy::Cgroup].map(Some);
        let chosen = groupings.into_iter().chain([None]).flat_map(headings).chain(headings_of_groups());
        // The trend cannot be chosen.
        let shown: BTreeSet<String> = chosen.chain(["trend".to_owned()]).collect();
        let explained: BTreeSet<String> = COLUMNS.iter().map(|column| column.name.to_owned()).collect();
        assert_eq!(shown, explained);
        assert_eq!(COLUMNS.len(), explained.len(), "each once");
    }
}
