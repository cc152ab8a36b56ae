//! bpf-linker, linked against the LLVM that the compiler itself brings.

use std::{env, ffi::OsString};

use fs_err::{self as fs, os::unix::fs::OpenOptionsExt as _, os::unix::fs::symlink};

use super::{step, toolchain::Toolchain};
use crate::prelude::*;

/// The version that goes with the aya releases in Cargo.toml.
const VERSION: &str = "0.13.0";

/// Beginnings of variables that change how cargo builds: the linker is built the same way whatever the caller's are.
const UNWANTED: &str = "RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTDOCFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTC_BOOTSTRAP \
    LD_LIBRARY_PATH LLVM_ CARGO_INSTALL_ROOT CARGO_BUILD_ CARGO_PROFILE_ CARGO_TARGET_ CARGO_PKG_ CARGO_MANIFEST_";

/// Whether the linker is there and belongs to this compiler.
pub(super) fn is_present(setup_dir: &Path, toolchain: &Toolchain) -> bool {
    let stamped = fs::read_to_string(stamp_file(setup_dir)).is_ok_and(|text| text == stamp(toolchain));
    stamped && binary(setup_dir).is_file()
}

/// Brings the linker into `<setup_dir>/bin`: a copy of the one in PATH if it fits, else builds it.
pub(super) fn bring(setup_dir: &Path, toolchain: &Toolchain) -> Result<()> {
    if !copy_from_path(setup_dir, toolchain)? {
        let prefix = llvm_prefix(setup_dir, toolchain)?;
        let what = format!("build bpf-linker {VERSION} against the LLVM {} of rustc", toolchain.llvm_major);
        let build_dir = setup_dir.join("bpf-linker-build");
        step(&what, || exec::quiet(&mut install(setup_dir, toolchain, &prefix, &build_dir)?)).with_context(|| {
            format!("cannot build bpf-linker {VERSION}; it needs a C compiler (`gcc`) and the crates' registry")
        })?;
        ensure!(
            fits(&binary(setup_dir), toolchain),
            "the built linker is not bpf-linker {VERSION}; delete target/setup"
        );
        fs::remove_dir_all(&build_dir)?;
    }
    // Last: an interrupted setup leaves no stamp and is done again.
    Ok(fs::write(stamp_file(setup_dir), stamp(toolchain))?)
}

/// Copies the linker in PATH, so that a later upgrade of it changes nothing here. Returns whether the copy fits.
fn copy_from_path(setup_dir: &Path, toolchain: &Toolchain) -> Result<bool> {
    let Some(found) = exec::which("bpf-linker").filter(|found| fits(found, toolchain)) else { return Ok(false) };
    fs::create_dir_all(setup_dir.join("bin"))?;
    // In the place of a running linker, or of one with a second name, there must be a new file.
    let new = setup_dir.join("bpf-linker.new");
    fs::copy(&found, &new)?;
    fs::rename(&new, binary(setup_dir))?;
    let fits = fits(&binary(setup_dir), toolchain);
    eprintln!("setup: {} {}", if fits { "copied" } else { "cannot use a copy of" }, found.display());
    Ok(fits)
}

/// Whether a linker has the version that is wanted, and reads what the compiler's LLVM writes.
fn fits(linker: &Path, toolchain: &Toolchain) -> bool {
    let is = exec::quiet(Command::new(linker).arg("--version")).is_ok_and(|text| is_version(&text));
    is && exec::quiet(Command::new("ldd").arg(linker)).is_ok_and(|text| links(&text, &toolchain.llvm_major))
}

fn is_version(text: &str) -> bool {
    text.trim() == format!("bpf-linker {VERSION}")
}

/// Whether a shared LLVM of this version is among the libraries that `ldd` prints. An LLVM inside of the linker has no version
/// to be seen.
fn links(libraries: &str, llvm_major: &str) -> bool {
    let library = format!("libLLVM.so.{llvm_major}.");
    libraries.lines().any(|line| line.trim().starts_with(&library) && !line.contains("not found"))
}

fn binary(setup_dir: &Path) -> PathBuf {
    setup_dir.join("bin").join("bpf-linker")
}

