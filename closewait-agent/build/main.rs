//! Compiles the kernel program with the same stable compiler and writes the object to `OUT_DIR`.
//!
//! On a machine that `cargo xtask setup` has not set up, the object is empty, and the build warns. With an object,
//! the script sets the cfg `kernel_program`.

#![expect(clippy::print_stdout, reason = "cargo reads what a build script prints")]

mod choice;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

use choice::Choice;

/// Environment variable with which `cargo xtask` and CI forbid an empty object.
const REQUIRE: &str = "CLOSEWAIT_REQUIRE_EBPF";

fn main() -> anyhow::Result<()> {
    let manifest_dir = PathBuf::from(of_cargo("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().context("the agent's folder has no parent")?;
    let setup_bin = target_dir(workspace).join("setup").join("bin");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let path = env::var_os("PATH").unwrap_or_default();
    let fuzzing = env::var_os("CARGO_CFG_FUZZING").is_some();
    let required = choice::is_required(env::var_os(REQUIRE).as_deref());
    let sysroot = PathBuf::from(printed(rustc()?.args(["--print", "sysroot"]))?.trim());
    let compiler = printed(rustc()?.arg("-vV"))?;
    let tools = || choice::find_tools(&setup_bin, &path, &sysroot, |linker| fits(linker, &compiler));
    match choice::choose(fuzzing, required, tools) {
        Choice::Compile(linker_dir) => {
            println!("cargo::rerun-if-changed={}", linker_dir.join("bpf-linker").display());
            println!("cargo::rustc-cfg=kernel_program");
            compile(workspace, &linker_dir, &path)?;
            strip(&sysroot)
        }
        // Fuzz targets load nothing into a kernel, and the kernel program cannot be built with their flags.
        Choice::EmptyForFuzzing => write_empty(),
        Choice::Empty(missing) => {
            // Without the folder, this script runs in each build.
            let _created = make_folder_to_watch(&setup_bin);
            println!("cargo::rerun-if-changed={}", choice::watched(&missing).display());
            // Only here: a build with a kernel program stays fresh whether the variable is set or not.
            println!("cargo::rerun-if-env-changed={REQUIRE}");
            println!(
                "cargo::warning=this build has no kernel program, because {missing}; to build it, run `cargo xtask build`"
            );
            write_empty()
        }
        Choice::Refuse(missing) => {
            // Cargo fails the build for this line, and shows no other output of this script.
            println!(
                "cargo::error=the kernel program cannot be built, because {missing}; to bring that, run `cargo xtask setup`"
            );
            Ok(())
        }
    }
}

/// Creates an empty folder, so that cargo notices new files in it. Its modification time is in the past: otherwise
/// cargo would see a change after the start of this script, and run it again.
fn make_folder_to_watch(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::File::open(folder)?.set_modified(SystemTime::UNIX_EPOCH)?;
    }
    Ok(())
}

/// Writes the object of a build without a kernel program.
fn write_empty() -> anyhow::Result<()> {
    let object = Path::new(&of_cargo("OUT_DIR")?).join("closewait-ebpf");
    fs::write(&object, b"").with_context(|| format!("writing {} failed; is the disk full?", object.display()))
}

/// Compiles the kernel program into `OUT_DIR`.
fn compile(workspace: &Path, linker_dir: &Path, path: &OsStr) -> anyhow::Result<()> {
    let ebpf_dir = workspace.join("closewait-ebpf");
    let ebpf_dir = ebpf_dir.to_str().context("the path of closewait-ebpf is not UTF-8")?;
    let mut new_path = OsString::from(linker_dir);
    if !path.is_empty() {
        new_path.push(":");
        new_path.push(path);
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_unset| "stable".to_owned());
    // SAFETY: a build script has one thread here; nothing reads the environment meanwhile.
    unsafe { env::set_var("PATH", new_path) };
    // Only for the child that builds the kernel program: `-Z build-std=core` on a stable compiler.
    // SAFETY: as above.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    // The object has the paths of its sources, for the messages of the verifier: without the folders of this machine, so that it
    // is the same everywhere.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_UNSTABLE_TRIM_PATHS", "true") };
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all") };
    // aya-build shows the child's output as warnings; without this, it shows one for every compiled crate.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let package = Package { name: "closewait-ebpf", root_dir: ebpf_dir, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
        .context("building the kernel program failed; its messages are the warnings above")
}

/// Removes the debug information from the object, five sixths of it, which nothing reads: the kernel has BTF for that. A compiler
/// that is not from rustup may have no such tool, and then the binary is larger.
fn strip(sysroot: &Path) -> anyhow::Result<()> {
    let object = Path::new(&of_cargo("OUT_DIR")?).join("closewait-ebpf");
    let host = of_cargo("HOST")?;
    let tool = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    if tool.is_file() {
        // The tool finds the compiler's LLVM there.
        printed(Command::new(tool).arg("--strip-debug").arg(object).env("LD_LIBRARY_PATH", sysroot.join("lib")))?;
    }
    Ok(())
}

/// Returns whether a linker has the wanted version and the LLVM of the compiler.
fn fits(linker: &Path, compiler: &str) -> bool {
    printed(Command::new(linker).arg("--version")).is_ok_and(|text| choice::is_wanted_version(&text))
        && printed(Command::new("ldd").arg(linker)).is_ok_and(|text| choice::has_llvm_of(compiler, &text))
}

/// Returns a command for the compiler that cargo uses.
fn rustc() -> anyhow::Result<Command> {
    Ok(Command::new(of_cargo("RUSTC")?))
}

/// Returns the standard output of a command that succeeds.
fn printed(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} failed"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {command:?} is not UTF-8"))
}

/// Returns a variable that cargo sets for build scripts.
fn of_cargo(variable: &str) -> anyhow::Result<OsString> {
    env::var_os(variable).with_context(|| format!("{variable} is not set; run this through cargo"))
}

/// Returns the folder of the set-up of `cargo xtask`.
fn target_dir(workspace: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace.join(dir),
        None => workspace.join("target"),
    }
}
