//! Deferred records.

use proptest::prelude::*;

use super::{
    twins::{Delivery, Twins, step},
    *,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deferred_records_change_no_finding_and_no_answer(steps in prop::collection::vec(step(), 1..80)) {
        let mut twins = Twins::new(Delivery::Deferred);
        steps.into_iter().for_each(|step| twins.step(step));
        twins.stop();
    }
}

#[test]
fn a_socket_that_a_scan_found_before_its_only_record_exits() {
    for found in [false, true] {
        let [mut two, mut one] = [engine(Events::All), engine(Events::All)];
        let exit = SocketEvent::Pass {
            key: KEY,
            entered: at(100),
            at: at(300),
            socket: socket().at_entry(),
            how: ExitCause::Closed,
            closer: None,
            fd_open: Some(false),
            wrote: None,
            ended: None,
        };
        for engine in [&mut two, &mut one] {
            if found {
                let since = Since::Between { earliest: None, latest: at(200) };
                engine.handle(ScanFact::Present { key: KEY, at: at(200), since, socket: socket() });
                assert_eq!(engine.totals().tracked, 1);
            }
        }
        let (enter, leave) = exit.clone().split();
        assert!(matches!(enter, Some(SocketEvent::Enter { key: KEY, .. })), "{enter:?}");
        enter.into_iter().chain([leave]).for_each(|event| two.handle(event));
        one.handle(exit);
        assert_eq!(findings(&mut one), findings(&mut two));
        assert_eq!((one.totals(), one.totals().tracked), (two.totals(), 0));
    }
}
