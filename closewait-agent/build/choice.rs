//! Decides whether a build compiles the kernel program or embeds an empty object in its place.
//!
//! The build script, `xtask/src/setup/mod.rs` and `tests/build_choice.rs`, which tests this file, compile it.

use std::{
    env,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

/// Version of bpf-linker that `cargo xtask setup` installs and a build accepts: the one for the aya releases in Cargo.toml.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// Outcome of the decision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Compile the kernel program with the linker in this folder.
    Compile(PathBuf),
    /// Embed an empty object: nothing loads the kernel program of a fuzz target.
    EmptyForFuzzing,
    /// Embed an empty object, because the machine is not set up.
    Empty(Missing),
    /// End the build with an error, because the caller does not accept an empty object.
    Refuse(Missing),
}

/// Missing part of the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no usable bpf-linker, neither in this folder nor in PATH.
    Linker(PathBuf),
    /// The source of the standard library is not in this folder.
    StdSource(PathBuf),
}

impl fmt::Display for Missing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linker(bin) => {
                write!(to, "bpf-linker {LINKER_VERSION} for this compiler is neither in {} nor in PATH", bin.display())
            }
            Self::StdSource(dir) => write!(to, "the source of the standard library is not in {}", dir.display()),
        }
    }
}

/// Decides. `tools` returns the linker's folder, or the missing part; `required` says that the caller does not accept
/// an empty object.
pub(crate) fn choose(fuzzing: bool, required: bool, tools: impl FnOnce() -> Result<PathBuf, Missing>) -> Choice {
    if fuzzing {
        return Choice::EmptyForFuzzing;
    }
    match tools() {
        Ok(linker_dir) => Choice::Compile(linker_dir),
        Err(missing) if required => Choice::Refuse(missing),
        Err(missing) => Choice::Empty(missing),
    }
}

/// Returns whether the value of the variable `CLOSEWAIT_REQUIRE_EBPF` forbids an empty object.
pub(crate) fn is_required(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

/// Searches for the tools. Returns the folder of the linker: `setup_bin`, else the first folder of `path` that has
/// one. `fits` checks whether a file is a linker that works with this compiler.
pub(crate) fn find_tools(
    setup_bin: &Path,
    path: &OsStr,
    sysroot: &Path,
    fits: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Missing> {
    let linker = std::iter::once(setup_bin.to_owned())
        .chain(env::split_paths(path))
        .find(|dir| dir.join("bpf-linker").is_file() && fits(&dir.join("bpf-linker")))
        .ok_or_else(|| Missing::Linker(setup_bin.to_owned()))?;
    // Cargo uses this folder for `-Z build-std`: it reads the lock file and compiles the crate.
    let std_source = sysroot.join("lib/rustlib/src/rust");
    let is_complete =
        ["Cargo.lock", "core/src/lib.rs"].iter().all(|file| std_source.join("library").join(file).is_file());
    if is_complete { Ok(linker) } else { Err(Missing::StdSource(std_source)) }
}

/// Returns whether `bpf-linker --version` printed the wanted version.
pub(crate) fn is_wanted_version(printed: &str) -> bool {
    printed.trim() == format!("bpf-linker {LINKER_VERSION}")
}

/// Returns whether `ldd` found the shared LLVM of the compiler among the libraries of a linker. `compiler` is the
/// output of `rustc -vV`. A linker with an LLVM of its own may fail to read the compiler's output.
pub(crate) fn has_llvm_of(compiler: &str, libraries: &str) -> bool {
    let version = compiler.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let Some(major) = version.and_then(|version| version.split('.').next()) else { return false };
    let library = format!("libLLVM.so.{major}.");
    libraries.lines().any(|line| line.trim().starts_with(&library) && !line.contains("not found"))
}

/// Returns the path that changes when a missing part appears: the nearest one that exists. Cargo runs a build script
/// in each build while it watches a path that does not exist.
pub(crate) fn watched(missing: &Missing) -> &Path {
    let (Missing::Linker(path) | Missing::StdSource(path)) = missing;
    path.ancestors().find(|path| path.is_dir()).unwrap_or(path)
}
