//! Cost of the kernel side: the instructions that the verifier processes for each program, and the memory of each map, each
//! with a budget. docs/kernel-safety.md names these tables.

use std::{collections::BTreeMap, fs};

use closewait_common::names;

use crate::{
    ability::{Ability, can, tell, version},
    agent::Agent,
};

/// Maximum number of instructions that the verifier may process for each program, on kernels before 6.12 and on later
/// ones: about 1.5 times the number on 6.1, and the highest number on 6.12, 6.18 and 7.3. The verifier's own limit is
/// a million.
const INSTRUCTIONS: [(&str, u64, u64); 6] = [
    (names::PROGRAM_BTF, 45_000, 8_500),
    (names::PROGRAM_CLASSIC, 6_500, 5_200),
    (names::ITER_FILES, 10_000, 9_500),
    (names::ITER_PROXY_PEERS, 3_700, 3_600),
    // Also writes records of entries.
    (names::REFRESH, 9_200, 8_500),
    (names::COPY, 30_000, 30_000),
];

/// Maximum number of bytes of each map with the default settings: in total, and per CPU. About 1.5 times the number
/// that 5.10 and those kernels report; kernels before 6.4 round to pages, and 6.1 omits the entries of some maps.
const BYTES: [(&str, u64, u64); 16] = [
    (names::SINCE, 32 << 20, 0),
    (names::SLOTS, 400 << 10, 0),
    // Parts for up to 8 CPUs.
    (names::PASSES, 0, 480 << 10),
    (names::RING, 6 << 20, 0),
    (names::LOG_RING, 216 << 10, 0),
    (names::KNOWN, 128 << 10, 0),
    (names::WATCHED, 192 << 10, 0),
    (names::WATCHING, 8 << 10, 0),
    (names::CONNECTS, 416 << 10, 0),
    (names::CONNECT_WATCHES, 24 << 10, 0),
    (names::KEPT, 24 << 10, 0),
    (names::STATS, 4 << 10, 24 << 10),
    (names::OPENERS, 6 << 10, 0),
    (names::BATCH, 80 << 10, 0),
    ("cw_work", 8 << 10, 1 << 10),
    // Globals that are constant after the load.
    (".rodata", 6 << 10, 0),
];

#[test]
fn every_program_and_map_stays_within_its_budget() {
    let (mut programs, mut maps) = (BTreeMap::new(), BTreeMap::new());
    let everything: &[&str] = if can(Ability::Openers) { &["--openers", "--kernel-log"] } else { &["--kernel-log"] };
    let everything = [everything, &["--stacks", "auto"]].concat();
    for arguments in [&everything[..], &["--hook", "classic", "--stacks", "auto"]] {
        let agent = Agent::start(arguments);
        for fields in descriptors(agent.pid()) {
            let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
            // A link has the number of its program too, but no instructions.
            if let (Some(id), true) = (number("prog_id"), fields.contains_key("prog_jited")) {
                programs.insert(program_name(id), number("verified_insns"));
            } else if let (Some(id), Some(bytes)) = (number("map_id"), number("memlock")) {
                let largest = maps.entry(map_name(id)).or_insert(bytes);
                *largest = bytes.max(*largest);
            }
        }
        agent.stop().totals();
    }
    let mut over = Vec::new();
    for (name, instructions) in &programs {
        let budget = INSTRUCTIONS.iter().find(|(known, ..)| known == name);
        let budget = budget.map(|(_name, before, since)| if version() < (6, 12) { *before } else { *since });
        report(&format!("instructions of {name}"), *instructions, budget, &mut over);
        assert!(instructions.is_some() || !can(Ability::VerifiedCount), "the kernel has counted for {name}");
    }
    for (name, bytes) in &maps {
        let budget = BYTES.iter().find(|(known, ..)| known == name).map(|(_name, all, each)| all + each * cpus());
        report(&format!("bytes of {name}"), Some(*bytes), budget, &mut over);
    }
    assert!(over.is_empty(), "make it smaller, or raise its budget with a reason: {over:#?}");
    // The tables have entries for existing objects.
    assert!(programs.contains_key(names::PROGRAM_CLASSIC), "{programs:?}");
    assert!(!can(Ability::Legs) || programs.len() == INSTRUCTIONS.len(), "{programs:?}");
    assert!(!can(Ability::Legs) || maps.len() == BYTES.len(), "{maps:?}");
}

/// Prints one number beside its budget, and adds it to `over` if it exceeds that or has none.
#[expect(clippy::print_stdout, reason = "shown with --nocapture")]
fn report(what: &str, number: Option<u64>, budget: Option<u64>, over: &mut Vec<String>) {
    let shown = |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
    let line = format!("{} of {}", shown(number), shown(budget));
    println!("{what}: {line}");
    tell(what, &line);
    if budget.is_none() || number > budget {
        over.push(format!("{what}: {line}"));
    }
}

/// Returns the ids of the maps that a process has descriptors of, by name.
pub(crate) fn maps_of(pid: u32) -> BTreeMap<String, u32> {
    let id = |fields: BTreeMap<String, String>| fields.get("map_id")?.parse::<u32>().ok();
    descriptors(pid).into_iter().filter_map(id).map(|id| (map_name(id.into()), id)).collect()
}

/// Returns the fields of `/proc/PID/fdinfo`, of each descriptor.
fn descriptors(pid: u32) -> Vec<BTreeMap<String, String>> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the descriptors of the agent").flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    texts.map(|text| text.lines().filter_map(field).collect()).collect()
}

fn program_name(id: u64) -> String {
    let mut loaded = aya::programs::loaded_programs().flatten();
    let program = loaded.find(|program| u64::from(program.id()) == id).expect("a program of the agent");
    program.name_as_str().expect("UTF-8").to_owned()
}

fn map_name(id: u64) -> String {
    let info = aya::maps::MapInfo::from_id(u32::try_from(id).expect("an id")).expect("a map of the agent");
    info.name_as_str().expect("UTF-8").to_owned()
}

/// Returns the number of possible CPUs: a per-CPU map has a value for each.
fn cpus() -> u64 {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").expect("the CPUs");
    let last = possible.trim().rsplit(['-', ',']).next().expect("a number");
    last.parse::<u64>().expect("a number") + 1
}
