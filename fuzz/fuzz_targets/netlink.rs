//! The kernel's answers to `sock_diag` queries.
#![no_main]

use std::time::Duration;

use closewait::source::diag;
use closewait_engine::{decode::Decoder, time::BootTime};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::from_secs(9) };
    for asked in [(BootTime(0), BootTime(0)), (BootTime(1 << 40), BootTime(1 << 41)), (BootTime(0), BootTime(u64::MAX))]
    {
        diag::fuzz(bytes, decoder, asked);
    }
});
