//! The compiler in use, as it describes itself.

use std::env;

use crate::prelude::*;

/// The compiler that cargo will use.
#[derive(Debug, Clone)]
pub(super) struct Toolchain {
    /// What `rustc -vV` prints: tells one compiler from another.
    pub(super) verbose_version: String,
    /// `1.95.0`.
    pub(super) release: String,
    /// `22`.
    pub(super) llvm_major: String,
    /// The toolchain's folder.
    pub(super) sysroot: PathBuf,
}

impl Toolchain {
    /// Asks the compiler.
    pub(super) fn find() -> Result<Self> {
        let verbose_version = exec::output(rustc().arg("-vV"))?;
        let sysroot = exec::output(rustc().args(["--print", "sysroot"]))?;
        Self::parse(&verbose_version, sysroot.trim())
    }

    /// Reads the two answers of the compiler.
    pub(super) fn parse(verbose_version: &str, sysroot: &str) -> Result<Self> {
        let value = |key: &str| {
            let line = verbose_version.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.with_context(|| format!("`rustc -vV` shows no {key}; is rustc a compiler from rust-lang.org?"))
        };
        let llvm = value("LLVM version")?;
        Ok(Self {
            verbose_version: verbose_version.to_owned(),
            release: value("release")?.to_owned(),
            llvm_major: llvm.split('.').next().unwrap_or(llvm).to_owned(),
            sysroot: PathBuf::from(sysroot),
        })
    }
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const VERBOSE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
        release: 1.95.0\nLLVM version: 22.1.2\n";

    #[test]
    fn reads_release_and_llvm_major() {
        let toolchain = Toolchain::parse(VERBOSE, "/sysroot").unwrap();
        assert_eq!((toolchain.release.as_str(), toolchain.llvm_major.as_str()), ("1.95.0", "22"));
    }

    #[test]
    fn a_compiler_without_llvm_is_refused() {
        let error = Toolchain::parse("release: 1.95.0\n", "/sysroot").unwrap_err();
        assert!(error.to_string().contains("LLVM version"), "{error}");
    }
}
