//! Jobs that give nothing.

use super::*;

#[test]
fn a_job_that_gives_nothing_is_abandoned_and_the_agent_continues() {
    let source = FakeSource::default();
    source.write([enter(1)]);
    let (end_of_test, never) = mpsc::channel::<()>();
    let scan = move |_job, _decoder, _to: &mut Outbox<'_>| {
        let _ended = never.recv();
        Vec::new()
    };
    let patience = Duration::from_millis(300);
    let workers = Workers::start_with(scan, no_inspection, patience).unwrap();
    let path = socket("given-up");
    run(&source, config(), workers, Some(&path), async |lines| {
        lines.wait_for("enter", 1).await;
        // The second query comes while the thread still hangs.
        for _ in 0..2 {
            let began = clock::now();
            let asking = thread::spawn({
                let path = path.clone();
                move || list(&path)
            });
            wait_until("an answer", || asking.is_finished()).await;
            // The engine answers by itself after two seconds.
            let took = clock::now().since(began);
            assert!(took < Duration::from_millis(1500), "{took:?}");
            let (header, rows) = asking.join().unwrap();
            assert_eq!((header.total, rows), (1, 1), "what is known is answered");
        }
        source.write([enter(2)]);
        lines.wait_for("enter", 2).await;
        drop(end_of_test);
    });
}
