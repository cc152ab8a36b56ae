//! Bytes of the ring buffer: decoded, and handled by the engine.
#![no_main]

use std::{borrow::Cow, mem::offset_of, time::Duration};

use closewait::recording::Item;
use closewait_common::{
    Record,
    record::{DETAILED_SIZE, FORMAT, HOLD_SIZE, SIZE, kind},
};
use closewait_engine::{
    decode::Decoder,
    model::{Counters, Observation, ScanFact, Since, SocketEvent},
    time::BootTime,
};
use closewait_fuzz::Play;
use libfuzzer_sys::fuzz_target;

const DECODER: Decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::from_secs(9) };

fuzz_target!(|bytes: &[u8]| {
    let _raw = DECODER.decode(bytes);
    let mut play = Play::new(Duration::from_secs(10), BootTime(0));
    let (mut rest, mut now) = (bytes, BootTime(0));
    while let Some((&what, after)) = rest.split_first() {
        let take = |length: usize| after.split_at(length.min(after.len()));
        let used = match what % 8 {
            0..=4 => {
                let length = if what & 16 == 0 { SIZE } else { DETAILED_SIZE };
                let (taken, left) = take(length);
                decode(&mut play, taken, length);
                left
            }
            5 => {
                let (taken, left) = take(8);
                let mut number = [0; 8];
                number[..taken.len()].copy_from_slice(taken);
                now = BootTime(u64::from_le_bytes(number));
                play.engine.handle_timeout(now);
                left
            }
            6 => {
                play.answer(now);
                after
            }
            _ => {
                play.engine.handle(Observation::Counters { at: now, counters: Box::new(Counters::default()) });
                play.list(now);
                after
            }
        };
        play.drain();
        rest = used;
    }
    play.engine.stop();
    play.engine.handle(Observation::Counters { at: now, counters: Box::new(Counters::default()) });
    play.drain();
});

/// Decodes a record of the right length and format, about one of four sockets: otherwise hardly two would be about
/// the same one.
fn decode(play: &mut Play, taken: &[u8], length: usize) {
    const SK: usize = offset_of!(Record, sk);
    let mut record = vec![0; length];
    record[..taken.len()].copy_from_slice(taken);
    record[..2].copy_from_slice(&FORMAT.to_ne_bytes());
    if record[offset_of!(Record, kind)] == kind::HOLDS {
        record.truncate(HOLD_SIZE);
        record[8..16]
            .copy_from_slice(&(u64::MAX << 47 | u64::from(taken.last().copied().unwrap_or(0) & 3)).to_ne_bytes());
    } else {
        let sk = u64::MAX << 47 | u64::from(record[SK] & 3);
        record[SK..SK + 8].copy_from_slice(&sk.to_ne_bytes());
    }
    let Ok(observation) = DECODER.decode(&record) else { return };
    match &observation {
        Observation::Scan(ScanFact::Present { at, since: Since::Between { earliest, latest }, .. }) => {
            assert!(latest <= at && earliest.is_none_or(|earliest| earliest <= *latest));
        }
        Observation::Socket(SocketEvent::Leave { at, entered, .. }) => {
            assert!(entered.is_none_or(|entered| entered <= *at))
        }
        _ => {}
    }
    let mut recorded = Vec::new();
    Item::Fact(Cow::Borrowed(&observation)).encode(&mut recorded).expect("an observation can be recorded");
    let again = Item::decode(&mut &recorded[..]).expect("and read again");
    assert!(
        matches!(again, Item::Fact(again) if *again == observation),
        "an observation is the same after it was recorded"
    );
    play.engine.handle(observation);
}
