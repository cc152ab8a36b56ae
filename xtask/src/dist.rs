//! `cargo xtask dist`: static binaries for people, each with its debug information in a file beside it.
//!
//! A binary has no path of the machine that built it, so that it is the same from each clone and tells nothing about its builder.

use std::{collections::BTreeSet, env, ffi::OsString, os::unix::ffi::OsStrExt as _};

use clap::ValueEnum;

use crate::prelude::*;
use crate::{sbom, setup};

/// Maximum size of a binary, bytes.
const MAX_BYTES: u64 = 10_000_000;
/// Profile in Cargo.toml.
const PROFILE: &str = "compact";
/// Flags for the linker, which is Rust's own: it makes no build id by itself; functions with the same code are there once; addresses
/// that the program itself has to relocate at its start take a bit each instead of 24 bytes.
const LINKING: [&str; 3] = ["-Clink-arg=--build-id=sha1", "-Clink-arg=--icf=all", "-Clink-arg=--pack-dyn-relocs=relr"];
/// Section with the list of dependencies.
const DEPENDENCIES: &str = ".dep-v0";
/// Separator of flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Architecture of a static binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Architectures to build for, one after the other [default: that of this machine]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
}

/// Files of a build.
#[derive(Debug)]
pub(crate) struct Built {
    /// The static binary, without debug information.
    pub(crate) binary: PathBuf,
    /// Debug information and names of the binary, which debuggers find by its build id.
    pub(crate) debug: PathBuf,
    /// What the binary contains, as CycloneDX.
    pub(crate) sbom: PathBuf,
}

/// Builds the binaries and prints their paths and sizes.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    for arch in wanted(&options.arch)? {
        let Built { binary, debug, sbom } = build(workspace, arch)?;
        println!(
            "{} ({} bytes), {}, {}",
            binary.display(),
            fs::metadata(&binary)?.len(),
            debug.display(),
            sbom.display()
        );
    }
    Ok(())
}

/// Returns each of these architectures once; without any, that of this machine.
pub(crate) fn wanted(named: &[Arch]) -> Result<BTreeSet<Arch>> {
    let mut wanted: BTreeSet<_> = named.iter().copied().collect();
    if wanted.is_empty() {
        wanted.insert(Arch::of_this_machine()?);
    }
    Ok(wanted)
}

/// Builds a static binary in `target/static/ARCH`.
pub(crate) fn build(workspace: &Workspace, arch: Arch) -> Result<Built> {
    setup::run(workspace)?;
    let toolchain = setup::toolchain()?;
    toolchain.add_target(arch.target())?;
    // The folders of the registries, whose paths are replaced, exist from here on.
    exec::run(workspace.cargo("fetch").args(["--target", arch.target()]))?;
    let paths = replaced_paths(workspace, &toolchain)?;
    exec::run(
        workspace
            .cargo("build")
            .args(["--package", "closewait-agent", "--bin", "closewait", "--profile", PROFILE])
            .args(["--target", arch.target()])
            .env("CARGO_ENCODED_RUSTFLAGS", flags(&paths, &LINKING.join(SEPARATOR)))
            .env_remove("RUSTFLAGS"),
    )?;
    let built = workspace.target.join(arch.target()).join(PROFILE).join("closewait");
    let dir = workspace.target.join("static").join(arch.name());
    fs::create_dir_all(&dir)?;
    let files = Built {
        binary: dir.join("closewait"),
        debug: dir.join("closewait.debug"),
        sbom: dir.join("closewait.cdx.json"),
    };
    exec::quiet(toolchain.objcopy()?.arg("--only-keep-debug").arg(&built).arg(&files.debug))?;
    let link = format!("--add-gnu-debuglink={}", files.debug.display());
    let contents = sbom::contents(workspace, arch)?;
    fs::write(&files.sbom, contents.document)?;
    let section = dir.join("dependencies");
    fs::write(&section, contents.section)?;
    let section = format!("--add-section={DEPENDENCIES}={}", section.display());
    exec::quiet(toolchain.objcopy()?.args(["--strip-all", &link, &section]).arg(&built).arg(&files.binary))?;
    check(&fs::read(&files.binary)?, &paths)
        .with_context(|| format!("{} is not fit for people", files.binary.display()))?;
    Ok(files)
}

impl Arch {
    /// Architecture of the machine that runs this program.
    pub(crate) fn of_this_machine() -> Result<Self> {
        Self::from_str(env::consts::ARCH, false).map_err(|_unknown| {
            anyhow::anyhow!("there are no static binaries for {}\nhint: name one with --arch", env::consts::ARCH)
        })
    }

