//! Unpacks one Debian package without touching the machine's packages or apt's own files.
//!
//! Mirror and keyring come from the machine's apt configuration; lists, cache and state are folders of ours.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// Where apt's configuration is.
const ETC: &str = "/etc/apt";

/// Suites to look into besides the machine's own release, backports first: their lists are the smallest. Names and
/// not `stable-backports`, because a released compiler stays in the suite it was built for.
const LATER_SUITES: [&str; 5] = ["trixie-backports", "forky-backports", "trixie", "forky", "sid"];

/// An archive in the machine's apt configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// The value of `Signed-By`: a path, or a whole key over several lines.
    signed_by: Option<String>,
}

/// Downloads `package` whose upstream version is `upstream` and unpacks it into `into`.
pub(super) fn unpack(setup_dir: &Path, package: &str, upstream: &str, into: &Path) -> Result<()> {
    if exec::which("apt-get").is_none() || exec::which("dpkg").is_none() {
        bail!("apt-get or dpkg is not installed, so there is no Debian package to fall back to");
    }
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release; is it there?")?;
    let codename = codename(&os_release).context("/etc/os-release has no VERSION_CODENAME; is this Debian?")?;
    let archives: Vec<_> = machine_archives()?.into_iter().filter(|archive| archive.has_release(codename)).collect();
    if archives.is_empty() {
        bail!("no archive in {ETC} has the suite {codename} with the component main; check `apt-get update`");
    }
    let work = setup_dir.join("apt");
    let mut refusals = String::new();
    for archive in &archives {
        for suite in suites(codename) {
            let apt = Apt::new(&work, archive, &suite)?;
            match apt.fetch(package, upstream) {
                Ok(Some(deb)) => {
                    extract(&deb, into)?;
                    return fs::remove_dir_all(&work)
                        .with_context(|| format!("cannot remove {}; delete it", work.display()));
                }
                Ok(None) => writeln!(refusals, "{suite}: no version {upstream}")?,
                Err(error) => writeln!(refusals, "{suite}: {error:#}")?,
            }
        }
    }
    bail!("no suite has {package} {upstream}; use the toolchain of a release that Debian has packaged:\n{refusals}");
}

/// One suite of one archive, and apt's working folders for it.
struct Apt {
    work: PathBuf,
}

impl Apt {
    fn new(work: &Path, archive: &Archive, suite: &str) -> Result<Self> {
        let make = |dir: PathBuf| {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}; is it yours?", dir.display()))
        };
        // A suite that cannot be had must not leave its lists to the next one.
        if work.exists() {
            fs::remove_dir_all(work).with_context(|| format!("cannot remove {}; delete it", work.display()))?;
        }
        make(work.join("lists/partial"))?;
        make(work.join("state"))?;
        make(work.join("cache/archives/partial"))?;
        let sources = work.join("debian.sources");
        fs::write(&sources, archive.stanza(suite)).with_context(|| format!("cannot write {}", sources.display()))?;
        Ok(Self { work: work.to_owned() })
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

    /// Downloads the package; `None` when the suite has other versions only.
    fn fetch(&self, package: &str, upstream: &str) -> Result<Option<PathBuf>> {
        exec::quiet(self.tool("apt-get").args(["--error-on=any", "update"]))?;
        let versions = exec::quiet(self.tool("apt-cache").args(["madison", package]))?;
        let Some(version) = choose_version(&versions, upstream) else {
            return Ok(None);
        };
        exec::quiet(self.tool("apt-get").arg("download").arg(format!("{package}={version}")))?;
        let files = fs::read_dir(&self.work).with_context(|| format!("cannot list {}", self.work.display()))?;
        let deb =
            files.filter_map(|entry| Some(entry.ok()?.path())).find(|p| p.extension().is_some_and(|e| e == "deb"));
        deb.with_context(|| format!("apt-get left no package in {}; try again", self.work.display())).map(Some)
    }
}

impl Archive {
    fn has_release(&self, codename: &str) -> bool {
        // Sources may follow a moving name of the same archive.
        self.suites.iter().any(|suite| [codename, "stable", "testing", "unstable", "sid"].contains(&suite.as_str()))
            && self.components.iter().any(|component| component == "main")
            && !self.uri.starts_with("cdrom:")
    }

    /// Another suite of the same archive in apt's deb822 format.
    fn stanza(&self, suite: &str) -> String {
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", self.uri);
        if let Some(signed_by) = &self.signed_by {
            text.push_str(&format!("Signed-By: {signed_by}\n"));
        }
        text
    }
}

