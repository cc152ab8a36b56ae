//! Format text of a tracepoint.
#![no_main]

use closewait::host::tracefs::parse_format;
use closewait_common::config::MISSING;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(layout) = parse_format(&text) {
        for offset in [layout.skaddr, layout.oldstate, layout.newstate, layout.protocol] {
            assert_ne!(offset, MISSING, "no record makes sense without it");
            assert!(text.contains(&offset.to_string()), "an offset that nobody has named");
        }
    }
});
