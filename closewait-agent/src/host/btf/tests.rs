//! Tests of the type reader.

use closewait_common::config::{Layout, MISSING};
use proptest::prelude::*;

use super::{blob::Blob, *};

fn parse(blob: &Blob) -> Btf {
    Btf::parse(blob.bytes()).unwrap()
}

/// Builds a file with every kind of type.
fn sample() -> Blob {
    let mut blob = Blob::new();
    let int = blob.int(4);
    let inner = blob.structure("inner", false, &[("x", int, 0), ("y", int, 32)]);
    let tagged = blob.add("user", (TYPE_TAG, 0, false), inner, &[]);
    let constant = blob.add("", (CONST, 0, false), tagged, &[]);
    let alias = blob.add("inner_t", (TYPEDEF, 0, false), constant, &[]);
    let pointer = blob.add("", (PTR, 0, false), inner, &[]);
    let hidden = blob.structure("", false, &[("deep", alias, 64), ("p", pointer, 128)]);
    let variant = blob.structure("", true, &[("", hidden, 32)]);
    blob.structure("outer", true, &[("first", int, 0), ("", variant, 64), ("bit", int, 1 << 24 | 200)]);
    blob.add("a_tag", (DECL_TAG, 0, false), inner, &[u32::MAX]);
    let keepopen = blob.string("KEEPOPEN");
    let minus = blob.string("MINUS");
    blob.add("flags", (ENUM, 2, false), 4, &[keepopen, 3, minus, u32::MAX]);
    let big = blob.string("BIG");
    let small = blob.string("SMALL");
    blob.add("wide", (ENUM64, 2, false), 8, &[big, 0, 1, small, 7, 0]);
    let proto = blob.add("", (FUNC_PROTO, 0, false), 0, &[]);
    blob.add("do_it", (FUNC, 0, false), proto, &[]);
    blob
}

#[test]
fn finds_members_through_anonymous_structs_and_aliases() {
    let btf = parse(&sample());
    assert_eq!(btf.offset("outer", "first"), Some(0));
    assert_eq!(btf.offset("outer", "deep"), Some(8 + 4 + 8));
    assert_eq!(btf.offset("outer", "deep.y"), Some(8 + 4 + 8 + 4));
    assert_eq!(btf.offset("inner_t", "y"), Some(4));
}

#[test]
fn does_not_follow_pointers() {
    let btf = parse(&sample());
    assert_eq!(btf.offset("outer", "p"), Some(8 + 4 + 16));
    assert_eq!(btf.offset("outer", "p.x"), None);
}

#[test]
fn unknown_names_are_none() {
    let btf = parse(&sample());
    for (type_name, path) in [("outer", "nothing"), ("nobody", "first"), ("outer", ""), ("", ""), ("outer", "deep.y.z")]
    {
        assert_eq!(btf.offset(type_name, path), None, "{type_name}.{path}");
    }
    assert!(!btf.has_type("nobody"));
    assert!(!btf.has_function("outer"));
}

#[test]
fn bit_fields_have_no_byte_offset_unless_they_fill_whole_bytes() {
    let mut blob = Blob::new();
    let int = blob.int(4);
    let old_style = blob.add("int", (INT, 0, false), 4, &[5]);
    blob.structure(
        "new",
        true,
        &[("bits", int, 3 << 24 | 8), ("late", int, 8 << 24 | 11), ("byte", int, 8 << 24 | 16)],
    );
    blob.structure("old", false, &[("bits", old_style, 8), ("whole", int, 32)]);
    let btf = parse(&blob);
    assert_eq!(btf.offset("new", "bits"), None);
    assert_eq!(btf.offset("new", "late"), None);
    assert_eq!(btf.offset("new", "byte"), Some(2));
    assert_eq!(btf.offset("old", "bits"), None);
    assert_eq!(btf.offset("old", "whole"), Some(4));
}

#[test]
fn reads_enums_functions_and_sizes() {
    let btf = parse(&sample());
    assert_eq!(btf.enum_value("flags", "KEEPOPEN"), Some(3));
    assert_eq!(btf.enum_value("flags", "MINUS"), None);
    assert_eq!(btf.enum_value("wide", "BIG"), None);
    assert_eq!(btf.enum_value("wide", "SMALL"), Some(7));
    assert!(btf.has_function("do_it"));
    assert!(btf.has_type("inner_t"));
    assert_eq!(btf.size_of("inner_t"), Some(64));
    assert_eq!(btf.size_of("do_it"), None);
}