fn stamp_file(setup_dir: &Path) -> PathBuf {
    setup_dir.join("bpf-linker.stamp")
}

/// Everything the built linker depends on. The path counts too: the linker finds libLLVM by it.
fn stamp(toolchain: &Toolchain) -> String {
    format!("bpf-linker {VERSION}\nsysroot {}\n{}", toolchain.sysroot.display(), toolchain.verbose_version)
}

/// A folder that looks like an LLVM installation to bpf-linker's build script, which wants `bin/llvm-config` to
/// exist (it does not run it) and links `lib/libLLVM.so`.
fn llvm_prefix(setup_dir: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let library = find_libllvm(toolchain)?;
    let prefix = setup_dir.join("llvm");
    exec::remove_dir(&prefix)?;
    let (bin, lib) = (prefix.join("bin"), prefix.join("lib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    fs::OpenOptions::new().write(true).create(true).mode(0o755).open(bin.join("llvm-config"))?;
    symlink(&library, lib.join("libLLVM.so"))?;
    Ok(prefix)
}

fn find_libllvm(toolchain: &Toolchain) -> Result<PathBuf> {
    let lib = toolchain.sysroot.join("lib");
    let entries = fs::read_dir(&lib).context("`rustc --print sysroot` names no usable folder")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let wanted = format!("libLLVM.so.{}.", toolchain.llvm_major);
    let name = names
        .filter(|name| name.starts_with(&wanted))
        .max()
        .with_context(|| format!("no {wanted}* in {}; use a toolchain installed by rustup", lib.display()))?;
    Ok(lib.join(name))
}

fn install(setup_dir: &Path, toolchain: &Toolchain, prefix: &Path, build_dir: &Path) -> Result<Command> {
    let mut command = Command::new(exec::cargo_program());
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .arg("--features")
        .arg(format!("llvm-{}", toolchain.llvm_major))
        .arg("--root")
        .arg(setup_dir)
        // Outside the workspace's Cargo.toml, which is not about this package.
        .current_dir(setup_dir);
    exec::remove_env(&mut command, |name| UNWANTED.split(' ').any(|beginning| name.starts_with(beginning)));
    // Encoded, because the toolchain's path may have a space in it.
    let mut flags = OsString::from("-Clink-arg=-Wl,-rpath,");
    flags.push(toolchain.sysroot.join("lib"));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags).env("CARGO_TARGET_DIR", build_dir);
    let old = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(prefix.join("bin")).chain(env::split_paths(&old)))
        .context("PATH cannot hold a target folder with a colon in its path; use another target folder")?;
    command.env("PATH", path);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::toolchain::tests::VERBOSE;

    #[test]
    fn the_stamp_changes_with_compiler_and_place() {
        let one = stamp(&Toolchain::parse(VERBOSE, "/a").unwrap());
        let other_compiler = stamp(&Toolchain::parse(&VERBOSE.replace("1.95.0", "1.96.0"), "/a").unwrap());
        let other_place = stamp(&Toolchain::parse(VERBOSE, "/b").unwrap());
        assert_ne!(one, other_compiler);
        assert_ne!(one, other_place);
        assert!(one.contains(VERSION));
    }

    #[test]
    fn nothing_is_present_in_an_empty_folder_and_a_toolchain_needs_libllvm() {
        let toolchain = Toolchain::parse(VERBOSE, "/nonexistent").unwrap();
        assert!(!is_present(Path::new("/nonexistent"), &toolchain));
        let error = find_libllvm(&toolchain).unwrap_err();
        assert!(error.to_string().contains("rustc --print sysroot"), "{error}");
    }

    #[test]
    fn a_linker_with_another_version_or_another_llvm_does_not_fit() {
        assert!(is_version(&format!("bpf-linker {VERSION}\n")) && !is_version("bpf-linker 0.9.15\n"));
        let llvm = "\tlibLLVM.so.22.1-rust-1.95.0-stable => /t/lib/libLLVM.so.22.1-rust-1.95.0-stable (0x7f)\n";
        assert!(links(llvm, "22") && !links(llvm, "2") && !links("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n", "22"));
        assert!(!links("\tlibLLVM.so.22.1 => not found\n", "22"));
    }
}
