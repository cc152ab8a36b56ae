//! `cargo xtask package`: everything that a release consists of, in target/dist. The same commit gives the same bytes.

mod archive;
pub(crate) mod contents;
pub(crate) mod image;
mod links;
pub(crate) mod native;

use std::env;

use sha2::{Digest as _, Sha256};

use crate::dist::{self, Arch, Built};
use crate::prelude::*;
use crate::root;
use archive::ArchivedFiles;
use native::{Format, Nfpm};

/// Checksums of all other files, in the form that `sha256sum --check` reads.
const SUMS: &str = "SHA256SUMS";
/// The script that downloads a release and installs it; a file of the release, too.
const INSTALL_SCRIPT: &str = "contrib/install/install.sh";

#[derive(Args)]
pub(crate) struct Options {
    /// Architectures to make packages for [default: that of this machine]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Build nothing: take the files of an earlier `cargo xtask dist` from DIR/ARCH, as in target/static
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// Version of the packages, and the time of all files in them.
#[derive(Debug)]
pub(crate) struct Release {
    /// Version as in Cargo.toml.
    pub(crate) version: String,
    /// Hash of the commit; `None` outside of a clone.
    pub(crate) commit: Option<String>,
    /// Seconds since 1970.
    pub(crate) seconds: u64,
}

/// Makes all files for the wanted architectures, and prints a table of them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    root::install(workspace, "package")?;
    let release = Release::of(workspace)?;
    let nfpm = Nfpm::install(workspace, &release)?;
    let dir = workspace.target.join("dist");
    // Files of an earlier version would get checksums, too.
    exec::remove_dir(&dir)?;
    fs::create_dir_all(&dir)?;
    let mut programs = Vec::new();
    for arch in dist::wanted(&options.arch)? {
        let built = binaries(workspace, arch, options.binaries.as_deref())?;
        archives(&workspace.root, nfpm.tree(), (&release, arch), &built, &dir)?;
        for format in Format::ALL {
            nfpm.package(&release, (format, arch), &built.binary, &dir)?;
        }
        programs.push((arch, built.binary));
    }
    image::build(workspace, &programs, &release, &dir.join(release.image_file_name()))?;
    add_install_script(&workspace.root, &dir)?;
    let files = write_sums(&dir)?;
    print!("{}", table(&files));
    println!("\nin {}; all times are {} s after 1970, that of the commit", dir.display(), release.seconds);
    Ok(())
}

/// Builds the binary of an architecture, or finds the one of an earlier build.
pub(crate) fn binaries(workspace: &Workspace, arch: Arch, from: Option<&Path>) -> Result<Built> {
    let Some(from) = from else { return dist::build(workspace, arch) };
    let dir = from.join(arch.name());
    let file = |name: &str| dir.join(name);
    let built = Built { binary: file("closewait"), debug: file("closewait.debug"), sbom: file("closewait.cdx.json") };
    for file in [&built.binary, &built.debug, &built.sbom] {
        ensure!(file.is_file(), "there is no {}\nhint: cargo xtask dist --arch {}", file.display(), arch.name());
    }
    Ok(built)
}

impl Release {
    /// This version, at the time of the commit that is checked out.
    pub(crate) fn of(workspace: &Workspace) -> Result<Self> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        // Another repository may have this folder among its own.
        if workspace.root.join(".git").exists() {
            let git = |args: &[&str]| exec::quiet(Command::new("git").args(args).current_dir(&workspace.root));
            if !git(&["status", "--porcelain"])?.is_empty() {
                eprintln!("xtask: the work tree has changes: these are not the packages of its commit");
            }
            let log = git(&["log", "--max-count=1", "--format=%H %ct"])?;
            let (commit, seconds) = log.trim().split_once(' ').with_context(|| format!("git printed {log:?}"))?;
            return Ok(Self { version, commit: Some(commit.to_owned()), seconds: seconds.parse()? });
        }
        let seconds = env::var("SOURCE_DATE_EPOCH").with_context(|| {
            let hint = "hint: set SOURCE_DATE_EPOCH to the seconds since 1970 of the release";
            format!("{} is no clone of git\n{hint}", workspace.root.display())
        })?;
        let seconds = seconds.parse().with_context(|| format!("`{seconds}` is no number of seconds"))?;
        Ok(Self { version, commit: None, seconds })
    }

    /// The version after this one, with the same files.
    pub(crate) fn next(&self) -> Result<Self> {
        let (rest, patch) = self.version.rsplit_once('.').context("the version has no dots")?;
        let patch: u32 =
            patch.parse().with_context(|| format!("the version {} does not end in a number", self.version))?;
        Ok(Self { version: format!("{rest}.{}", patch + 1), commit: self.commit.clone(), seconds: self.seconds })
    }
}

