//! Two threads for one job: one reads, the other stores or prints what was read.

use std::{panic, sync::mpsc, thread};

/// Maximum number of parts that wait for the consumer.
const MAX_WAITING: usize = 16;

/// Does `produce` on a thread of this name, and on this thread `work` and then `consume` with each part that `produce` puts.
/// Returns the results of `work` and `produce`. If no thread can start, `produce` runs after `work` on this one.
///
/// `work` can use the consumer. When `consume` returns `false`, or panics, no part follows, and putting returns `false`.
/// A panic of `produce` is passed on.
pub(crate) fn beside<T, C, W, R>(
    name: &str,
    produce: impl Fn(&mut dyn FnMut(T) -> bool) -> R + Sync,
    mut consumer: C,
    work: impl FnOnce(&mut C) -> W,
    mut consume: impl FnMut(&mut C, T) -> bool,
) -> (W, R)
where
    T: Send,
    R: Send,
{
    let (sender, parts) = mpsc::sync_channel(MAX_WAITING);
    let produce = &produce;
    thread::scope(|scope| {
        let run = move || produce(&mut |part| sender.send(part).is_ok());
        let producer = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
        let worked = work(&mut consumer);
        let Ok(producer) = producer else {
            let produced = produce(&mut |part| consume(&mut consumer, part));
            return (worked, produced);
        };
        // The loop drops the receiver, so a producer that waits for room ends.
        for part in parts {
            if !consume(&mut consumer, part) {
                break;
            }
        }
        (worked, producer.join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(put: &mut dyn FnMut(u32) -> bool) -> u32 {
        (0..1000).take_while(|number| put(*number)).count() as u32
    }

    #[test]
    fn parts_arrive_in_order_after_the_work() {
        let work = |got: &mut Vec<u32>| got.push(7);
        let mut got = Vec::new();
        let take = |got: &mut &mut Vec<u32>, number| {
            got.push(number);
            true
        };
        let ((), produced) = beside("closewait-test", numbers, &mut got, |got| work(got), take);
        assert_eq!(produced, 1000);
        assert_eq!(got[0], 7);
        assert!(got[1..].iter().copied().eq(0..1000));
    }

    #[test]
    fn a_consumer_that_wants_no_more_ends_the_producer() {
        let (_, produced) = beside(
            "closewait-test",
            numbers,
            0,
            |_| (),
            |count, _| {
                *count += 1;
                *count < 10
            },
        );
        assert!(produced < 1000, "{produced}");
    }

    #[test]
    #[should_panic(expected = "of the producer")]
    fn a_panic_of_the_producer_is_passed_on() {
        let produce = |_: &mut dyn FnMut(u32) -> bool| panic!("of the producer");
        let ((), ()) = beside("closewait-test", produce, (), |()| (), |(), _| true);
    }
}
