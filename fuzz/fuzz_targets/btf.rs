//! The kernel's types, from a file with any content.
#![no_main]

use closewait::host::btf::{Btf, abilities, layout};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    look(bytes.to_vec());
    // With a valid header: the first two bytes are the start of the strings.
    if let Some((&[low, high], body)) = bytes.split_first_chunk() {
        let types = usize::from(u16::from_le_bytes([low, high])).min(body.len());
        let strings = body.len() - types;
        let mut whole = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            whole.extend(u32::try_from(word).expect("inputs are small").to_le_bytes());
        }
        whole.extend(body);
        look(whole);
    }
});

fn look(bytes: Vec<u8>) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    let _offsets = (layout(&btf), abilities(&btf));
    for name in ["sock", "tcp_sock", "socket_alloc", ""] {
        let _facts = (btf.size_of(name), btf.typedef(name), btf.function(name), btf.has_type(name));
        let _value = btf.enum_value(name, "SOCK_DONE");
    }
}