/// Writes the archive for people, the one with the debug information, and the list of dependencies. `tree` has the files as packages
/// get them.
fn archives(root: &Path, tree: &Path, (release, arch): (&Release, Arch), built: &Built, dir: &Path) -> Result<()> {
    let name = format!("closewait-{}-linux-{}", release.version, arch.name());
    let readme = (tree.join("README.md"), 0o644);
    let mut files = ArchivedFiles::from([(format!("{name}/README.md"), readme)]);
    for file in contents::read(root)? {
        let Some(archived) = file.archived() else { continue };
        let source = file.source.as_ref().map_or_else(|| built.binary.clone(), |source| tree.join(source));
        files.insert(format!("{name}/{archived}"), (source, file.mode));
    }
    archive::write(&dir.join(format!("{name}.tar.gz")), &files, release.seconds)?;
    fs::copy(&built.sbom, dir.join(format!("{name}.cdx.json")))?;
    // The name that the binary has for it; debuggers look for it beside the binary.
    let debug = ArchivedFiles::from([("closewait.debug".to_owned(), (built.debug.clone(), 0o644))]);
    archive::write(&dir.join(format!("{name}-debug.tar.gz")), &debug, release.seconds)
}

/// Copies the script into the folder of the release, so that its checksum is in the list, too.
fn add_install_script(root: &Path, dir: &Path) -> Result<()> {
    let script = root.join(INSTALL_SCRIPT);
    let name = script.file_name().context("the script has no name")?;
    fs::copy(&script, dir.join(name))?;
    Ok(())
}

/// Writes the checksums of all files of a folder. Returns names and sizes in bytes, with those of the checksums themselves.
fn write_sums(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().into_string().ok().context("a name is not UTF-8")?);
    }
    names.sort();
    let mut sums = String::new();
    for name in &names {
        sums += &format!("{}  {name}\n", sha256(&fs::read(dir.join(name))?));
    }
    fs::write(dir.join(SUMS), sums)?;
    names.push(SUMS.to_owned());
    names.into_iter().map(|name| Ok((name.clone(), fs::metadata(dir.join(name))?.len()))).collect()
}

/// Returns the checksum in hexadecimal digits.
fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The table of docs/install.md.
fn table(files: &[(String, u64)]) -> String {
    let row = |(name, bytes): &(String, u64)| match bytes {
        ..10_000 => format!("`{name}` | {bytes} bytes"),
        ..50_000 => format!("`{name}` | {:.0} kB", *bytes as f64 / 1e3),
        _ => format!("`{name}` | {:.1} MB", *bytes as f64 / 1e6),
    };
    markdown::table("file | size", files.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_what_sha256sum_checks() {
        let files = exec::with_scratch("sums", |dir| {
            fs::write(dir.join("b"), "b\n")?;
            fs::write(dir.join("a"), "")?;
            let files = write_sums(dir)?;
            exec::quiet(Command::new("sha256sum").args(["--check", "--strict", SUMS]).current_dir(dir))?;
            let sums = fs::read_to_string(dir.join(SUMS))?;
            assert!(
                sums.starts_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"),
                "{sums}"
            );
            Ok(files)
        })
        .unwrap();
        assert_eq!(files, [("a", 0), ("b", 2), (SUMS, 136)].map(|(name, size)| (name.to_owned(), size)));
        let shown = table(&[("a", 6_510_000), ("b", 14_086)].map(|(name, size)| (name.to_owned(), size)));
        assert_eq!(shown, "| file | size |\n|---|---|\n| `a` | 6.5 MB |\n| `b` | 14 kB |\n");
    }

    #[test]
    fn the_install_script_has_a_checksum() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let files = exec::with_scratch("script", |dir| {
            add_install_script(root, dir)?;
            write_sums(dir)
        })
        .unwrap();
        let size = fs::metadata(root.join(INSTALL_SCRIPT)).unwrap().len();
        assert_eq!(files.first(), Some(&("install.sh".to_owned(), size)));
    }

    #[test]
    fn the_next_version_is_higher() {
        let release = |version: &str| Release { version: version.to_owned(), commit: None, seconds: 1 };
        assert_eq!(release("0.1.9").next().unwrap().version, "0.1.10");
        assert!(release("0.1.x").next().is_err());
    }
}
