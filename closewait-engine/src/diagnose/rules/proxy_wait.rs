//! Proxies that keep one connection until the other one ends.

use crate::diagnose::{About, Explanation, Judgement, Rule, Trend, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Connection},
    process::ProgramRuntime,
};

/// Detects a proxy that has forwarded the FIN and waits for the other end to close.
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
                    "more than 90 % of at least 3 sockets have one, their number grows or the program has closed none, and it \
                     serves no other connection of the port",
                ),
                (Certainty::Medium, "otherwise: matching times can be a coincidence"),
            ],
            says: "the proxy waits for the program at the other end of its other connection; look there",
            next: "inspect the other end; give the proxy a timeout for half-closed connections",
            not: &[
                "a hung proxy: a hung server behind a proxy also leaves sockets at the proxy, so this rule precedes those for hung \
                 programs",
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
        let sure = piles_up && !serves && count >= 3 && u64::from(paired) * 10 > u64::from(count) * 9;
        Some(Judgement::new(Class::ProxyWait, if sure { Certainty::High } else { Certainty::Medium }, move || {
            let (towards, of_those) = case.proxy_peers.towards.unwrap_or((proxy_peer.socket.remote, paired));
            let state = match proxy_peer.state {
                Connection::Established => "which is open",
                Connection::FinWait1 => "which it has closed, without an acknowledgement yet",
                Connection::FinWait2 => "which it has closed and the other end has not",
            };
            let owner = text::owner(case);
            let is_haproxy = case.processes.iter().any(|process| process.runtime == Some(ProgramRuntime::HaProxy));
            Explanation {
                text: format!(
                    "{owner} has another connection with matching times, to {remote}, {state}; {paired} of {count} in its group \
                 have one, {of_those} of them to {towards}. It looks like a proxy that waits for that end",
                    remote = proxy_peer.socket.remote,
                    count = text::count(count, "socket"),
                ),
                next: format!(
                    "see what {towards} does with the connections of {owner}; a timeout for half-closed connections in \
                 the proxy limits the wait{haproxy}",
                    haproxy = if is_haproxy { " (`timeout client-fin`)" } else { "" },
                )
                .into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

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
    fn one_connection_of_its_own_does_not_make_a_server_a_proxy() {
        assert_eq!(Scene::server().of(10).paired(4).check(&ProxyWait), None);
        let mut scene = Scene::server().of(10).paired(9);
        scene.proxy_peers.own = None;
        assert_eq!(scene.check(&ProxyWait), None, "this one has none");
        assert_eq!(Scene::server().check(&ProxyWait), None);
    }
}
