//! A client that opens connections again and again, and closes none.

use crate::diagnose::{About, Case, Judgement, Rule, evidence::CounterEvidence, text};
use crate::model::{Certainty, Class};

/// New connections to the same remote endpoint, while those stay that the server has closed.
pub(super) struct Accumulates;

/// An unread response, and no new connections.
pub(super) struct UnreadResponse;

/// What is left of clients.
pub(super) struct ClientUndecided;

impl Rule for Accumulates {
    fn about(&self) -> &'static About {
        &About {
            name: "accumulates",
            when: "of a client, 2 or more of the group were opened after the oldest had entered, and they were no idle \
                   connections of a pool",
            class: &[Class::Leak],
            certainty: &[
                (Certainty::Medium, "there are more of them than threads: no thread can use them all"),
                (Certainty::Low, "otherwise: each may be in use by a thread"),
            ],
            says: "the program opens new connections and does not close the ones that the server has closed",
            next: "look for the response or connection object that is not closed",
            not: &["a pool, see `pool`", "a slow client that closes each in the end, see `slow`"],
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

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let evidence = &case.group.evidence;
        let opened = evidence.clients.opened_after_onset?;
        if !case.is_client() || opened < 2 {
            return None;
        }
        let more_than_threads = evidence.waits.is_some_and(|waits| waits.complete && case.group.count > waits.threads);
        let (owner, remote) = (text::owner(case), case.socket.remote);
        let threads = match evidence.waits {
            Some(waits) if more_than_threads => {
                format!(", and it has {}", text::count(waits.threads, "thread"))
            }
            Some(_) | None => String::new(),
        };
        Some(Judgement {
            class: Class::Leak,
            certainty: if more_than_threads { Certainty::Medium } else { Certainty::Low },
            text: format!(
                "{owner} has {count} to {remote} that the server has closed, the oldest {age} ago, and has opened {opened} of them \
                 since then{threads}",
                count = text::count(case.group.count.max(1), "connection"),
                age = text::duration(case.group.oldest),
            ),
            next: format!(
                "find the calls to {remote} in {owner} whose response or connection is not closed: errors, redirects, statuses \
                 other than 200, canceled calls"
            ),
        })
    }
}

impl Rule for UnreadResponse {
    fn about(&self) -> &'static About {
        &About {
            name: "unread_response",
            when: "of a client, at least half of the group has an unread response, and at most one was opened after the oldest had \
                   entered",
            class: &[Class::Transient, Class::Unknown],
            certainty: &[(
                Certainty::Low,
                "transient until 60 s, then unknown: a slow reader and a dropped response look alike",
            )],
            says: "the program reads slowly, or has dropped the response",
            next: "see whether less is unread after a while",
            not: &["a farewell that no request had asked for: `pool`"],
            seen: &["TencentBlueKing/bk-repo#2093", "dotnet/corefx#32864"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let clients = &case.group.evidence.clients;
        if !case.is_client() || clients.responses * 2 < case.group.count || clients.responses == 0 {
            return None;
        }
        let old = case.group.oldest >= super::SURE_AGE;
        let (owner, port) = (text::owner(case), text::port(case));
        Some(Judgement {
            class: if old { Class::Unknown } else { Class::Transient },
            certainty: Certainty::Low,
            text: format!(
                "{responses} of {count} from {remote} have unread data: {owner} reads it slowly, or has dropped it; it was \
                 untouched for {untouched}",
                responses = clients.responses,
                count = text::count(case.group.count.max(1), "response"),
                remote = case.socket.remote,
                untouched = text::duration(case.untouched),
            ),
            next: format!("see whether less is unread then: `closewait list --port {port}`"),
        })
    }
}

impl Rule for ClientUndecided {
    fn about(&self) -> &'static About {
        &About {
            name: "client_undecided",
            when: "of a client, no rule above applies, and the oldest of the group entered 60 s ago or longer",
            class: &[Class::Unknown],
            certainty: &[(Certainty::Low, "a pool and a forgotten connection look alike until more are opened")],
            says: "an idle connection of a pool, or a forgotten one",
            next: "see whether their number grows",
            not: &["a pool whose connections were idle: `pool`"],
            seen: &["elastic/elasticsearch-hadoop#220"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if !case.is_client() || case.group.oldest.max(case.age()) < super::SURE_AGE {
            return None;
        }
        let (owner, remote) = (text::owner(case), case.socket.remote);
        Some(Judgement {
            class: Class::Unknown,
            certainty: Certainty::Low,
            text: format!(
                "{owner} has {count} to {remote} that the server has closed, the oldest {age} ago: of a pool, or forgotten",
                count = text::count(case.group.count.max(1), "connection"),
                age = text::duration(case.group.oldest.max(case.age())),
            ),
            next: format!("see whether their number grows while {owner} works: then it forgets to close them"),
        })
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
    fn new_connections_beside_closed_ones_are_a_leak_surer_with_fewer_threads() {
        let mut scene = Scene::client().of(8);
        scene.group.evidence.clients = ClientFacts { opened_after_onset: Some(1), ..ClientFacts::default() };
        assert_eq!(scene.ask(&Accumulates), None);
        scene.group.evidence.clients.opened_after_onset = Some(4);
        assert_eq!(scene.ask(&Accumulates).unwrap().certainty, Certainty::Low);
        scene.group.evidence.waits = Some(Waits { threads: 7, complete: true, ..Waits::default() });
        assert_eq!(scene.ask(&Accumulates).unwrap().certainty, Certainty::Medium);
    }
}
