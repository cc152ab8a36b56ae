//! Check whether a directory of a BPF file system may be used for pins, and whether its files are closewait's.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use closewait_common::names;
use closewait_engine::text::harmless_path;
use rustix::process::geteuid;

use super::{
    super::calls::{self, BpfObject},
    FILES, LINK, MODE, OLD_KEPT, PROGRAM,
};

/// Prefixes of the names of closewait's programs; the second one before layout 3.
const PROGRAM_PREFIXES: [&[u8]; 2] = [b"cw_", b"closewait_"];
/// Bytes of a name that the kernel stores (`BPF_OBJ_NAME_LEN` in include/uapi/linux/bpf.h at v5.10, without the
/// zero).
const KERNEL_NAME: usize = 15;

/// Contents of a directory that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// No file.
    Empty,
    /// Files of closewait.
    Ours {
        /// Number of other files.
        others: usize,
    },
}

/// Reads a directory and decides whether this process may use it. `about` is the directory's own metadata. Changes
/// nothing. The inner error is the reason why the directory is not for closewait.
///
/// Looks up a file only if the directory has closewait's own mode: a lookup during a removal can use freed memory
/// (docs/kernel-safety.md).
///
/// # Errors
///
/// If the directory cannot be read.
pub(super) fn contents(dir: &Path, about: &Metadata) -> io::Result<Result<Contents, String>> {
    let found: Vec<OsString> =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
    if found.is_empty() {
        return Ok(match fs::metadata(dir.join(".."))? {
            // The root of a file system is its own parent if nothing is above it.
            parent if parent.dev() != about.dev() || parent.ino() == about.ino() => {
                Err("it is the root of a mounted file system".to_owned())
            }
            _ if about.uid() != geteuid().as_raw() => Err(format!("it belongs to user {}", about.uid())),
            _ => Ok(Contents::Empty),
        });
    }
    let mode = about.mode() & 0o7777;
    if mode != MODE {
        return Ok(Err(format!(
            "it has files, and its mode is {mode:04o}: closewait's own directories have {MODE:04o}"
        )));
    }
    let ours: Vec<&str> = FILES.into_iter().filter(|name| found.iter().any(|found| found == name)).collect();
    if ours.is_empty() {
        let first = found.first().map(|name| harmless_path(name.as_bytes())).unwrap_or_default();
        return Ok(Err(format!("it has files that closewait did not make ({first})")));
    }
    let is_notes = |name| object(dir, name).is_some_and(|notes| is_ours(name, &notes, None, false));
    let has_notes = [names::KEPT, OLD_KEPT].into_iter().any(is_notes);
    let program = object(dir, PROGRAM);
    let foreign = ours
        .iter()
        .find(|name| !object(dir, name).is_some_and(|object| is_ours(name, &object, program.as_ref(), has_notes)));
    Ok(match foreign {
        Some(name) => Err(format!("closewait did not make the file {name} in it")),
        None => Ok(Contents::Ours { others: found.len() - ours.len() }),
    })
}

/// Returns the object that is pinned under a name; `None` if there is none, or the kernel does not describe it.
fn object(dir: &Path, name: &str) -> Option<BpfObject> {
    calls::pinned(&dir.join(name)).and_then(|object| calls::describe(object.as_fd())).ok()
}

/// Whether an agent has pinned `object` under this name. `program` is the object under the name of the program;
/// `has_notes` says that the directory has an agent's notes.
fn is_ours(name: &str, object: &BpfObject, program: Option<&BpfObject>, has_notes: bool) -> bool {
    match (name, object) {
        (PROGRAM, BpfObject::Program { name, .. }) => PROGRAM_PREFIXES.iter().any(|prefix| name.starts_with(prefix)),
        (LINK, BpfObject::Link { program: attached }) => match program {
            Some(BpfObject::Program { id, .. }) => id == attached,
            Some(BpfObject::Map { .. } | BpfObject::Link { .. }) => false,
            // An agent was interrupted right after it had pinned the link. It writes its notes before that.
            None => has_notes,
        },
        (PROGRAM | LINK, _) => false,
        (_, BpfObject::Map { name: kept }) => {
            kept.as_slice() == name.as_bytes().get(..KERNEL_NAME).unwrap_or(name.as_bytes())
        }
        (_, BpfObject::Program { .. } | BpfObject::Link { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str) -> BpfObject {
        BpfObject::Map { name: name.into() }
    }

    fn program(name: &str, id: u32) -> BpfObject {
        BpfObject::Program { name: name.into(), id }
    }

    #[test]
    fn objects_are_known_by_kind_and_name() {
        let ours = |name, object: &BpfObject| is_ours(name, object, Some(&program(names::PROGRAM_BTF, 7)), true);
        assert!(ours(PROGRAM, &program(names::PROGRAM_CLASSIC, 7)));
        assert!(ours(LINK, &BpfObject::Link { program: 7 }));
        assert!(ours(names::OPENERS, &map(names::OPENERS)) && ours(names::KEPT, &map(names::KEPT)));
        // Names before layout 3.
        assert!(ours(PROGRAM, &program("closewait_trace", 7)) && ours("CLOSEWAIT_OPENERS", &map("CLOSEWAIT_OPENE")));
        for (name, object) in [
            (PROGRAM, program("cil_from_netdev", 7)),
            (PROGRAM, map(names::PROGRAM_BTF)),
            (LINK, BpfObject::Link { program: 8 }),
            (LINK, map(LINK)),
            (names::KEPT, map("")),
            (names::KEPT, map(names::RING)),
            (names::KEPT, program(names::KEPT, 7)),
        ] {
            assert!(!ours(name, &object), "{name}: {object:?}");
        }
    }

    #[test]
    fn a_link_without_its_program_is_known_by_the_notes_beside_it() {
        let link = BpfObject::Link { program: 7 };
        assert!(is_ours(LINK, &link, None, true) && !is_ours(LINK, &link, None, false));
        assert!(!is_ours(LINK, &link, Some(&map(PROGRAM)), true));
    }
}
