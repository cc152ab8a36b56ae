//! contrib/package/nfpm.yaml as the one list of what people get: nfpm reads it for the packages, this module for the archive.

use super::native::Format;
use crate::{prelude::*, yaml};

/// The file for nfpm.
pub(super) const YAML: &str = "contrib/package/nfpm.yaml";
/// `src` of the binary.
const BINARY: &str = "${CLOSEWAIT_BINARY}";

/// A file that people get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackagedFile {
    /// Path from the root of the repository; `None`: the binary.
    pub(crate) source: Option<String>,
    /// Path on a host with the package.
    pub(crate) destination: String,
    /// Permissions.
    pub(crate) mode: u32,
    /// nfpm's name of the only format that has it; `None`: each has.
    pub(crate) packager: Option<String>,
}

impl PackagedFile {
    /// Path in the archive: of what packages have below /usr, it has bin and share, for any prefix; the rest is in share/closewait.
    /// Completions are where distributions other than Debian have them. `None`: the archive has none of it.
    pub(super) fn archived(&self) -> Option<String> {
        if !self.is_in(Format::Archlinux.name()) {
            return None;
        }
        let below_usr = self.destination.strip_prefix("/usr/").filter(|path| !path.starts_with("lib/"));
        let name = self.destination.rsplit('/').next().unwrap_or_default();
        Some(below_usr.map_or_else(|| format!("share/closewait/{name}"), str::to_owned))
    }

    /// Whether packages of this format have it.
    pub(crate) fn is_in(&self, packager: &str) -> bool {
        self.packager.as_deref().is_none_or(|only| only == packager)
    }
}

/// Reads the list. Patterns are replaced by the files that match them.
pub(crate) fn read(root: &Path) -> Result<Vec<PackagedFile>> {
    let text = fs::read_to_string(root.join(YAML))?;
    let files_in = |dir: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(root.join(dir))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    parse(&text, files_in).with_context(|| format!("{YAML} is not what this program understands"))
}

/// Parses the list; `files_in` returns the names of the files in a folder of the repository.
fn parse(text: &str, files_in: impl Fn(&str) -> Result<Vec<String>>) -> Result<Vec<PackagedFile>> {
    let documents = yaml::documents(text)?;
    let contents = documents.first().and_then(|document| document["contents"].as_array());
    let mut files = Vec::new();
    for content in contents.context("it has no list `contents`")? {
        let text = |name: &str| content[name].as_str();
        let destination = text("dst").context("an entry has no `dst`")?;
        let mode = content["file_info"]["mode"].as_u64().with_context(|| format!("{destination} has no mode"))?;
        let file = |source: Option<String>, destination: String| -> Result<PackagedFile> {
            let packager = text("packager").map(str::to_owned);
            Ok(PackagedFile { source, destination, mode: u32::try_from(mode)?, packager })
        };
        if text("type") == Some("dir") {
            continue;
        }
        let source = text("src").with_context(|| format!("{destination} has no `src`"))?;
        let Some((folder, suffix)) = source.split_once("/*") else {
            files.push(file((source != BINARY).then(|| source.to_owned()), destination.to_owned())?);
            continue;
        };
        ensure!(destination.ends_with('/'), "{source} are several files, and {destination} is no folder");
        let mut names = files_in(folder)?;
        names.retain(|name| name.ends_with(suffix));
        ensure!(!names.is_empty(), "no file matches {source}");
        for name in names {
            files.push(file(Some(format!("{folder}/{name}")), format!("{destination}{name}"))?);
        }
    }
    files.sort_by(|a, b| a.destination.cmp(&b.destination));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    #[test]
    fn a_pattern_stands_for_its_files_and_a_mode_is_octal() {
        let yaml = "contents:
- {src: '${CLOSEWAIT_BINARY}', dst: /usr/bin/closewait, file_info: {mode: 0o755}}
- {dst: /etc/x, type: dir, file_info: {mode: 0o755}}
- {src: man/*.1, dst: /usr/share/man/man1/, file_info: {mode: 0o644}}
- {src: x.service, dst: /usr/lib/systemd/system/x.service, file_info: {mode: 0o644}}
- {src: copyright, dst: /usr/share/copyright, packager: deb, file_info: {mode: 0o644}}
";
        let names = |_dir: &str| Ok(["b.1", "a.1", "c.5"].map(str::to_owned).to_vec());
        let files = parse(yaml, names).unwrap();
        let shown: Vec<_> =
            files.iter().map(|file| (file.source.as_deref(), file.mode, file.archived().unwrap_or_default())).collect();
        assert_eq!(
            shown,
            [
                (None, 0o755, "bin/closewait"),
                (Some("x.service"), 0o644, "share/closewait/x.service"),
                (Some("copyright"), 0o644, ""),
                (Some("man/a.1"), 0o644, "share/man/man1/a.1"),
                (Some("man/b.1"), 0o644, "share/man/man1/b.1"),
            ]
            .map(|(source, mode, path)| (source, mode, path.to_owned()))
        );
        assert!(files[2].is_in("deb") && !files[2].is_in("rpm") && files[3].is_in("rpm"));
        assert!(parse("contents: [{src: x/*.2, dst: /x/, file_info: {mode: 1}}]", names).is_err());
        assert!(parse("contents: [{src: x, dst: /x}]", names).is_err());
        assert!(parse("name: closewait", names).is_err());
    }

    #[test]
    fn each_format_has_each_file_once() {
        let files = read(&root()).unwrap();
        for packager in ["deb", "rpm", "apk", "archlinux"] {
            let of_format = || files.iter().filter(|file| file.is_in(packager));
            let mut times = BTreeMap::new();
            of_format().for_each(|file| *times.entry(&file.destination).or_insert(0) += 1);
            assert!(times.values().all(|count| *count == 1), "{packager}: {times:?}");
            assert!(of_format().any(|file| file.destination.ends_with("/_closewait")), "{packager}");
        }
    }

    #[test]
    fn nothing_that_people_need_is_left_out() {
        let files = read(&root()).unwrap();
        for folder in ["completions", "hooks", "man", "monitoring/grafana", "systemd"] {
            for entry in fs::read_dir(root().join("contrib").join(folder)).unwrap() {
                let path = format!("contrib/{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
                assert!(files.iter().any(|file| file.source.as_ref() == Some(&path)), "{path} is in no package");
            }
        }
        for license in ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"] {
            let archived = files.iter().filter_map(PackagedFile::archived).any(|path| path.ends_with(license));
            assert!(archived, "{license} is not in the archive");
        }
    }

    #[test]
    fn a_file_is_executable_in_packages_if_it_is_in_the_repository() {
        use std::os::unix::fs::PermissionsExt as _;
        for file in read(&root()).unwrap() {
            let Some(source) = &file.source else { continue };
            let executable = fs::metadata(root().join(source)).unwrap().permissions().mode() & 0o100 != 0;
            assert_eq!(file.mode, if executable { 0o755 } else { 0o644 }, "{source}");
        }
    }
}
