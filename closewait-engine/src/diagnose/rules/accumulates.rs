//! Clients: connections that accumulate, unread responses, and undecided cases.

use std::time::Duration;

use crate::diagnose::{
    About, Case, Explanation, Judgement, Rule,
    evidence::{CounterEvidence, OwnerClients},
    text,
};
use crate::model::{Certainty, Class};

/// Detects a client that opens new connections to a remote endpoint and does not close those that the server has closed.
pub(super) struct Accumulates;

/// Detects unread responses of a client that opens no new connections.
pub(super) struct UnreadResponse;

/// Covers clients to which no other rule applies.
pub(super) struct ClientUndecided;

impl Rule for Accumulates {
    fn about(&self) -> &'static About {
        &About {
            name: "accumulates",
            when: "the socket is a client's; 2 or more sockets of the group were opened after the oldest entered, or the program \
                   has 4 or more to different remote endpoints that entered over 10 s or longer; `pool` does not apply",
            class: &[Class::Leak],
            certainty: &[
                (
                    Certainty::Medium,
                    "the group has more sockets than the program has threads, so not all can be in use, and they still accumulate: the \
                     oldest entered 60 s ago or longer, the youngest in the second half of that time",
                ),
                (
                    Certainty::Low,
                    "otherwise: a thread may be using each socket, or read one after the other; each name of the remote endpoint, or \
                     each of several endpoints, may have a pool",
                ),
            ],
            says: "the program opens new connections and does not close those that the server has closed",
            next: "look for the response or connection object that is not closed",
            not: &["a pool: see `pool`", "a slow client that closes each connection eventually: see `slow`"],
            seen: &[
                "scotte.org, HttpURLConnection (2015)",
                "elastic/beats#19569",
                "pear/Net_SMTP#11",
                "chatwoot/chatwoot#8968",
            ],
        }
    }

    fn counter_evidence(&self) -> &'static [CounterEvidence] {
        &[CounterEvidence::LateExits, CounterEvidence::Sending]
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let evidence = &case.group.evidence;
        let opened = evidence.clients.opened_after_onset.unwrap_or(0);
        if !case.is_client() {
            return None;
        }
        if opened < 2 {
            return to_many_remotes(case);
        }
        let more_than_threads = evidence.waits.is_some_and(|waits| waits.complete && case.group.count > waits.threads);
        let accumulates = case.group.oldest >= super::SURE_AGE && case.group.youngest * 2 <= case.group.oldest;
        let certainty = if more_than_threads && accumulates { Certainty::Medium } else { Certainty::Low };
        Some(Judgement::new(Class::Leak, certainty, move || {
            let (owner, remote) = (text::owner(case), case.socket.remote);
            let threads = match evidence.waits {
                Some(waits) if more_than_threads => {
                    format!("; {} {} only {}", owner.it(), owner.has(), text::count(waits.threads, "thread"))
                }
                Some(_) | None => String::new(),
            };
            Explanation {
                text: format!(
                    "{owner} {has} {count} to {remote} that the server has closed, the oldest {age} ago, and opened {opened} of \
                     them after that{threads}",
                    count = text::count(case.group.count.max(1), "connection"),
                    has = owner.has(),
                    age = text::duration(case.group.oldest),
                ),
                next: format!(
                    "find the calls to {remote} in {owner} whose response or connection is not closed; check the paths for \
                     errors, redirects, statuses other than 200, and canceled calls"
                )
                .into(),
            }
        }))
    }
}

/// Returns the judgement on a program that has connections to many remote endpoints, as a crawler has, or a client of FTP, whose
/// transfers each have a port of their own.
fn to_many_remotes<'c>(case: &'c Case<'_>) -> Option<Judgement<'c>> {
    const MIN_GROUPS: u32 = 4;
    const MIN_SPAN: Duration = Duration::from_secs(10);
    let OwnerClients { count, groups, span } = case.group.evidence.clients.of_owner;
    if groups < MIN_GROUPS || span < MIN_SPAN {
        return None;
    }
    Some(Judgement::new(Class::Leak, Certainty::Low, move || {
        let (owner, remote) = (text::owner(case), case.socket.remote);
        Explanation {
            text: format!(
                "{owner} {has} {count} to {groups} remote endpoints that the servers have closed, within {span}: {it} {connects} \
                 to ever more and {seems} not to close",
                has = owner.has(),
                it = owner.it(),
                connects = owner.word("connects", "connect"),
                seems = owner.word("seems", "seem"),
                count = text::count(count, "connection"),
                span = text::duration(span),
            ),
            next: format!("find the connections to {remote} in {owner} that are not closed after use").into(),
        }
    }))
}

