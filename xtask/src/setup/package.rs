//! Debian's package of a tool whose version has to be that of the compiler.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Apt};

/// Suites to look into besides the machine's own release, backports first: their lists are the smallest. Names and
/// not `stable-backports`, because a released compiler stays in the suite it was built for.
const LATER_SUITES: [&str; 5] = ["trixie-backports", "forky-backports", "trixie", "forky", "sid"];

/// Downloads `package` whose upstream version is `upstream` and unpacks it into `into`.
pub(super) fn unpack(setup_dir: &Path, package: &str, upstream: &str, into: &Path) -> Result<()> {
    let (codename, archives) = apt::release_archives()?;
    let work = setup_dir.join("apt");
    let mut refusals = String::new();
    for archive in &archives {
        for suite in suites(&codename) {
            let apt = Apt::new(&work, &archive.stanza(&suite))?;
            match fetch(&apt, package, upstream) {
                Ok(Some(deb)) => {
                    apt::extract(&deb, into)?;
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

/// Downloads the package; `None` when the suite has other versions only.
fn fetch(apt: &Apt, package: &str, upstream: &str) -> Result<Option<PathBuf>> {
    apt.update()?;
    let versions = apt.versions(package)?;
    match choose_version(&versions, upstream) {
        Some(version) => apt.download(&format!("{package}={version}")).map(Some),
        None => Ok(None),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
