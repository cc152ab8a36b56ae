//! Programs that wait for another one: proxies that keep one connection until the other one ends, and servers whose threads wait
//! for an answer.

use crate::diagnose::{
    About, Explanation, Judgement, Rule, Trend,
    evidence::Waits,
    text::{self, OwnerNames},
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Connection, Endpoint, ReadState},
    process::ProgramRuntime,
};

/// Detects a proxy that has forwarded the FIN and waits for the other end to close, and a server whose threads wait for another
/// program.
pub(super) struct ProxyWait;

impl Rule for ProxyWait {
    fn about(&self) -> &'static About {
        &About {
            name: "proxy_wait",
            when: "the owner has another connection whose times match those of the socket; at least half of the group's sockets \
                   have such a connection",
            class: &[Class::ProxyWait],
            certainty: &[
                (
                    Certainty::High,
                    "a proxy, of which more than 90 % of at least 3 sockets have one, their number grows or the program has closed \
                     none, and it serves no other connection of the port",
                ),
                (Certainty::Medium, "otherwise: matching times can be a coincidence"),
            ],
            says: "the program waits for the one at the other end of its other connection; look there",
            next: "inspect the other end; give the proxy a timeout for half-closed connections",
            not: &[
                "a hung proxy: a hung server behind a proxy also leaves sockets at the proxy, so this rule precedes those for hung \
                 programs",
                "a server whose threads all wait for a backend, and that has served no other client for 60 s: see `backend_stuck`",
                "a server with one connection of its own, as to a database: it matches one socket, not half of the group",
            ],
            seen: &["kubernetes/kubernetes#18354", "docker/for-linux#335", "etcd-io/etcd#2743"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let (proxy_peer, paired, count) = (case.proxy_peers.own.as_ref()?, case.proxy_peers.paired, case.group.count);
        if paired == 0 || u64::from(paired) * 2 < u64::from(count) {
            return None;
        }
        let flow = case.group.flow.as_ref();
        let piles_up = flow.is_some_and(|flow| flow.closed == 0 || flow.trend == Some(Trend::Growing));
        let serves = case.group.evidence.progresses(case.now) == Some(true);
        // A server that serves no client is hung, once it is clear that the other program does not answer: see `backend_stuck`.
        let sure =
            piles_up && !serves && !asks_another(case) && count >= 3 && u64::from(paired) * 10 > u64::from(count) * 9;
        Some(Judgement::new(Class::ProxyWait, if sure { Certainty::High } else { Certainty::Medium }, move || {
            let (towards, of_those) = case.proxy_peers.towards.unwrap_or((proxy_peer.socket.remote, paired));
            if asks_another(case) {
                return ask(case, towards);
            }
            let owner = text::owner(case);
            let (it, has) = (owner.it(), owner.has());
            let state = match proxy_peer.state {
                Connection::Established => "which is open".to_owned(),
                Connection::FinWait1 => format!("which {it} {has} closed, without an acknowledgement yet"),
                Connection::FinWait2 => format!("which {it} {has} closed and the other end has not"),
            };
            let is_haproxy = case.processes.iter().any(|process| process.runtime == Some(ProgramRuntime::HaProxy));
            Explanation {
                text: format!(
                    "{owner} {has} another connection with matching times, to {remote}, {state}; {paired} of {count} in its group \
                     {have} one, {of_those} of them to {towards}. It looks like a proxy that waits for that end",
                    have = if paired == 1 { "has" } else { "have" },
                    remote = proxy_peer.socket.remote,
                    count = text::count(count, "socket"),
                ),
                next: format!(
                    "see what {towards} does with the connections of {owner}; a timeout for half-closed connections in \
                 the proxy limits the wait{haproxy}",
                    haproxy = if is_haproxy { " (`timeout server`; in TCP mode, `timeout client-fin`)" } else { "" },
                )
                .into(),
            }
        }))
    }
}

/// Whether the program is a server whose threads wait for the answer of another program. A proxy also reads from its client, so it
/// has read the FIN; a server reads from its client when it has answered.
pub(super) fn asks_another(case: &Case<'_>) -> bool {
    let group = &case.group;
    let read = group.in_state(ReadState::IdleFin) + group.in_state(ReadState::Goodbye);
    let waits = group.evidence.waits.filter(Waits::show_connections);
    !super::is_known_proxy(case)
        && group.is_most(read)
        && waits.is_some_and(|waits| {
            // A process for one connection waits for it alone, also with a timeout.
            let of_one = if (waits.threads, group.count) == (1, 1) { waits.events } else { 0 };
            group.is_most(waits.blocked + waits.single.max(of_one))
        })
}

/// Returns a sentence about the number of connections of these processes: `it has 1 connection`.
pub(super) fn has_connections(owner: &OwnerNames, number: u32) -> String {
    format!("{} {} {}", owner.it(), owner.has(), text::count(number, "connection"))
}

/// Explains a server whose threads wait for the answer of the program at `towards`.
fn ask(case: &Case<'_>, towards: Endpoint) -> Explanation {
    let (owner, count) = (text::owner(case), case.group.count);
    Explanation {
        text: format!(
            "{owner} {has} read the requests of {count}; {paired} of matching times to other programs, and {its} threads wait \
             without a timeout, probably for an answer from {towards}.{doing}",
            has = owner.has(),
            its = owner.its(),
            count = text::count(count, "socket"),
            paired = has_connections(&owner, case.proxy_peers.paired),
            doing = text::doing(case),
        ),
        next: format!("see what {towards} does with the connections of {owner}, and give these calls a timeout").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, process, secs};

    #[test]
    fn a_proxy_points_at_its_other_end() {
        let judgement = Scene::server().of(10).paired(6).check(&ProxyWait).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::ProxyWait, Certainty::Medium));
        assert!(
            judgement.text.contains("to 10.0.0.7:9000") && judgement.text.contains("6 of 10 sockets"),
            "{}",
            judgement.text
        );
        assert!(judgement.next.text.contains("10.0.0.7:9000"), "{}", judgement.next.text);
    }

    #[test]
    fn a_growing_group_with_nearly_all_sockets_paired_is_sure() {
        let certainty = |scene: Scene| scene.check(&ProxyWait).map(|judgement| judgement.certainty);
        assert_eq!(certainty(Scene::server().of(10).paired(10).flowing(|_| ())), Some(Certainty::High));
        assert_eq!(certainty(Scene::server().of(10).paired(10)), Some(Certainty::Medium), "not watched");
        assert_eq!(certainty(Scene::server().of(2).paired(2).flowing(|_| ())), Some(Certainty::Medium), "few");
        assert_eq!(certainty(Scene::server().of(10).paired(10).closed_before(9, secs(2))), Some(Certainty::Medium));
    }

    #[test]
    fn a_hung_server_behind_it_is_not_blamed_on_the_proxy() {
        let scene = Scene::server().of(12).aged(600).replied(false).closed_before(900, secs(1)).all_stuck(12);
        assert_eq!(scene.paired(12).verdict().class, Class::ProxyWait);
    }

    #[test]
    fn a_server_whose_threads_wait_for_another_program_is_no_proxy() {
        let mut scene = Scene::server().of(8).paired(8).reading(ReadState::IdleFin);
        scene.group.evidence.waits =
            Some(Waits { threads: 8, complete: true, events: 8, single: 8, ..Waits::default() });
        let judgement = scene.check(&ProxyWait).unwrap();
        assert!(judgement.text.contains("an answer from 10.0.0.7:9000"), "{}", judgement.text);
        let is_proxy = |scene: &Scene| scene.check(&ProxyWait).unwrap().text.contains("looks like a proxy");
        assert!(is_proxy(&scene.clone().reading(ReadState::FinConsumed)), "it reads from its clients");
        let mut other = scene.clone();
        other.group.evidence.waits.as_mut().unwrap().single = 0;
        assert!(is_proxy(&other), "its threads wait with a timeout");
        scene.processes = vec![process(42, "haproxy", "/usr/sbin/haproxy")];
        scene.processes[0].runtime = Some(ProgramRuntime::HaProxy);
        assert!(is_proxy(&scene), "a known proxy");
    }

    #[test]
    fn one_connection_of_its_own_does_not_make_a_server_a_proxy() {
        assert_eq!(Scene::server().of(10).paired(4).check(&ProxyWait), None);
        let mut scene = Scene::server().of(10).paired(9);
        scene.proxy_peers.own = None;
        assert_eq!(scene.check(&ProxyWait), None, "this one has none");
        assert_eq!(Scene::server().check(&ProxyWait), None);
    }
}
