//! Packages of Debian without touching the machine's packages or apt's own files.
//!
//! Mirror and keyring come from the machine's apt configuration; lists, cache and state are folders of the workspace.

use crate::prelude::*;

/// An archive in the machine's apt configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    uri: String,
    /// One suite that the machine takes from it.
    suite: String,
    /// The value of `Signed-By`: a path, or a whole key over several lines.
    signed_by: Option<String>,
}

/// Some suites, and apt's working folders for them.
pub(crate) struct Apt {
    work: PathBuf,
}

impl Archive {
    /// Another suite of the same archive in apt's deb822 format.
    pub(crate) fn stanza(&self, suite: &str) -> String {
        let signed_by = self.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
        format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", self.uri)
    }
}

/// The archives of packages that apt is configured for, with the component `main`.
fn archives() -> Result<Vec<Archive>> {
    let mut command = Command::new("apt-get");
    // Without the second word apt shows only what `apt-get update` has downloaded.
    command.args(["indextargets", "--no-release-info", "--format", "$(SITE) $(RELEASE) $(SOURCESENTRY)"]);
    let targets = exec::quiet(command.args(["Created-By: Packages", "Component: main"]))?;
    let mut archives = Vec::new();
    for target in targets.lines().filter(|target| !target.starts_with("cdrom:")) {
        // The entry is `FILE:NUMBER`.
        let Some((site, (suite, entry))) =
            target.split_once(' ').and_then(|(site, rest)| Some((site, rest.split_once(' ')?)))
        else {
            bail!("apt-get indextargets printed {target:?}; apt 1.2 or newer is needed");
        };
        let sources = fs::read_to_string(entry.rsplit_once(':').map_or(entry, |(file, _number)| file))?;
        let signed_by = signed_by(&sources, site, suite);
        let archive = Archive { uri: site.to_owned(), suite: suite.to_owned(), signed_by };
        if !archives.contains(&archive) {
            archives.push(archive);
        }
    }
    Ok(archives)
}

/// The key of an archive, which apt does not show, from a file of sources in either format: `deb [signed-by=KEY] URI ...`, or
/// stanzas of `Field: value` whose continuation lines begin with a blank.
fn signed_by(sources: &str, site: &str, suite: &str) -> Option<String> {
    let is_about = |text: &&str| {
        let has = |wanted| text.split_whitespace().any(|word| word.trim_end_matches('/') == wanted);
        has(site) && has(suite)
    };
    let stanza = sources.split("\n\n").find(is_about)?;
    if let Some(line) = stanza.lines().filter(|line| line.starts_with("deb")).find(is_about) {
        return Some(line.split_once("signed-by=")?.1.split([' ', ']']).next()?.to_owned());
    }
    let mut lines = stanza.lines().skip_while(|line| !line.to_ascii_lowercase().starts_with("signed-by:"));
    let mut key = lines.next()?.split_once(':')?.1.trim().to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        key.push('\n');
        key.push_str(line);
    }
    Some(key)
}

/// The name of the machine's release, and the archives that have it.
pub(crate) fn release_archives() -> Result<(String, Vec<Archive>)> {
    let os_release = fs::read_to_string("/etc/os-release")?;
    let codename = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME; is this Debian?")?.trim_matches('"');
    let mut archives = archives()?;
    // Sources may follow a moving name of the same archive.
    archives.retain(|archive| [codename, "stable", "testing", "unstable", "sid"].contains(&archive.suite.as_str()));
    ensure!(!archives.is_empty(), "apt knows no suite {codename} with the component main; check `apt-get update`");
    Ok((codename.to_owned(), archives))
}

/// The archives with security updates, of whatever release.
pub(crate) fn security_archives() -> Result<Vec<Archive>> {
    Ok(archives()?.into_iter().filter(|archive| archive.suite.ends_with("-security")).collect())
}

