//! The built object: its programs, helpers and maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{rows, source};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/closewait-ebpf"));

/// Every helper whose risks are described (`enum bpf_func_id`, include/uapi/linux/bpf.h at v6.18).
const HELPERS: [(i32, &str); 21] = [
    (1, "bpf_map_lookup_elem"),
    (2, "bpf_map_update_elem"),
    (3, "bpf_map_delete_elem"),
    (8, "bpf_get_smp_processor_id"),
    (14, "bpf_get_current_pid_tgid"),
    (16, "bpf_get_current_comm"),
    (35, "bpf_get_current_task"),
    (46, "bpf_get_socket_cookie"),
    (107, "bpf_sk_storage_get"),
    (112, "bpf_probe_read_user"),
    (113, "bpf_probe_read_kernel"),
    (118, "bpf_jiffies64"),
    (125, "bpf_ktime_get_boot_ns"),
    (127, "bpf_seq_write"),
    (131, "bpf_ringbuf_reserve"),
    (132, "bpf_ringbuf_submit"),
    (133, "bpf_ringbuf_discard"),
    (137, "bpf_skc_to_tcp_sock"),
    (158, "bpf_get_current_task_btf"),
    (162, "bpf_sock_from_file"),
    (175, "bpf_task_pt_regs"),
];
/// Map types whose risks are described (`enum bpf_map_type`, include/uapi/linux/bpf.h at v6.18).
const MAPS: [(u32, &str); 4] = [
    (1, "BPF_MAP_TYPE_HASH"),
    (2, "BPF_MAP_TYPE_ARRAY"),
    (6, "BPF_MAP_TYPE_PERCPU_ARRAY"),
    (27, "BPF_MAP_TYPE_RINGBUF"),
];
/// Sections of the programs. The iterator over TCP sockets must not return: docs/kernel-safety.md.
const SECTIONS: [&str; 4] = ["iter/task_file", "raw_tp", "tp_btf/inet_sock_set_state", "tracepoint"];

#[test]
fn the_object_has_no_path_of_the_machine_that_built_it() {
    let has = |text: &str| OBJECT.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(has("closewait-ebpf/src/sock.rs"), "the verifier names lines of the sources");
    let workspace = source("..").canonicalize().expect("the workspace");
    assert!(!has(workspace.to_str().expect("UTF-8")));
    assert!(!has("/registry/src/"), "a dependency");
}

#[test]
fn every_program_of_the_object_is_described_and_no_other() {
    let sections: BTreeSet<&str> = programs().keys().copied().collect();
    assert_eq!(sections, SECTIONS.into(), "describe it in docs/kernel-safety.md, and add it here");
    assert_eq!(rows("Programs"), SECTIONS.map(str::to_owned).into());
}

#[test]
fn every_helper_of_the_object_is_described_and_no_other() {
    // Functions that programs call are in a section of their own.
    let functions = vec![section(".text")];
    let called: BTreeSet<i32> = programs().into_values().chain([functions]).flat_map(helpers).collect();
    let known: BTreeSet<i32> = HELPERS.into_iter().map(|(number, _name)| number).collect();
    assert_eq!(called, known, "describe it in docs/kernel-safety.md, and add it here");
    assert_eq!(rows("Helpers"), HELPERS.map(|(_number, name)| name.to_owned()).into());
}

#[test]
fn every_map_of_the_object_is_described_and_preallocated() {
    /// `BPF_F_NO_PREALLOC`.
    const NO_PREALLOC: u32 = 1;
    let described = rows("Maps");
    // `struct bpf_map_def` of aya: type, sizes of key and value, number of entries, flags, and two more words.
    let words: Vec<u32> = section("maps").chunks_exact(4).map(|word| u32_at(word, 0)).collect();
    assert!(!words.is_empty() && words.len().is_multiple_of(7), "{} words", words.len());
    for map in words.chunks_exact(7) {
        let name = MAPS.iter().find(|(kind, _name)| *kind == map[0]).map(|(_kind, name)| *name);
        let name = name.unwrap_or_else(|| panic!("describe map type {} in docs/kernel-safety.md", map[0]));
        assert!(described.contains(name), "{name}");
        assert_eq!(map[4] & NO_PREALLOC, 0, "CVE-2026-98642: the map {map:?} takes memory in softirqs");
    }
    // BTF describes the other maps.
    let storage = ["BPF_MAP_TYPE_SK_STORAGE".to_owned()];
    let all: BTreeSet<String> = MAPS.iter().map(|(_kind, name)| (*name).to_owned()).chain(storage).collect();
    assert_eq!(described, all);
    assert_eq!(
        fs::read_to_string(source("../closewait-ebpf/src/maps.rs")).expect("maps.rs").matches("#[btf_map(").count(),
        1
    );
}

/// Returns sections with instructions, by name. Code that programs share is in `.text`.
fn programs() -> BTreeMap<&'static str, Vec<&'static [u8]>> {
    /// `SHF_EXECINSTR`.
    const EXECUTABLE: u64 = 4;
    let mut programs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, flags, bytes) in elf() {
        if flags & EXECUTABLE != 0 && !bytes.is_empty() && name != ".text" {
            programs.entry(name).or_default().push(bytes);
        }
    }
    programs
}

fn section(wanted: &str) -> &'static [u8] {
    elf().into_iter().find(|(name, ..)| *name == wanted).map(|(.., bytes)| bytes).unwrap_or_default()
}

/// Returns the numbers of the helpers that instructions call (`struct bpf_insn`, include/uapi/linux/bpf.h at v6.18).
fn helpers(sections: Vec<&'static [u8]>) -> BTreeSet<i32> {
    const CALL: u8 = 0x85;
    let instructions = sections.into_iter().flat_map(|bytes| bytes.chunks_exact(8));
    let calls = instructions.filter(|insn| insn[0] == CALL && insn[1] >> 4 == 0);
    calls.map(|insn| u32_at(insn, 4).cast_signed()).collect()
}

/// Returns name, flags and bytes of each section of the object, a 64-bit ELF file of little-endian numbers.
fn elf() -> Vec<(&'static str, u64, &'static [u8])> {
    let number = |at: usize| u64::from_le_bytes(OBJECT[at..at + 8].try_into().expect("an object that was built"));
    let short =
        |at: usize| usize::from(u16::from_le_bytes(OBJECT[at..at + 2].try_into().expect("an object that was built")));
    let (table, count, names) = (number(0x28) as usize, short(0x3c), short(0x3e));
    let bytes = |at: usize| {
        // `SHT_NOBITS` has none in the file.
        let length = if u32_at(OBJECT, at + 4) == 8 { 0 } else { number(at + 32) as usize };
        let from = number(at + 24) as usize;
        &OBJECT[from..from + length]
    };
    let names = bytes(table + names * 64);
    let one = |index: usize| {
        let at = table + index * 64;
        let name = names[u32_at(OBJECT, at) as usize..].split(|byte| *byte == 0).next().unwrap_or_default();
        (std::str::from_utf8(name).expect("an object that was built"), number(at + 8), bytes(at))
    };
    (1..count).map(one).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("an object that was built"))
}
