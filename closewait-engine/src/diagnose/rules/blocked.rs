//! Servers whose threads wait without a timeout.

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, MIN_DEMAND, OwnLoops, StackEvidence, Stall, Waits},
    text,
};
use crate::model::{Certainty, Class};

use super::sure_from;

/// Detects a server that makes no progress on a port while the threads that should serve it wait without a timeout.
pub(super) struct Blocked;

/// CPU use of all threads, in thousandths of one CPU, at which one of them may be doing the work that the others wait for.
const SOME_CPU: u32 = 50;

impl Rule for Blocked {
    fn about(&self) -> &'static About {
        &About {
            name: "blocked",
            when: "the socket is a server's; since the oldest of the port entered, or since the last progress after that, 2 or more new \
                   connections arrived, and the program served or closed no other connection and finished no socket late; its threads wait without a \
                   timeout, at least half as many as the group has sockets or without any thread that waits for events, or all but those \
                   that accept (or would, if the program had a free descriptor) while most sockets were never read, or they \
                   only wait in accept() and have not read most of the sockets, or they show nothing about single connections \
                   because there are fewer threads than sockets or the runtime runs many tasks on each thread; or stacks show that threads \
                   have waited for a lock at one line for 30 s or longer, at least half as many as the group has sockets or most of those \
                   that work, or most of these at up to three lines, or for a connection of a pool, or for other threads while no thread can \
                   continue, or that as many tasks of an event loop without a timer, to which no other program owes an answer, have \
                   waited for a result at one line for 30 s or longer, and do not show that all threads wait for work",
            class: &[Class::Hung],
            certainty: &[
                (
                    Certainty::High,
                    "after 3 min or longer without progress, with 5 or more new connections, if threads wait for locks",
                ),
                (
                    Certainty::Medium,
                    "after 60 s or longer without progress; also later if half of the peers on this host can still read, if threads \
                     wait for a connection of a pool, which may come back, or if all threads wait for each other, which a timeout may end, or \
                     if stacks show that most of those that wait for other threads wait for a signal, and not for a lock",
                ),
                (
                    Certainty::Low,
                    "sooner; if most threads wait for another program, or one for a child: a pipe, a UNIX socket, a file lock or a \
                     process, which may still finish; if the program has answered most of the sockets, or may have; if \
                     the owner does not listen itself; if a thread works, which the others may wait for; if the other connections \
                     of the program could not be read; if the threads show nothing about single connections and the program has \
                     read most of the sockets (Go); if threads of the runtime's own may be the ones that wait (JVM); or if an \
                     event loop leaves connections in the backlog; or if tasks wait for a result, which the next request may bring",
                ),
            ],
            says: "the program has hung since its last progress",
            next: "see where its threads are, and what happened at the onset",
            not: &[
                "a slow server: its threads wait with a timeout, or for a backend",
                "a server whose clients wait for events (long polling): it has answered, or serves other connections",
                "a server without new connections: it might still serve them",
                "an event loop that waits for events: it is idle, not hung",
                "an idle pool of the program's own: see `own_pool`",
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

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let waits = evidence.waits?;
        if !case.is_server() || evidence.demand < MIN_DEMAND || evidence.progresses(case.now) == Some(true) {
            return None;
        }
        let loops = super::own_loops(case);
        let is_idle = |stacks: StackEvidence| match stacks.loops {
            Some(OwnLoops::Workers) => loops.is_some() && stacks.all_idle(),
            _ => stacks.all_idle(),
        };
        if evidence.stacks.is_some_and(is_idle) && !only_accepts(case) {
            return None;
        }
        let stall = evidence.stall(case.group.count, case.now);
        match loops.filter(|_| stall.is_none()) {
            Some(OwnLoops::Workers | OwnLoops::Undecided) => return None,
            Some(OwnLoops::Handlers | OwnLoops::AsMany) | None => {}
        }
        let count = u64::from(case.group.count);
        let blocked = u64::from(waits.blocked);
        // Each socket may have a thread with a timeout, which will finish.
        let may_work = waits.follows.is_none() && u64::from(waits.limited) * 10 >= count * 7;
        if may_work && waits.idle_loop != Some(false) && stall.is_none() {
            return None;
        }
        let serves_nothing = waits.events == 0 && waits.accepting == 0 && blocked > 0;
        let enough = blocked * 2 >= count && blocked > 0;
        let (surest, what) = match waits.idle_loop {
            _ if let Some(stall) = stall => {
                let surest = match stall {
                    Stall::AtLines(_) => Certainty::High,
                    // The connections of a pool may come back with requests that end.
                    Stall::ForPool(_) | Stall::ForEachOther(_) => Certainty::Medium,
                    // A client of a chat waits so for what another client says.
                    Stall::ForResult(_) => Certainty::Low,
                };
                (surest, stall.words())
            }
            Some(true) if leaves_backlog(case) => (
                Certainty::Low,
                "the event loop waits for events, but accepts no connection of those that wait in the backlog"
                    .to_owned(),
            ),
            Some(true) => return None,
            Some(false) if blocked > 0 && waits.threads > 1 => (
                Certainty::High,
                format!(
                    "{} without a timeout, and the first one not for events",
                    text::threads_wait(&waits, waits.blocked)
                ),
            ),
            Some(false) if blocked > 0 => {
                (Certainty::High, format!("{} without a timeout", text::threads_wait(&waits, waits.blocked)))
            }
            None if all_workers_wait(case, &waits) => {
                let workers = text::threads_wait(&waits, waits.blocked);
                (Certainty::High, format!("{workers} without a timeout, and most of the sockets were never read"))
            }
            None if only_accepts(case) => (
                Certainty::Medium,
                "the listening thread accepts connections, but no other thread works on the accepted ones".to_owned(),
            ),
            // Such a runtime parks its idle threads without a timeout.
            Some(false) | None if !waits.multiplexes && (serves_nothing || enough) => {
                // The runtime's own threads prove nothing.
                let of_program = u64::from(waits.blocked_of_program());
                let surest = if of_program * 2 >= count { Certainty::High } else { Certainty::Low };
                (surest, format!("{} without a timeout", text::threads_wait(&waits, waits.blocked)))
            }
            // The threads of such a runtime do not show its tasks.
            _ if (waits.multiplexes || u64::from(waits.threads) < count) && case.group.oldest >= super::SOME_AGE => {
                // Such a runtime has read the requests that it works on, and a thread with a timeout may work on one.
                let unread = case.group.is_mostly_unread() && waits.limited * 2 < waits.threads;
                let sure = case.group.oldest >= super::SURE_AGE && unread;
                (
                    if sure { Certainty::Medium } else { Certainty::Low },
                    "the threads do not show which connections they work on".to_owned(),
                )
            }
            _ => return None,
        };
        // The waiting threads may wait for one that works.
        let works = waits.running > 0 || waits.cpu_permille >= SOME_CPU;
        let guess = works
            || loops == Some(OwnLoops::AsMany)
            || evidence.progresses(case.now).is_none()
            || !(stall.is_some() || waits.for_itself())
            || !case.group.is_most(case.group.awaiting)
            || case.is_passed_to_owner();
        // Clients that have closed one direction only would also wait for a slow server.
        // Threads that wait for a signal may wait for an event that their clients want, as in long polling.
        let awaits_event = stall.is_none() && evidence.stacks.is_some_and(|stacks| stacks.wait_mostly_for_signals());
        let may_go_on = evidence.peer_ends.wait() || awaits_event;
        let surest = if may_go_on { surest.max(Certainty::Medium) } else { surest };
        let certainty = if guess { Certainty::Low } else { sure_from(case, surest) };
        Some(Judgement::new(Class::Hung, certainty, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{early}{owner} {has} served no other connection of port {port} for {stalled}, while {demand} arrived, and \
                     {has} not closed {count}, the oldest for {since}; {what}.{doing}",
                    early = super::early(case, certainty, "hung"),
                    has = owner.has(),
                    count = text::count(case.group.count.max(1), "socket"),
                    since = text::duration(case.group.oldest),
                    stalled = text::duration(case.stalled()),
                    port = text::port(case),
                    demand = evidence.demand,
                    doing = text::doing(case),
                ),
                next: text::dump(case).and(&match stall {
                    Some(Stall::ForPool(_)) => super::FIND_POOL_USER.to_owned(),
                    Some(Stall::ForResult(_)) => super::FIND_TASK.to_owned(),
                    Some(Stall::AtLines(_) | Stall::ForEachOther(_)) | None => {
                        format!("see what happened {} ago", text::duration(case.stalled()))
                    }
                }),
            }
        }))
    }
}