    /// Whether it is the architecture of this machine.
    pub(crate) fn is_of_this_machine(self) -> bool {
        self.name() == env::consts::ARCH
    }

    /// Name in the paths of files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Name in Debian's packages and in Go, which nfpm and container images take.
    pub(crate) fn debian_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Target of the compiler. Its linker is in .cargo/config.toml.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

/// Path on this machine, and the text that replaces it in a binary.
type ReplacedPath = (PathBuf, String);

/// The folders whose paths a compiler writes into a binary. Of two that fit, the later one counts.
fn replaced_paths(workspace: &Workspace, toolchain: &setup::Toolchain) -> Result<Vec<ReplacedPath>> {
    let home = |variable: &str, folder: &str| {
        let default = || env::home_dir().map(|home| home.join(folder));
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(default)
            .with_context(|| format!("{variable} is not set, and HOME neither"))
    };
    let mut paths = vec![(workspace.root.clone(), ".".to_owned()), (workspace.target.clone(), "target".to_owned())];
    let sources = home("CARGO_HOME", ".cargo")?.join("registry/src");
    // One folder for each registry.
    for registry in fs::read_dir(&sources)? {
        paths.push((registry?.path(), "/cargo".to_owned()));
    }
    // As the compiler's own build writes them.
    let commit = toolchain.commit().context("`rustc -vV` names no commit; is it from rustup?")?;
    paths.push((toolchain.sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{commit}")));
    Ok(paths)
}

fn flags(paths: &[ReplacedPath], more: &str) -> OsString {
    let mut flags = OsString::from(more);
    for (path, replacement) in paths {
        flags.push(SEPARATOR);
        flags.push("--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(replacement);
    }
    flags
}

/// Fails if a binary is too large, needs an interpreter, does not list its dependencies, or has a path of this machine.
fn check(binary: &[u8], paths: &[ReplacedPath]) -> Result<()> {
    let size = binary.len() as u64;
    ensure!(size <= MAX_BYTES, "it has {size} bytes, and the limit is {MAX_BYTES}");
    ensure!(!has_interpreter(binary)?, "it is not static: it needs a dynamic linker");
    let has = |text: &[u8]| binary.windows(text.len()).any(|bytes| bytes == text);
    ensure!(has(DEPENDENCIES.as_bytes()), "it has no list of its dependencies: there is no section {DEPENDENCIES}");
    for (path, _replacement) in paths {
        let path = path.as_os_str().as_bytes();
        ensure!(!has(path), "it has the path {}", String::from_utf8_lossy(path));
    }
    Ok(())
}

/// Whether an ELF file of 64 bits has a program header `PT_INTERP` (include/uapi/linux/elf.h at v6.12).
fn has_interpreter(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Result<usize> {
        let bytes = elf.get(at..at + length).context("the file ends within its headers")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "it is no ELF file of 64 bits in little-endian order");
    let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let kinds = (0..count).map(|at| number(offset + at * size, 4)).collect::<Result<Vec<_>>>()?;
    Ok(kinds.contains(&(PT_INTERP as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        // The tests are dynamic programs.
        let this = fs::read(exec::this().unwrap()).unwrap();
        assert!(has_interpreter(&this).unwrap());
        let mut without = this.clone();
        let headers = usize::from(this[56]);
        for at in 0..headers {
            let kind = usize::from(this[32]) + at * usize::from(this[54]);
            if without[kind] == 3 {
                without[kind] = 0;
            }
        }
        assert!(!has_interpreter(&without).unwrap());
        assert!(check(&this, &[]).is_err());
        assert!(has_interpreter(b"MZ").is_err() && has_interpreter(&this[..60]).is_err());
    }

    #[test]
    fn a_path_of_this_machine_is_found_in_a_binary() {
        let mut binary = vec![0; 120];
        binary[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let paths = [(PathBuf::from("/home/me/closewait"), ".".to_owned())];
        assert!(check(&binary, &paths).unwrap_err().to_string().contains("list of its dependencies"));
        binary.extend(b".dep-v0\0");
        assert!(check(&binary, &paths).is_ok());
        binary.extend(b"at /home/me/closewait/src/main.rs");
        assert!(check(&binary, &paths).unwrap_err().to_string().contains("/home/me/closewait"));
        assert_eq!(flags(&paths, "-Cx"), OsString::from("-Cx\x1f--remap-path-prefix=/home/me/closewait=."));
    }
}
