//! The archives in the machine's apt configuration: where its mirror is, and whose keys sign it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// Where apt's configuration is.
const ETC: &str = "/etc/apt";

/// An archive in the machine's apt configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// The value of `Signed-By`: a path, or a whole key over several lines.
    signed_by: Option<String>,
}

impl Archive {
    fn has_release(&self, codename: &str) -> bool {
        // Sources may follow a moving name of the same archive.
        self.suites.iter().any(|suite| [codename, "stable", "testing", "unstable", "sid"].contains(&suite.as_str()))
            && self.components.iter().any(|component| component == "main")
            && !self.uri.starts_with("cdrom:")
    }

    /// Whether it has security updates, of whatever release.
    fn has_security(&self) -> bool {
        self.suites.iter().any(|suite| suite.ends_with("-security"))
            && self.components.iter().any(|component| component == "main")
    }

    /// Another suite of the same archive in apt's deb822 format.
    pub(crate) fn stanza(&self, suite: &str) -> String {
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", self.uri);
        if let Some(signed_by) = &self.signed_by {
            text.push_str(&format!("Signed-By: {signed_by}\n"));
        }
        text
    }
}

/// The name of the machine's release, and the archives that have it.
pub(crate) fn release_archives() -> Result<(String, Vec<Archive>)> {
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release; is it there?")?;
    let codename = codename(&os_release).context("/etc/os-release has no VERSION_CODENAME; is this Debian?")?;
    let archives: Vec<_> = machine_archives()?.into_iter().filter(|archive| archive.has_release(codename)).collect();
    if archives.is_empty() {
        bail!("no archive in {ETC} has the suite {codename} with the component main; check `apt-get update`");
    }
    Ok((codename.to_owned(), archives))
}

/// The archives with security updates.
pub(crate) fn security_archives() -> Result<Vec<Archive>> {
    Ok(machine_archives()?.into_iter().filter(Archive::has_security).collect())
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
        assert!(found[1].has_security() && !found[0].has_security());
        assert!(
            !archive("http://v.example", &["bookworm"], &["stable"], None).has_release("bookworm"),
            "a vendor's archive"
        );
    }

    #[test]
    fn reads_the_release_s_name() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\n"), Some("noble"));
        assert_eq!(codename("ID=arch\n"), None);
    }
}
