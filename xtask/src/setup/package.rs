//! Debian's package of a tool whose version has to be that of the compiler.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::apt::{self, Apt};
use crate::prelude::*;

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
            let unpack = || -> Result<bool> {
                apt.update()?;
                let madison = apt.versions(package)?;
                let Some(version) = choose_version(&madison, upstream) else { return Ok(false) };
                apt.unpack(&format!("{package}={version}"), into).map(|()| true)
            };
            match unpack() {
                Ok(true) => return exec::remove_dir(&work),
                Ok(false) => writeln!(refusals, "{suite}: no version {upstream}")?,
                Err(error) => writeln!(refusals, "{suite}: {error:#}")?,
            }
        }
    }
    bail!("no suite has {package} {upstream}; use the toolchain of a release that Debian has packaged:\n{refusals}");
}

/// The suites to try, in order.
fn suites(codename: &str) -> Vec<String> {
    let mut suites = vec![format!("{codename}-backports"), codename.to_owned()];
    suites.extend(LATER_SUITES.map(str::to_owned));
    suites.sort_by_key(|suite| !suite.ends_with("-backports"));
    let mut seen = BTreeSet::new();
    suites.retain(|suite| seen.insert(suite.clone()));
    suites
}

/// The first line of `apt-cache madison` whose upstream version is the wanted one.
fn choose_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    let mut versions = madison.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim()));
    versions.find(|version| upstream_of(version) == upstream)
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
