//! A server whose threads wait for something that does not come.

use crate::diagnose::{
    About, Case, Judgement, Rule,
    evidence::{CounterEvidence, Waits},
    text,
};
use crate::model::{Certainty, Class};

use super::sure_from;

/// Nothing of the port goes on, and the threads that should serve it wait without a timeout.
pub(super) struct Blocked;

/// Some of the threads wait for ever, while others serve.
pub(super) struct PartlyBlocked;

/// Age from which on a program of which threads tell nothing may be called hung.
const SOME_AGE: std::time::Duration = std::time::Duration::from_secs(15);

impl Rule for Blocked {
    fn about(&self) -> &'static About {
        &About {
            name: "blocked",
            when: "of a server, since the oldest of the group entered: no other connection was served or closed, no socket was \
                   finished late, 2 or more connections came; and its threads wait without a timeout, enough of them for half of \
                   the sockets, or none waits for events; or the runtime runs many tasks on each thread",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "for 60 s or longer, with 5 or more new connections, by threads that wait without a timeout",
                ),
                (Certainty::Medium, "for 15 s or longer"),
                (Certainty::Low, "for less long, or where threads do not tell (Go), until 60 s"),
            ],
            says: "the program hangs since the onset",
            next: "see where its threads are, and what happened at the onset",
            not: &[
                "a slow server: its threads wait with a timeout, or for a backend",
                "a server without new connections: nothing shows that it would not serve them",
                "an event loop that waits for events: it is idle, not stuck",
            ],
            seen: &["gevent/gevent#464", "Netflix, Java 21 virtual threads (2024)", "gin-gonic/gin#596"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::OtherConnections,
            CounterEvidence::Closes,
            CounterEvidence::PeersWait,
            CounterEvidence::BackendsWait,
            CounterEvidence::Sending,
            CounterEvidence::Threads,
        ]
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits?;
        if !case.is_server() || evidence.demand < 2 || evidence.progresses(case.now) == Some(true) {
            return None;
        }
        let count = u64::from(case.group.count);
        let blocked = u64::from(waits.blocked);
        let serves_nothing = waits.events == 0 && waits.accepting == 0 && blocked > 0;
        let enough = blocked * 2 >= count && blocked > 0;
        let (surest, what) = match waits.idle_loop {
            Some(true) => return None,
            Some(false) if blocked > 0 => {
                (Certainty::High, "the thread of its event loop does not wait for events".to_owned())
            }
            Some(false) | None if serves_nothing || enough => {
                (Certainty::High, format!("{} without a timeout", threads(&waits, waits.blocked)))
            }
            // The tasks of such a runtime are not to be seen from here.
            _ if (waits.multiplexes || u64::from(waits.threads) < count) && case.group.oldest >= SOME_AGE => {
                let sure = case.group.oldest >= super::SURE_AGE;
                (
                    if sure { Certainty::Medium } else { Certainty::Low },
                    "its threads do not tell what each waits for".to_owned(),
                )
            }
            _ => return None,
        };
        let unread = evidence.progresses(case.now).is_none();
        let certainty = if unread { Certainty::Low } else { sure_from(case, surest) };
        Some(Judgement {
            class: Class::Hung,
            certainty,
            text: format!(
                "{early}since the oldest of {count} entered {since} ago, {owner} has served no other connection of port {port}, \
                 and {demand} came; {what}.{doing}",
                early = super::early(case, "hung"),
                count = text::count(case.group.count.max(1), "socket"),
                since = text::duration(case.group.oldest),
                owner = text::owner(case),
                port = text::port(case),
                demand = evidence.demand,
                doing = text::doing(case),
            ),
            next: format!("{}; see what happened {} ago", text::dump(case), text::duration(case.group.oldest)),
        })
    }
}

impl Rule for PartlyBlocked {
    fn about(&self) -> &'static About {
        &About {
            name: "partly_blocked",
            when: "of a server that serves others: 3 or more sockets, the oldest for 15 s or longer, the FIN unread, as many threads \
                   wait without a timeout, and those with a timeout have not become more with the sockets",
            class: &[Class::Hung],
            certainty: &[(Certainty::Low, "the program works: a slow lock or a leak can look alike")],
            says: "some requests wait for something that does not come, while others are served",
            next: "see what the waiting threads wait for",
            not: &["a slow path: its threads wait with a timeout, one for each socket"],
            seen: &["jetty/jetty.project#8908"],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[
            CounterEvidence::LateExits,
            CounterEvidence::PeersWait,
            CounterEvidence::BackendsWait,
            CounterEvidence::Sending,
            CounterEvidence::Threads,
        ]
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits?;
        let count = case.group.count;
        let applies = case.is_server()
            && evidence.progresses(case.now) == Some(true)
            && count >= 3
            && case.group.oldest >= SOME_AGE
            && evidence.eof_unread * 2 >= count
            && !waits.multiplexes
            && waits.idle_loop != Some(true)
            && waits.blocked >= count
            && waits.follows == Some(false);
        if !applies {
            return None;
        }
        Some(Judgement {
            class: Class::Hung,
            certainty: Certainty::Low,
            text: format!(
                "{owner} serves other connections of port {port}, and {stay} since {since}; {threads} without a timeout.{doing}",
                owner = text::owner(case),
                port = text::port(case),
                stay = if count == 1 { "1 socket stays".to_owned() } else { format!("{count} sockets stay") },
                since = text::duration(case.group.oldest),
                threads = threads(&waits, waits.blocked),
                doing = text::doing(case),
            ),
            next: text::dump(case),
        })
    }
}

fn threads(waits: &Waits, count: u32) -> String {
    let wait = if count == 1 { "waits" } else { "wait" };
    if waits.threads == 1 {
        "its only thread waits".to_owned()
    } else {
        format!("{count} of {} threads {wait}", waits.threads)
    }
}
