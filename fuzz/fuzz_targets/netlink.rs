//! The kernel's answers to questions for sockets.
#![no_main]

use std::time::Duration;

use closewait_engine::{decode::Decoder, time::Boot};
use closewait::source::diag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::from_secs(9) };
    for asked in [(Boot(0), Boot(0)), (Boot(1 << 40), Boot(1 << 41)), (Boot(0), Boot(u64::MAX))] {
        diag::fuzz(bytes, decoder, asked);
    }
});
