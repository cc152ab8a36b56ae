//! Sockets whose entries have no record yet.

use super::*;

impl FakeSource {
    /// Has a socket enter now, with a deferred record.
    fn enters_deferred(&self, number: u16) {
        self.state().unannounced.push_back((clock::now(), enter(number)));
    }
}

fn deferring() -> FakeSource {
    let source = FakeSource::default();
    source.state().defers = true;
    source
}

#[test]
fn a_socket_that_stays_is_announced_without_any_other_event() {
    let source = deferring();
    let events = run(&source, config(), no_jobs(), None, async |lines| {
        // Only after the start, at which all are announced.
        wait_until("a read", || source.state().reads > 0).await;
        source.enters_deferred(1);
        lines.wait_for("enter", 1).await;
        assert!(source.state().unannounced.is_empty());
    });
    assert!(kinds(&events).contains(&("enter".to_owned(), Some(1))), "{events:?}");
}

#[test]
fn an_answer_has_the_socket_that_has_just_entered() {
    let (source, path) = (deferring(), socket("deferred"));
    run(&source, config(), no_jobs(), Some(&path), async |_lines| {
        for number in 1..=3 {
            source.enters_deferred(number);
            let asking = thread::spawn({
                let path = path.clone();
                move || list(&path)
            });
            wait_until("an answer", || asking.is_finished()).await;
            assert_eq!(asking.join().unwrap().1, usize::from(number));
        }
    });
}

#[test]
fn the_last_totals_have_the_socket_that_has_just_entered() {
    let source = deferring();
    let events = run(&source, config(), no_jobs(), None, async |_lines| source.enters_deferred(1));
    let stop = events.last().unwrap();
    assert_eq!((stop["event"].as_str(), stop["totals"]["tracked"].as_u64()), (Some("stop"), Some(1)), "{stop}");
}

#[test]
fn what_an_earlier_agent_left_is_announced_by_one_that_defers_nothing() {
    let source = FakeSource::default();
    source.enters_deferred(1);
    run(&source, config(), no_jobs(), None, async |lines| lines.wait_for("enter", 1).await);
}
