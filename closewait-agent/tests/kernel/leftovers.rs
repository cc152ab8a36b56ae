//! Check for programs and maps that an ended agent has left in the kernel.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::clock::poll_until;

/// Program or map in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Program(u32),
    Map(u32),
}

/// Returns the number of closewait's programs that the process owns.
pub(crate) fn programs_held_by(pid: u32) -> usize {
    let ours = loaded();
    let held = held_by(&pid.to_string());
    held.iter().filter(|object| matches!(object, Object::Program(_)) && ours.contains(object)).count()
}

/// Checks that no program or map of closewait is without an owner.
///
/// Agents of other users may run at the same time. The kernel frees closed objects some time later, so this waits for
/// that.
pub(crate) fn assert_none() {
    let mut left = orphans();
    let gone = poll_until(Duration::from_secs(2), || {
        let now = orphans();
        left.retain(|object| now.contains(object));
        left.is_empty()
    });
    assert!(gone, "still in the kernel, held by no process: {left:?}");
}

fn orphans() -> BTreeSet<Object> {
    // In this order: an object that is loaded in between is not in the first list, so it cannot look like an orphan.
    let mut ours = loaded();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let processes = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let held: BTreeSet<Object> = processes.flat_map(|process| held_by(&process)).collect();
    ours.retain(|object| !held.contains(object));
    // A program owns its maps.
    let programs = aya::programs::loaded_programs().flatten();
    for program in programs.filter(|program| held.contains(&Object::Program(program.id()))) {
        for map in program.map_ids().ok().flatten().unwrap_or_default() {
            ours.remove(&Object::Map(map));
        }
    }
    ours
}

/// Returns all objects of closewait, by their names.
fn loaded() -> BTreeSet<Object> {
    let ours = |name: &[u8]| name.starts_with(b"cw_");
    // An object that vanishes during the scan is an error of that one step.
    let programs = aya::programs::loaded_programs().flatten();
    let maps = aya::maps::loaded_maps().flatten();
    let programs = programs.filter(|program| ours(program.name())).map(|program| Object::Program(program.id()));
    let maps = maps.filter(|map| ours(map.name())).map(|map| Object::Map(map.id()));
    programs.chain(maps).collect()
}

/// Returns all objects that the descriptors of a process refer to; none if there is no such process.
fn held_by(process: &str) -> BTreeSet<Object> {
    let mut held = BTreeSet::new();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return held };
    for descriptor in descriptors.flatten() {
        let Ok(text) = fs::read_to_string(descriptor.path()) else { continue };
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let Ok(id) = value.trim().parse() else { continue };
            match name {
                "prog_id" => {
                    held.insert(Object::Program(id));
                }
                "map_id" => {
                    held.insert(Object::Map(id));
                }
                _other => {}
            }
        }
    }
    held
}