impl Apt {
    /// Empties `work` and prepares it for these suites, in apt's deb822 format.
    pub(crate) fn new(work: &Path, stanzas: &str) -> Result<Self> {
        if exec::which("apt-get").is_none() || exec::which("dpkg").is_none() {
            bail!("apt-get or dpkg is not installed, so there is no package of Debian to be had");
        }
        // A suite that cannot be had must not leave its lists to the next one.
        exec::remove_dir(work)?;
        for dir in ["lists/partial", "state", "cache/archives/partial"] {
            fs::create_dir_all(work.join(dir))?;
        }
        fs::write(work.join("debian.sources"), stanzas)?;
        Ok(Self { work: work.to_owned() })
    }

    /// Downloads the lists. A suite that cannot be had is an error.
    pub(crate) fn update(&self) -> Result<()> {
        exec::quiet(self.tool("apt-get").args(["--error-on=any", "update"])).map(drop)
    }

    /// What `apt-cache madison` prints about a package.
    pub(crate) fn versions(&self, package: &str) -> Result<String> {
        exec::quiet(self.tool("apt-cache").args(["madison", package]))
    }

    /// The packages whose names begin so, one a line.
    pub(crate) fn names(&self, beginning: &str) -> Result<String> {
        exec::quiet(self.tool("apt-cache").args(["pkgnames", beginning]))
    }

    /// Downloads `PACKAGE` or `PACKAGE=VERSION` and unpacks it into `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let download = self.work.join("download");
        exec::remove_dir(&download)?;
        fs::create_dir(&download)?;
        exec::quiet(self.tool("apt-get").arg("download").arg(package).current_dir(&download))?;
        let deb = fs::read_dir(&download)?.next().with_context(|| format!("apt-get left no package {package}"))??;
        // An interrupted run leaves nothing that looks complete.
        let partial = into.with_extension("partial");
        exec::remove_dir(&partial)?;
        exec::remove_dir(into)?;
        exec::quiet(Command::new("dpkg").arg("-x").arg(deb.path()).arg(&partial))?;
        Ok(fs::rename(&partial, into)?)
    }

    /// A tool of apt that reads our sources and writes our folders only.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(&self.work).env("LC_ALL", "C");
        for (option, path) in [
            ("Dir::Etc::SourceList", self.work.join("debian.sources")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State", self.work.join("state")),
            ("Dir::State::Lists", self.work.join("lists")),
            ("Dir::Cache", self.work.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        // The target folder is not open to apt's own user, which downloads when root asks.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2"]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_archive_is_that_of_its_own_stanza_or_line() {
        let stanzas = "Types: deb\nURIs: http://m.example/d/ http://n.example/d\nSuites: sid trixie\nComponents: main\n\n\
            Types: deb\nURIs: http://m.example/d\nSuites: bookworm\nSigned-By:\n -----BEGIN\n .\n abc\nComponents: main\n";
        assert_eq!(signed_by(stanzas, "http://m.example/d", "trixie"), None);
        assert_eq!(signed_by(stanzas, "http://m.example/d", "bookworm").unwrap(), "\n -----BEGIN\n .\n abc");
        let lines = "# deb [signed-by=/no.gpg] http://m.example/d bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.example/d/ bookworm main # own\ndeb http://n.example/d sid main\n";
        assert_eq!(signed_by(lines, "http://m.example/d", "bookworm").unwrap(), "/k.gpg");
        assert_eq!(signed_by(lines, "http://n.example/d", "sid"), None);
    }

    #[test]
    fn another_suite_of_an_archive_has_the_same_key() {
        let key = Some("/k.gpg".to_owned());
        let archive = Archive { uri: "http://m.example/d".to_owned(), suite: "bookworm".to_owned(), signed_by: key };
        let stanza = "Types: deb\nURIs: http://m.example/d\nSuites: sid\nComponents: main\nSigned-By: /k.gpg\n";
        assert_eq!(archive.stanza("sid"), stanza);
    }
}
