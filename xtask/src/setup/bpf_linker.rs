//! bpf-linker, linked against the LLVM that the compiler itself brings.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{step, toolchain::Toolchain};
use crate::exec;

/// The version that goes with the aya releases in Cargo.toml.
const VERSION: &str = "0.13.0";

/// Variables that change how cargo builds; the linker is built the same way whatever the caller's are.
const UNWANTED: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_BOOTSTRAP",
    "CARGO_TARGET_DIR",
    "CARGO_INSTALL_ROOT",
    "LD_LIBRARY_PATH",
    "RUSTDOCFLAGS",
];
const UNWANTED_PREFIXES: [&str; 6] =
    ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_PKG_", "CARGO_MANIFEST_", "LLVM_"];

/// Whether the linker is there and belongs to this compiler.
pub(super) fn is_present(setup_dir: &Path, toolchain: &Toolchain) -> bool {
    let stamped = fs::read_to_string(stamp_file(setup_dir)).is_ok_and(|text| text == stamp(toolchain));
    stamped && binary(setup_dir).is_file()
}

/// Builds the linker into `<setup_dir>/bin`.
pub(super) fn bring(setup_dir: &Path, toolchain: &Toolchain) -> Result<()> {
    let prefix = llvm_prefix(setup_dir, toolchain)?;
    let what = format!("build bpf-linker {VERSION} against the LLVM {} of rustc", toolchain.llvm_major);
    let build_dir = setup_dir.join("bpf-linker-build");
    step(&what, || exec::quiet(&mut install(setup_dir, toolchain, &prefix, &build_dir)?)).with_context(|| {
        format!("cannot build bpf-linker {VERSION}; see cargo's messages, it needs a C compiler (`gcc`) and the crates' registry")
    })?;
    let version = exec::quiet(Command::new(binary(setup_dir)).arg("--version"))?;
    if version.trim() != format!("bpf-linker {VERSION}") {
        bail!("{} says it is {:?}; delete it and run `cargo xtask setup`", binary(setup_dir).display(), version.trim());
    }
    fs::remove_dir_all(&build_dir).with_context(|| format!("cannot remove {}; delete it", build_dir.display()))?;
    // Last: an interrupted setup leaves no stamp and is done again.
    let stamp_file = stamp_file(setup_dir);
    fs::write(&stamp_file, stamp(toolchain))
        .with_context(|| format!("cannot write {}; is it yours?", stamp_file.display()))
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
    if prefix.exists() {
        fs::remove_dir_all(&prefix).with_context(|| format!("cannot remove {}; delete it", prefix.display()))?;
    }
    let hint = |path: &Path| format!("cannot create {}; is the target folder yours?", path.display());
    let (bin, lib) = (prefix.join("bin"), prefix.join("lib"));
    fs::create_dir_all(&bin).with_context(|| hint(&bin))?;
    fs::create_dir_all(&lib).with_context(|| hint(&lib))?;
    let config = bin.join("llvm-config");
    fs::write(&config, "").with_context(|| hint(&config))?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755)).with_context(|| hint(&config))?;
    let link = lib.join("libLLVM.so");
    symlink(&library, &link).with_context(|| hint(&link))?;
    Ok(prefix)
}

fn find_libllvm(toolchain: &Toolchain) -> Result<PathBuf> {
    let lib = toolchain.sysroot.join("lib");
    let entries =
        fs::read_dir(&lib).with_context(|| format!("cannot list {}; check `rustc --print sysroot`", lib.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let wanted = format!("libLLVM.so.{}.", toolchain.llvm_major);
    match names.filter(|name| name.starts_with(&wanted)).max() {
        Some(name) => Ok(lib.join(name)),
        None => bail!(
            "the compiler in {} brings no shared libLLVM {}; use a toolchain installed by rustup",
            toolchain.sysroot.display(),
            toolchain.llvm_major
        ),
    }
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
    for (name, _value) in env::vars_os() {
        let unwanted = name
            .to_str()
            .is_some_and(|n| UNWANTED.contains(&n) || UNWANTED_PREFIXES.iter().any(|prefix| n.starts_with(prefix)));
        if unwanted {
            command.env_remove(&name);
        }
    }
    // Encoded, because the toolchain's path may have a space in it.
    let mut flags = std::ffi::OsString::from("-Clink-arg=-Wl,-rpath,");
    flags.push(toolchain.sysroot.join("lib"));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags).env("CARGO_TARGET_DIR", build_dir);
    let old = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(prefix.join("bin")).chain(env::split_paths(&old))).context(
        "the path of the target folder has a colon in it, which PATH cannot hold; use another target folder",
    )?;
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
    fn nothing_is_present_in_an_empty_folder() {
        let toolchain = Toolchain::parse(VERBOSE, "/a").unwrap();
        assert!(!is_present(Path::new("/nonexistent"), &toolchain));
    }

    #[test]
    fn a_toolchain_without_libllvm_is_refused_with_advice() {
        let toolchain = Toolchain::parse(VERBOSE, "/nonexistent").unwrap();
        let error = find_libllvm(&toolchain).unwrap_err();
        assert!(error.to_string().contains("rustc --print sysroot"), "{error}");
    }
}