impl Rule for UnreadResponse {
    fn about(&self) -> &'static About {
        &About {
            name: "unread_response",
            when: "the socket is a client's; at least half of the group's sockets have an unread response; `accumulates` does not \
                   apply",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "transient for the first 15 s, then unknown: a slow reader and an abandoned response look the same",
            )],
            says: "the program reads slowly, or has abandoned the response",
            next: "see whether the amount of unread data falls",
            not: &["a closing message that no request asked for: see `pool`"],
            seen: &["TencentBlueKing/bk-repo#2093", "dotnet/corefx#32864"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let clients = &case.group.evidence.clients;
        if !case.is_client() || clients.responses * 2 < case.group.count || clients.responses == 0 {
            return None;
        }
        let old = case.group.oldest >= super::SOME_AGE;
        Some(Judgement::new(if old { Class::Unknown } else { Class::Transient }, Certainty::Low, move || {
            let owner = text::owner(case);
            Explanation {
                text: format!(
                    "{responses} of {count} from {remote} {have} unread data: {owner} {reads} slowly, or {has} abandoned them; {it} {has} \
                     read nothing from this one for {untouched}",
                    have = if clients.responses == 1 { "has" } else { "have" },
                    reads = owner.word("reads", "read"),
                    has = owner.has(),
                    it = owner.it(),
                    responses = clients.responses,
                    count = text::count(case.group.count.max(1), "response"),
                    remote = case.socket.remote,
                    untouched = text::duration(case.untouched),
                ),
                next: text::list(case, "see whether the amount of unread data falls"),
            }
        }))
    }
}

impl Rule for ClientUndecided {
    fn about(&self) -> &'static About {
        &About {
            name: "client_undecided",
            when: "the socket is a client's; the oldest of the group entered 60 s ago or longer; no rule above applies",
            class: &[Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "an idle connection of a pool and a forgotten one look the same until the program opens more",
            )],
            says: "an idle connection of a pool, or one that the program has forgotten to close",
            next: "see whether the number of sockets grows",
            not: &["a pool whose connections were idle when the server closed them: see `pool`"],
            seen: &["elastic/elasticsearch-hadoop#220"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if !case.is_client() || case.group.oldest.max(case.age()) < super::SURE_AGE {
            return None;
        }
        Some(Judgement::new(Class::Unknown, Certainty::Low, move || {
            let (owner, remote) = (text::owner(case), case.socket.remote);
            Explanation {
                text: format!(
                    "{owner} {has} {count} to {remote} that the server has closed, the oldest {age} ago: idle in a pool, or \
                     forgotten",
                    has = owner.has(),
                    count = text::count(case.group.count.max(1), "connection"),
                    age = text::duration(case.group.oldest.max(case.age())),
                ),
                next: format!(
                    "see whether their number grows while {owner} {is} in use; if so, {it} {does} not close them",
                    is = owner.is(),
                    it = owner.it(),
                    does = owner.does(),
                )
                .into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{ClientFacts, Waits},
        testing::Scene,
    };

    #[test]
    fn connections_to_ever_more_remote_endpoints_are_a_leak() {
        let mut scene = Scene::client();
        scene.group.evidence.clients.of_owner = OwnerClients { count: 5, groups: 3, span: Duration::from_secs(20) };
        assert_eq!(scene.check(&Accumulates), None);
        scene.group.evidence.clients.of_owner.groups = 4;
        assert_eq!(scene.check(&Accumulates).unwrap().certainty, Certainty::Low);
        scene.group.evidence.clients.idle = 1;
        assert_eq!(scene.verdict().class, Class::Pool, "it was idle");
        scene.group.evidence.clients.of_owner.span = Duration::from_secs(9);
        assert_eq!(scene.check(&Accumulates), None, "one event");
    }

    #[test]
    fn new_connections_beside_closed_ones_are_a_leak() {
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = ClientFacts { opened_after_onset: Some(1), ..ClientFacts::default() };
        assert_eq!(scene.check(&Accumulates), None);
        scene.group.evidence.clients.opened_after_onset = Some(4);
        assert_eq!(scene.check(&Accumulates).unwrap().certainty, Certainty::Low);
        scene.group.evidence.waits = Some(Waits { threads: 7, complete: true, ..Waits::default() });
        assert_eq!(scene.check(&Accumulates).unwrap().certainty, Certainty::Low, "a pool that is full looks like this");
        scene.group.youngest = Duration::from_secs(30);
        assert_eq!(scene.check(&Accumulates).unwrap().certainty, Certainty::Medium);
        scene.group.oldest = Duration::from_secs(50);
        assert_eq!(
            scene.check(&Accumulates).unwrap().certainty,
            Certainty::Low,
            "it may read them one after the other"
        );
    }
}
