//! `cargo xtask setup`: what the build of the kernel program needs beyond a stable toolchain.
//!
//! Two things: the standard library's source, which cargo wants to find inside the toolchain, and a bpf-linker that uses the
//! compiler's own LLVM. The build script says what is missing: this module compiles its `choice.rs`, too.

mod bpf_linker;
#[path = "../../../closewait-agent/build/choice.rs"]
#[expect(dead_code, reason = "the rest of the decision is for the build script")]
mod choice;

use std::{env, ffi::OsStr, fs::File};

use choice::Missing;

use crate::prelude::*;

/// The compiler that cargo uses.
pub(crate) struct Toolchain {
    /// What `rustc -vV` prints.
    version: String,
    /// The toolchain's folder.
    pub(crate) sysroot: PathBuf,
}

/// Asks the compiler for its version and folder.
pub(crate) fn toolchain() -> Result<Toolchain> {
    let rustc = || Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let sysroot = exec::output(rustc().args(["--print", "sysroot"]))?;
    Ok(Toolchain { version: exec::output(rustc().arg("-vV"))?, sysroot: sysroot.trim().into() })
}

/// Installs what is missing; prints a line for each step and nothing when there is none.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain()?;
    let dir = workspace.target.join("setup");
    if toolchain.find_tools(&dir).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    // Two tasks in one target folder would unpack over each other. The lock ends with the file handle.
    let lock = File::create(dir.join("lock")).context("cannot create the lock in the set-up's folder")?;
    lock.lock().context("cannot lock the set-up's folder; does its file system support locks?")?;
    for _ in 0..2 {
        match toolchain.find_tools(&dir) {
            Ok(_linker) => break,
            Err(Missing::Linker(_)) => bpf_linker::install(&dir, &toolchain)?,
            Err(Missing::StdSource(place)) => install_std_source(&toolchain, &place)?,
        }
    }
    if let Err(missing) = toolchain.find_tools(&dir) {
        bail!("{missing}, although it has just been installed; delete {} and try again", dir.display());
    }
    Ok(())
}

impl Toolchain {
    /// The folder of the linker that the build script will use, or what it will miss.
    fn find_tools(&self, dir: &Path) -> Result<PathBuf, Missing> {
        let path = env::var_os("PATH").unwrap_or_default();
        let printed = |command: &mut Command| exec::quiet(command).unwrap_or_default();
        let fits = |linker: &Path| {
            choice::is_wanted_version(&printed(Command::new(linker).arg("--version")))
                && choice::has_llvm_of(&self.version, &printed(Command::new("ldd").arg(linker)))
        };
        choice::find_tools(&dir.join("bin"), &path, &self.sysroot, fits)
    }

    /// Commit of the compiler's source.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.of_version("commit-hash: ")
    }

    /// The compiler's objcopy, which handles the files of all architectures.
    pub(crate) fn objcopy(&self) -> Result<Command> {
        let host = self.of_version("host: ").context("`rustc -vV` names no host")?;
        let program = self.sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
        ensure!(program.is_file(), "there is no {}; is the compiler from rustup?", program.display());
        let mut command = Command::new(program);
        // It finds the compiler's LLVM there.
        command.env("LD_LIBRARY_PATH", self.sysroot.join("lib"));
        Ok(command)
    }

    /// Installs the standard library for a target, if it is missing.
    pub(crate) fn add_target(&self, target: &str) -> Result<()> {
        if self.sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
            return Ok(());
        }
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", target]).args(self.rustup_name());
        step(&format!("rustup target add {target}"), || exec::quiet(&mut rustup))
            .map(drop)
            .with_context(|| format!("cannot install the standard library for {target}"))
    }

    /// Arguments that name this toolchain to rustup, which knows a toolchain by the name of its folder.
    fn rustup_name(&self) -> impl Iterator<Item = &OsStr> {
        self.sysroot.file_name().map(|name| [OsStr::new("--toolchain"), name]).into_iter().flatten()
    }

    fn of_version(&self, name: &str) -> Option<&str> {
        self.version.lines().find_map(|line| line.strip_prefix(name))
    }
}

/// Installs the standard library's source in the toolchain, where cargo's `-Z build-std` looks for it.
fn install_std_source(toolchain: &Toolchain, place: &Path) -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]).args(toolchain.rustup_name());
    step("rustup component add rust-src", || exec::quiet(&mut rustup)).map(drop).with_context(|| {
        format!(
            "cannot install the source of the standard library\nhint: where rustup cannot download, copy the folder `library` \
             of this compiler's release (Debian's package rust-src has it) into {}",
            place.display()
        )
    })
}

/// Runs one step and reports it in one line, with its duration.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = exec::now();
    let result = work();
    let outcome = if result.is_ok() { "" } else { ", without success" };
    eprintln!("setup: {what} ({:.1} s{outcome})", start.elapsed().as_secs_f64());
    result
}
