//! Words of the output that are neither classes nor rules nor columns. docs/words.md has them as a table, with links.

use super::Topics;

/// Word or column of the output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// The word, in small letters. That of a column has hyphens.
    pub(super) name: &'static str,
    /// Further spellings and forms.
    others: &'static [&'static str],
    /// Meaning, a sentence without its end.
    pub(super) meaning: &'static str,
}

impl Word {
    /// Whether the word is written like this: in small letters, with `_` for blanks and hyphens.
    pub(super) fn is(&self, name: &str) -> bool {
        Topics::normal(self.name) == name || self.others.contains(&name)
    }
}

pub(super) const fn word(name: &'static str, others: &'static [&'static str], meaning: &'static str) -> Word {
    Word { name, others, meaning }
}

/// All words, in the order of their reading: sockets, groups, verdicts, certainty, columns, the agent.
pub(super) const WORDS: [Word; 34] = [
    word(
        "close_wait",
        &["close_wait_socket"],
        "the state of a TCP socket whose peer has closed its side, while the program has not closed its own",
    ),
    word(
        "dwell",
        &["dwell_time", "age"],
        "the time that a socket has spent in CLOSE_WAIT; of a socket that is older than the agent, only limits are known",
    ),
    word(
        "stuck",
        &[],
        "of a socket: in CLOSE_WAIT for longer than --stuck-after (60 s, unless the agent was started with another time). It says \
         nothing about the cause: an idle connection of a pool can be stuck, too",
    ),
    word("mature", &[], "of a socket: in CLOSE_WAIT for longer than its program needs in normal operation"),
    word("enter", &["entered"], "a socket changes into CLOSE_WAIT: its peer has closed"),
    word(
        "exit",
        &["exited", "leave", "left_close_wait"],
        "a socket changes out of CLOSE_WAIT, mostly because its program closes it",
    ),
    word("owner", &["who"], "a process that has an open descriptor of the socket"),
    word(
        "group",
        &["groups"],
        "the sockets with the same owner, network namespace, role and port of a server, or remote end of a client; each group has one \
         verdict",
    ),
    word(
        "incident",
        &["pileup", "pile_up"],
        "a group that grows, hangs or uses up a limit, from its opening to its end; in JSON it is called pileup",
    ),
    word("onset", &["since"], "the time at which the oldest socket of an incident entered CLOSE_WAIT"),
    word("progress", &[], "the owner finished other requests of the same group after the onset"),
    word("ends", &["resolved", "pileup_end"], "an incident is over: the sockets have left, or their process has ended"),
    word(
        "verdict",
        &[],
        "the diagnosis of a group: its class (hung, leak, ..), the rule that gave it, the certainty and the next step",
    ),
    word(
        "certainty",
        &["?"],
        "how sure a verdict is: fact, high, medium or low. A question mark behind a class, as in HUNG?, means low",
    ),
    word("fact", &[], "certainty: the kernel reports it"),
    word("high", &[], "certainty: anything else would be a surprise"),
    word("medium", &[], "certainty: more likely than not"),
    word(
        "low",
        &["suspected"],
        "certainty: a guess, which a later verdict can replace; the screen has a question mark behind the class, as in HUNG?",
    ),
    word(
        "attention",
        &["needs_attention", "need_attention"],
        "of a group: hung, leaking or not accepted, and not growing; normal and undecided groups need none",
    ),
    word("undecided", &[], "of a group: it is too early to tell, or too little is known"),
    word("normal", &["calm"], "of a group: the program needs no attention, as with an idle pool"),
    word("grows", &["grow", "growing"], "the number of sockets of the group rises"),
    word("level", &[], "the number of sockets of the group stays the same"),
    word(
        "full",
        &["limit"],
        "a limit is reached: open descriptors, the backlog, or the connection limit of a port. Then the program can accept or open no more",
    ),
    word(
        "exhaustion",
        &["full_in", "forecast"],
        "the forecast of the time until a limit is reached, from the growth of the last minutes",
    ),
    word("backlog", &[], "the connections that a listener has, but that its program has not accepted yet"),
    word("unaccepted", &[], "in the backlog of a listener: no program has called accept() for the socket"),
    word(
        "scan",
        &["one_off_scan"],
        "one pass over all sockets and descriptors; without an agent it has no history: ages are lower bounds, and growth is unknown",
    ),
    word(
        "agent",
        &["control_socket"],
        "the process of `closewait run`: it sees each socket enter and exit; other commands ask it over its control socket",
    ),
    word("snapshot", &[], "the state of everything at one time"),
    word("refresh", &[], "the agent reads one known socket again"),
    word("inspection", &["inspect"], "the agent reads what the threads of an owner do"),
    word("audit", &[], "the agent compares what it tracks with the kernel"),
    word("dropped", &[], "not stored because a limit was reached; always counted"),
];
