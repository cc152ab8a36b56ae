//! bpf-linker, linked against the LLVM that the compiler itself has.

use std::ffi::OsString;

use fs_err::os::unix::fs::symlink;

use super::{Toolchain, choice::LINKER_VERSION, step};
use crate::prelude::*;

/// Beginnings of variables that change how cargo builds: the linker is built the same way whatever the caller's are.
const UNWANTED: &str = "RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTDOCFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTC_BOOTSTRAP \
    LD_LIBRARY_PATH LLVM_ CARGO_INSTALL_ROOT CARGO_BUILD_ CARGO_PROFILE_ CARGO_TARGET_ CARGO_PKG_ CARGO_MANIFEST_";

/// Builds the linker and installs it in `dir/bin`.
pub(super) fn install(dir: &Path, toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let llvm_major = llvm.and_then(|version| version.split('.').next());
    let llvm_major =
        llvm_major.context("`rustc -vV` shows no LLVM version; is rustc a compiler from rust-lang.org?")?;
    let prefix = llvm_prefix(dir, toolchain, llvm_major)?;
    let build_dir = dir.join("bpf-linker-build");
    let mut command = Command::new(exec::cargo_program());
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force", "--no-default-features"])
        // Not optimized: LLVM, which does the work, is a library that exists.
        .args(["--debug", "--features", &format!("llvm-{llvm_major}"), "--root"])
        .arg(dir)
        // Outside the workspace's Cargo.toml, which is not about this package.
        .current_dir(dir);
    exec::remove_env(&mut command, |name| UNWANTED.split(' ').any(|beginning| name.starts_with(beginning)));
    // Encoded, because the toolchain's path may have a space in it.
    let mut flags = OsString::from("-Clink-arg=-Wl,-rpath,");
    flags.push(toolchain.sysroot.join("lib"));
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &build_dir)
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("PATH", exec::path_with(&prefix.join("bin"))?);
    let what = format!("build bpf-linker {LINKER_VERSION} against the LLVM {llvm_major} of rustc");
    step(&what, || exec::quiet(&mut command)).with_context(|| {
        format!("cannot build bpf-linker {LINKER_VERSION}; it needs a C compiler (`gcc`) and the crates' registry")
    })?;
    Ok(fs::remove_dir_all(&build_dir)?)
}

/// Makes a folder that looks like an LLVM installation to bpf-linker's build script, which wants `bin/llvm-config` to
/// exist (it does not run it) and links `lib/libLLVM.so`.
fn llvm_prefix(dir: &Path, toolchain: &Toolchain, llvm_major: &str) -> Result<PathBuf> {
    let lib = toolchain.sysroot.join("lib");
    let wanted = format!("libLLVM.so.{llvm_major}.");
    let names = fs::read_dir(&lib)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let library = names.filter(|name| name.starts_with(&wanted)).max();
    let library =
        library.with_context(|| format!("no {wanted}* in {}; use a toolchain installed by rustup", lib.display()))?;
    let prefix = dir.join("llvm");
    exec::remove_dir(&prefix)?;
    fs::create_dir_all(prefix.join("bin"))?;
    fs::create_dir_all(prefix.join("lib"))?;
    symlink("/bin/true", prefix.join("bin/llvm-config"))?;
    symlink(lib.join(library), prefix.join("lib/libLLVM.so"))?;
    Ok(prefix)
}