/// Whether nearly all threads but those that accept connections wait without a timeout, while most sockets were never read: all threads of a
/// pool are blocked. Idle threads would have read the sockets.
fn all_workers_wait(case: &Case<'_>, waits: &Waits) -> bool {
    // Without a free descriptor, the thread that accepts pauses before it tries again.
    let accepting = waits.accepting.max(u32::from(case.is_out_of_descriptors()));
    let workers = waits.threads.saturating_sub(accepting);
    waits.complete
        && (accepting > 0 && waits.events == 0 && !waits.multiplexes)
        && waits.blocked >= 2
        && waits.blocked * 10 >= workers * 7
        && case.group.is_mostly_unread()
}

/// Whether a server without an event loop only accepts connections: most of these sockets were not read, the program serves no other
/// connection, and its threads do nothing. A thread pool that has ended looks like this. A thread that has read a request and is gone
/// has forgotten its socket.
pub(super) fn only_accepts(case: &Case<'_>) -> bool {
    let evidence = &case.group.evidence;
    let Some(waits) = evidence.waits.filter(|waits| waits.complete) else { return false };
    let working = waits.working();
    evidence.progresses(case.now) == Some(false)
        && evidence.demand >= MIN_DEMAND
        && case.group.is_mostly_unread()
        && (waits.accepting > 0 && waits.events == 0 && waits.idle_loop.is_none() && !waits.multiplexes)
        && working * 4 <= case.group.count
}

/// Whether connections have been in the backlog for longer than an event loop takes to come back to it.
pub(super) fn leaves_backlog(case: &Case<'_>) -> bool {
    case.group.oldest_unaccepted.is_some_and(|age| age >= super::undecided::FRESH)
}

#[cfg(test)]
pub(super) mod tests;
