//! First bytes of a receive queue: whatever a peer has sent to any program.
#![no_main]

use closewait_engine::unread::{MAX_PEEKED, UnreadRequest, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let is_cut = bytes.len() >= MAX_PEEKED;
    let bytes = bytes.get(..MAX_PEEKED).unwrap_or(bytes);
    let Some(request) = parse(bytes, is_cut) else { return };
    let shown = request.to_string();
    assert!(shown.chars().all(|character| character.is_ascii_graphic() || matches!(character, ' ' | '…')), "{shown:?}");
    assert!(shown.len() <= 270, "{shown:?}");
    if let UnreadRequest::Http { path, .. } = &request {
        assert!(path.chars().count() <= 129 && !path.contains(['?', '#', ';', '=', '&', '@', '%']), "{path:?}");
    }
    let recorded = serde_json::to_vec(&request).expect("JSON");
    assert_eq!(serde_json::from_slice::<UnreadRequest>(&recorded).expect("the same"), request);
});
