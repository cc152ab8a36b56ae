//! Clean systems: root folders with a release of Debian, systemd and nothing that was not asked for.

use std::os::unix::fs::symlink;

use clap::ValueEnum;

use super::Manager;
use crate::prelude::*;
use crate::vm::apt;

/// What a container needs to boot.
const PACKAGES: &str = "dbus,systemd,systemd-sysv";

/// A system to install packages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Root {
    /// Debian 11
    Bullseye,
    /// Debian 12
    Bookworm,
    /// Debian 13
    Trixie,
    /// Debian 13 with rpm and pacman
    Foreign,
}

impl Root {
    pub(super) const ALL: [Self; 4] = [Self::Bullseye, Self::Bookworm, Self::Trixie, Self::Foreign];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Foreign => "foreign",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Bullseye => "Debian 11",
            Self::Bookworm => "Debian 12",
            Self::Trixie => "Debian 13",
            Self::Foreign => "Debian 13 with rpm and pacman",
        }
    }

    pub(super) fn managers(self) -> &'static [Manager] {
        match self {
            Self::Bullseye | Self::Bookworm | Self::Trixie => &[Manager::Dpkg],
            Self::Foreign => &[Manager::Rpm, Manager::Pacman],
        }
    }

    /// Unpacks a system that nothing has changed. The first time downloads it and keeps it as an archive in `dir`.
    pub(super) fn unpack(self, dir: &Path) -> Result<PathBuf> {
        let (archive, root) = (dir.join(format!("{}.tar", self.name())), dir.join(self.name()));
        if !archive.exists() {
            println!("  downloading it from apt's mirror into {}", archive.display());
            let (release, more) = match self {
                Self::Foreign => (Self::Trixie, ",pacman-package-manager,rpm,zstd"),
                Self::Bullseye | Self::Bookworm | Self::Trixie => (self, ""),
            };
            // An interrupted run leaves nothing that looks complete.
            let partial = archive.with_extension("partial.tar");
            exec::quiet(
                Command::new(exec::find("mmdebstrap")?)
                    .args(["--mode=root", "--variant=minbase", &format!("--include={PACKAGES}{more}")])
                    .arg(release.name())
                    .arg(&partial)
                    .arg(apt::mirror(false)?),
            )?;
            fs::rename(&partial, &archive)?;
        }
        exec::remove_dir(&root)?;
        fs::create_dir(&root)?;
        exec::quiet(
            Command::new("tar")
                .args(["--extract", "--numeric-owner", "--file"])
                .arg(&archive)
                .arg("--directory")
                .arg(&root),
        )?;
        if self == Self::Foreign {
            // As on Arch Linux: functions in the scripts of its packages are bash's.
            let sh = root.join("usr/bin/sh");
            fs::remove_file(&sh)?;
            symlink("bash", &sh).with_context(|| format!("making the link {} failed", sh.display()))?;
        }
        Ok(root)
    }
}
