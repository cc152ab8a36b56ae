//! Compiles the kernel program with the same stable compiler and leaves the object in `OUT_DIR`.

use std::{env, ffi::OsString, fs, path::PathBuf};

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

/// What to do when a tool that `cargo xtask` would have brought is missing.
const HINT: &str =
    "run `cargo xtask build` once: it brings the standard library's source and bpf-linker into target/setup";

fn main() -> anyhow::Result<()> {
    // Fuzz targets load nothing into a kernel, and the kernel program cannot be built with their flags.
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set; run this through cargo")?);
        return fs::write(out.join("closewait-ebpf"), b"").context("writing to OUT_DIR failed; is the disk full?");
    }
    let manifest_dir = PathBuf::from(
        env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set; run this through cargo")?,
    );
    let workspace = manifest_dir.parent().context("the agent's folder has no parent")?;
    let ebpf_dir = workspace.join("closewait-ebpf");
    let ebpf_dir = ebpf_dir.to_str().context("the path of closewait-ebpf is not UTF-8")?;

    let bin = target_dir(workspace).join("setup").join("bin");
    println!("cargo:rerun-if-changed={}", bin.display());
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    if !bin.join("bpf-linker").exists() {
        return Err(anyhow!("{} is missing; {HINT}", bin.join("bpf-linker").display()));
    }
    let mut path = OsString::from(&bin);
    if let Some(old) = env::var_os("PATH") {
        path.push(":");
        path.push(old);
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_unset| "stable".to_owned());
    // SAFETY: a build script has one thread here; nothing reads the environment meanwhile.
    unsafe { env::set_var("PATH", path) };
    // Only for the child that builds the kernel program: `-Z build-std=core` on a stable compiler.
    // SAFETY: as above.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    // aya-build shows whatever the child prints as a warning; without this, every crate that it compiles is one.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let package = Package { name: "closewait-ebpf", root_dir: ebpf_dir, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
        .with_context(|| format!("building the kernel program failed; {HINT}"))
}

/// The folder that `cargo xtask` writes its set-up into.
fn target_dir(workspace: &std::path::Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace.join(dir),
        None => workspace.join("target"),
    }
}
