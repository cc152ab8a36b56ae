//! A listener whose program no longer accepts.

use crate::{
    play::play,
    scenario::{FIRM, Owner, Part, Scenario, Until},
    stage::{pause, unread},
};

const STOPPED: Scenario = Scenario {
    name: "stops-accepting",
    program: "Python server",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the loop that accepts has stopped",
        count: 15..=15,
        unread: unread("/")..=unread("/"),
        expected: &["never_accepted"],
        certainties: FIRM,
        owner: Owner::Nobody,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_listener_stops_accepting() {
    play(&STOPPED, |stage| {
        stage.python("stops_accepting.py");
        stage.listens(8080);
        for _ in 0..3 {
            drop(stage.answered(8080, "/"));
        }
        let clients: Vec<_> = (0..15).map(|_number| stage.ask(8080, "/")).collect();
        pause(300);
        drop(clients);
        stage.has_waiting(15);
    });
}