/// Every archive in the machine's configuration.
fn machine_archives() -> Result<Vec<Archive>> {
    let etc = Path::new(ETC);
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut archives = Vec::new();
    for file in files {
        // apt itself ignores every other extension.
        let parse = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => parse_one_line,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        if file.is_file() {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}; run as a user who may", file.display()))?;
            archives.extend(parse(&text));
        }
    }
    Ok(archives)
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...`, one a line.
fn parse_one_line(text: &str) -> Vec<Archive> {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace();
        Some(Archive {
            uri: words.next()?.to_owned(),
            suites: vec![words.next()?.to_owned()],
            components: words.map(str::to_owned).collect(),
            signed_by: signed_by.map(str::to_owned),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Stanzas of `Field: value`, with continuation lines that start with a blank.
fn parse_deb822(text: &str) -> Vec<Archive> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect();
    let stanzas = lines.split(|line| line.is_empty());
    stanzas.flat_map(|stanza| stanza_archives(&deb822_fields(stanza))).collect()
}

/// The fields of one stanza, names in lower case, continuation lines as they stand.
fn deb822_fields(lines: &[&str]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some((_name, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    fields
}

fn stanza_archives(fields: &[(String, String)]) -> Vec<Archive> {
    let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let words =
        |name: &str| -> Vec<String> { field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect() };
    let off = field("enabled")
        .is_some_and(|value| ["no", "false", "0", "off"].contains(&value.to_ascii_lowercase().as_str()));
    if off || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let archive = |uri| Archive {
        uri,
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
    };
    words("uris").into_iter().map(archive).collect()
}

fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|name| !name.is_empty())
}

/// The suites to try, in order.
fn suites(codename: &str) -> Vec<String> {
    let own = [format!("{codename}-backports"), codename.to_owned()];
    let (backports, releases): (Vec<_>, Vec<_>) =
        own.into_iter().chain(LATER_SUITES.map(str::to_owned)).partition(|suite| suite.ends_with("-backports"));
    let mut suites = Vec::new();
    for suite in backports.into_iter().chain(releases) {
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    suites
}

/// The first line of `apt-cache madison` whose upstream version is the wanted one.
fn choose_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    let versions = madison.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim()));
    versions.into_iter().find(|version| upstream_of(version) == upstream)
}

/// `1.95.0` of `1:1.95.0+dfsg1-2~bpo13+1`.
fn upstream_of(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// Unpacks beside the goal and renames, so that an interrupted run leaves nothing that looks complete.
fn extract(deb: &Path, into: &Path) -> Result<()> {
    let partial = into.with_extension("partial");
    for dir in [&partial, into] {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}; delete it", dir.display()))?;
        }
    }
    exec::quiet(Command::new("dpkg").arg("-x").arg(deb).arg(&partial))?;
    fs::rename(&partial, into).with_context(|| format!("cannot rename {} to {}", partial.display(), into.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main contrib\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
        Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n\
        Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n";

    fn archive(uri: &str, suites: &[&str], components: &[&str], signed_by: Option<&str>) -> Archive {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Archive {
            uri: uri.to_owned(),
            suites: owned(suites),
            components: owned(components),
            signed_by: signed_by.map(str::to_owned),
        }
    }

    #[test]
    fn reads_deb822_stanzas_and_skips_disabled_ones() {
        let found = parse_deb822(DEB822);
        let keyring = Some("/usr/share/keyrings/k.gpg");
        let suites = ["bookworm", "bookworm-updates"];
        assert_eq!(
            found,
            [
                archive("http://mirror.example/debian", &suites, &["main", "contrib"], keyring),
                archive("http://mirror.example/security", &["bookworm-security"], &["main"], None),
            ]
        );
    }

    #[test]
    fn keeps_a_key_that_stands_in_the_stanza() {
        let text = "Types: deb\nURIs: http://m.example/d\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
        let found = parse_deb822(text);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].stanza("sid").ends_with("Suites: sid\nComponents: main\nSigned-By: \n -----BEGIN\n .\n abc\n")
        );
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "# deb http://no.example/d x main\ndeb-src http://m.example/d bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.example/d bookworm main non-free # own\ndeb\thttp://n.example/d sid main\n";
        assert_eq!(
            parse_one_line(text),
            [
                archive("http://m.example/d", &["bookworm"], &["main", "non-free"], Some("/k.gpg")),
                archive("http://n.example/d", &["sid"], &["main"], None),
            ]
        );
    }

    #[test]
    fn only_the_archive_of_the_release_itself_is_a_mirror() {
        let found = parse_deb822(DEB822);
        assert!(found[0].has_release("bookworm"));
        assert!(!found[1].has_release("bookworm"), "the security archive has no later suites");
        assert!(
            !archive("http://v.example", &["bookworm"], &["stable"], None).has_release("bookworm"),
            "a vendor's archive"
        );
    }

    #[test]
    fn tries_small_lists_first_and_no_suite_twice() {
        assert_eq!(
            suites("bookworm"),
            ["bookworm-backports", "trixie-backports", "forky-backports", "bookworm", "trixie", "forky", "sid"]
        );
        assert_eq!(suites("trixie"), ["trixie-backports", "forky-backports", "trixie", "forky", "sid"]);
    }

    #[test]
    fn chooses_exactly_the_compiler_s_version() {
        let madison = "  rust-src | 1.95.1+dfsg1-2~bpo13+1 | http://m trixie-backports/main amd64 Packages\n  \
            rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://m trixie-backports/main amd64 Packages\n";
        assert_eq!(choose_version(madison, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(choose_version(madison, "1.95"), None);
        assert_eq!(choose_version("", "1.95.0"), None);
        assert_eq!(upstream_of("2:1.95.0-1"), "1.95.0");
    }

    #[test]
    fn reads_the_release_s_name() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\n"), Some("noble"));
        assert_eq!(codename("ID=arch\n"), None);
    }
}
