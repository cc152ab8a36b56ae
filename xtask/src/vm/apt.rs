//! Packages of Debian without touching the machine's packages or apt's own files.
//!
//! The mirror comes from the machine's apt configuration; lists, cache and state are folders of the workspace.

use crate::{dist::Arch, prelude::*};

/// Keys of Debian's archives, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites of Debian for one architecture, and apt's working folders for them.
pub(super) struct Apt {
    work: PathBuf,
    arch: Arch,
}

impl Apt {
    /// Empties `work` and prepares it for these suites, at the machine's own mirror.
    pub(super) fn new(work: &Path, arch: Arch, suites: &[&str]) -> Result<Self> {
        if exec::which("apt-get").is_none() || exec::which("dpkg").is_none() {
            bail!("apt-get or dpkg is not installed; run this on Debian");
        }
        // A suite that cannot be downloaded must not leave its lists to the next one.
        exec::remove_dir(work)?;
        for dir in ["lists/partial", "state", "cache/archives/partial"] {
            fs::create_dir_all(work.join(dir))?;
        }
        let stanza = |suite: &&str| {
            let site = mirror(suite.ends_with("-security"))?;
            Ok(format!("Types: deb\nURIs: {site}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n"))
        };
        fs::write(work.join("debian.sources"), suites.iter().map(stanza).collect::<Result<String>>()?)?;
        // No package is installed: what the machine has is of no use to a guest.
        fs::write(work.join("state/status"), "")?;
        Ok(Self { work: work.to_owned(), arch })
    }

    /// Downloads the lists. A suite that cannot be had is an error.
    pub(super) fn update(&self) -> Result<()> {
        exec::quiet(self.tool("apt-get").args(["--error-on=any", "update"])).map(drop)
    }

    /// The names of the packages that match a regular expression.
    pub(super) fn search(&self, regex: &str) -> Result<Vec<String>> {
        let found = exec::quiet(self.tool("apt-cache").args(["search", "--names-only", regex]))?;
        Ok(found.lines().filter_map(|line| Some(line.split_once(" - ")?.0.to_owned())).collect())
    }

    /// Downloads a package and unpacks it into `into`.
    pub(super) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let download = self.work.join("download");
        exec::remove_dir(&download)?;
        fs::create_dir(&download)?;
        exec::quiet(self.tool("apt-get").arg("download").arg(package).current_dir(&download))?;
        let deb = fs::read_dir(&download)?.next().with_context(|| format!("apt-get left no package {package}"))??;
        unpack_files(&[deb.path()], into)
    }

    /// Downloads packages with all that they depend on, and unpacks them into one folder.
    pub(super) fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        let mut command = self.tool("apt-get");
        exec::quiet(command.args(["install", "--download-only", "--no-install-recommends", "--yes"]).args(packages))?;
        let entries = fs::read_dir(self.work.join("cache/archives"))?.collect::<Result<Vec<_>, _>>()?;
        let files = entries.iter().map(|entry| entry.path());
        let debs: Vec<_> = files.filter(|path| path.extension() == Some("deb".as_ref())).collect();
        ensure!(!debs.is_empty(), "apt-get left no package of {packages:?}");
        unpack_files(&debs, into)
    }

    /// A tool of apt that reads our sources and writes our folders only.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(&self.work).env("LC_ALL", "C");
        for (option, path) in [
            ("Dir::Etc::SourceList", self.work.join("debian.sources")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State", self.work.join("state")),
            ("Dir::State::Status", self.work.join("state/status")),
            ("Dir::State::Lists", self.work.join("lists")),
            ("Dir::Cache", self.work.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        let arch = self.arch.debian_name();
        command.args(["-o", &format!("APT::Architecture={arch}"), "-o", &format!("APT::Architectures={arch}")]);
        // The target folder is not open to apt's own user, which downloads when root asks.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2"]);
        command
    }
}

/// Unpacks packages into one folder.
fn unpack_files(debs: &[PathBuf], into: &Path) -> Result<()> {
    // An interrupted run leaves nothing that looks complete.
    let partial = into.with_extension("partial");
    exec::remove_dir(&partial)?;
    exec::remove_dir(into)?;
    for deb in debs {
        exec::quiet(Command::new("dpkg").arg("-x").arg(deb).arg(&partial))?;
    }
    Ok(fs::rename(&partial, into)?)
}

/// The archive of Debian that apt is configured for: the one with the machine's own release, or with its security updates.
pub(crate) fn mirror(security: bool) -> Result<String> {
    let os_release = fs::read_to_string("/etc/os-release")?;
    let codename = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    // Sources may follow a moving name of the same archive.
    let names = [codename, "stable", "testing", "unstable", "sid"];
    let mut command = Command::new("apt-get");
    // Without the second word apt shows only what `apt-get update` has downloaded.
    command.args(["indextargets", "--no-release-info", "--format", "$(RELEASE) $(SITE)"]);
    let targets = exec::quiet(command.args(["Created-By: Packages", "Component: main"]))?;
    let wanted = |release: &str| if security { release.ends_with("-security") } else { names.contains(&release) };
    let mut sites = targets.lines().filter_map(|target| target.split_once(' '));
    let site = sites.find(|(release, site)| wanted(release) && !site.starts_with("cdrom:"));
    let what = if security { "the security updates of Debian" } else { "a release of Debian" };
    let (_release, site) = site.with_context(|| {
        format!("apt's configuration names no archive with {what}\nhint: add one below /etc/apt/sources.list.d")
    })?;
    Ok(site.to_owned())
}