#[test]
fn skips_an_unknown_kind_if_the_file_has_its_size() {
    let mut blob = sample();
    blob.add("new", (20, 2, false), 0, &[0; 1 + 2 * 2]);
    blob.structure("after", false, &[]);
    assert!(matches!(Btf::parse(blob.bytes()), Err(BtfError::Kind { kind: 20, .. })));
    // The table of kinds stands behind the strings; kind 20 has one word and two more for each element.
    let mut table = vec![0_u8; 20 * 4];
    table.extend([4, 8, 0, 0]);
    blob.header_extra = vec![0; 8];
    let strings_end = blob.bytes().len() - 32;
    blob.header_extra = [strings_end, table.len()].iter().flat_map(|&n| (n as u32).to_ne_bytes()).collect();
    let mut bytes = blob.bytes();
    bytes.extend(table);
    assert!(Btf::parse(bytes).unwrap().has_type("after"));
}

#[test]
fn refuses_what_is_not_btf() {
    assert!(matches!(Btf::parse(vec![]), Err(BtfError::Truncated { .. })));
    assert!(matches!(Btf::parse(vec![0; 64]), Err(BtfError::Magic)));
    let mut bytes = sample().bytes();
    bytes.pop();
    assert!(matches!(Btf::parse(bytes), Err(BtfError::Truncated { .. })));
}

#[test]
fn types_that_contain_themselves_end() {
    let mut blob = Blob::new();
    blob.add("loop_t", (TYPEDEF, 0, false), 1, &[]);
    let members = [("", 2, 0); 200];
    blob.structure("loop", false, &members);
    let btf = parse(&blob);
    assert_eq!(btf.offset("loop_t", "x"), None);
    assert_eq!(btf.size_of("loop_t"), None);
    assert_eq!(btf.offset("loop", "x"), None);
}

#[test]
fn a_kernel_without_any_member_gives_an_empty_layout() {
    let btf = parse(&sample());
    assert_eq!(layout(&btf), Layout::NONE);
    let abilities = abilities(&btf);
    assert_eq!((abilities.socket_cookie, abilities.keepopen_bit), (0, MISSING));
}

/// Runs on any kernel; prints a note if it has no type information.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn finds_every_member_in_the_running_kernel() {
    let btf = match Btf::read(Path::new(VMLINUX)) {
        Ok(btf) => btf,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let found = layout(&btf);
    let text = format!("{found:?}");
    let missing: Vec<_> = text.split(", ").filter(|field| field.contains(&MISSING.to_string())).collect();
    // One of `file_count` and `file_ref` is always missing; `sock_cgroup` came with 5.15 and stable kernels since
    // 5.10; x86_64 has no link register.
    let optional = ["file_count", "file_ref", "sock_cgroup", "sock_v6", "regs_lr"];
    assert!(missing.iter().all(|field| optional.iter().any(|name| field.contains(name))), "{missing:?}");
    assert!((found.file_count == MISSING) != (found.file_ref == MISSING), "{text}");
    let sock_bytes = btf.size_of("sock").unwrap();
    assert!(found.sock_state < 64 && found.sock_err < sock_bytes && found.sock_socket < sock_bytes, "{text}");
    assert!(found.tcp_rcv_nxt > sock_bytes && found.tcp_rcv_nxt < btf.size_of("tcp_sock").unwrap(), "{text}");
    assert!(found.socket_ino > btf.size_of("socket").unwrap(), "{text}");
    // Programs see the same order, so it never changes (`user_regs_struct`, `user_pt_regs`).
    let registers = [found.regs_pc, found.regs_sp, found.regs_fp, found.regs_lr];
    let expected = if cfg!(target_arch = "x86_64") { [128, 152, 32, MISSING] } else { [256, 248, 232, 240] };
    assert_eq!(registers, expected);
    assert_eq!(abilities(&btf).keepopen_bit, 3);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(bytes);
    }

    #[test]
    fn damaged_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample().bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(bytes.clone());
        let cut = cut.index(bytes.len());
        bytes.truncate(cut);
        exercise(bytes);
    }
}

/// Calls every method on a file that may be malformed.
fn exercise(bytes: Vec<u8>) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for name in ["outer", "inner", "inner_t", "flags", "wide", ""] {
        for path in ["first", "deep.y", "p.x", "bit", "."] {
            let _: Option<u32> = btf.offset(name, path);
        }
        let _: Option<u32> = btf.size_of(name);
        let _: Option<u32> = btf.enum_value(name, "KEEPOPEN");
        let _: bool = btf.has_function(name);
    }
    let _: Layout = layout(&btf);
}
