//! Pages in packages: their relative links lead to the repository on the web, at the version of the package, because packages have
//! neither docs/ nor contrib/.

use std::borrow::Cow;

use super::Release;
use crate::prelude::*;

/// Rewrites the links of a page that is in the folder `root` of the repository. Links in code blocks stay.
pub(super) fn to_web(page: &str, root: &Path, release: &Release) -> String {
    let mut in_code = false;
    let line = |line: &str| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        if in_code || is_fence { line.to_owned() } else { line_to_web(line, root, release) }
    };
    page.split_inclusive('\n').map(line).collect()
}

fn line_to_web(line: &str, root: &Path, release: &Release) -> String {
    let mut parts = line.split("](");
    let mut before = parts.next().unwrap_or_default();
    let mut rewritten = before.to_owned();
    for part in parts {
        rewritten += "](";
        if let Some((target, rest)) = part.split_once(')') {
            let is_image = before.rfind('[').is_some_and(|at| before[..at].ends_with('!'));
            rewritten += &format!("{})", target_to_web(target, is_image, root, release));
            rewritten += rest;
        } else {
            rewritten += part;
        }
        before = part;
    }
    rewritten
}

/// The address of a file, a folder or an image; headings of the same page and addresses stay.
fn target_to_web<'a>(target: &'a str, is_image: bool, root: &Path, release: &Release) -> Cow<'a, str> {
    if target.contains("://") || target.starts_with('#') {
        return target.into();
    }
    let path = target.split('#').next().unwrap_or_default();
    let kind = match is_image {
        // Only this one is an image and not a page with it.
        true => "raw",
        false if root.join(path).is_dir() => "tree",
        false => "blob",
    };
    format!("{}/{kind}/v{}/{target}", env!("CARGO_PKG_REPOSITORY"), release.version).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::contents;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn release() -> Release {
        Release { version: "1.2.3".to_owned(), commit: None, seconds: 1 }
    }

    #[test]
    fn relative_links_get_the_address_of_the_version() {
        let page = "![a chart](docs/incident.svg) and [b](docs/install.md#script), [c](docs), [d](#top), [e](https://e.org/x)\n\
            ```\n[f](docs/install.md)\n```\n[![g](docs/incident.svg)](docs/report.md)";
        let web = env!("CARGO_PKG_REPOSITORY");
        let expected = format!(
            "![a chart]({web}/raw/v1.2.3/docs/incident.svg) and [b]({web}/blob/v1.2.3/docs/install.md#script), \
            [c]({web}/tree/v1.2.3/docs), [d](#top), [e](https://e.org/x)\n\
            ```\n[f](docs/install.md)\n```\n[![g]({web}/raw/v1.2.3/docs/incident.svg)]({web}/blob/v1.2.3/docs/report.md)"
        );
        assert_eq!(to_web(page, &root(), &release()), expected);
    }

    #[test]
    fn no_packaged_page_has_a_link_that_leads_nowhere() {
        let pages = contents::read(&root()).unwrap().into_iter().filter_map(|file| file.source);
        let pages: Vec<_> = pages.filter(|source| source.ends_with(".md")).collect();
        assert_eq!(pages, ["CHANGELOG.md", "README.md"]);
        for page in pages {
            let text = to_web(&fs::read_to_string(root().join(&page)).unwrap(), &root(), &release());
            let targets: Vec<_> = text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
            assert!(targets.len() > 3, "{page} has no links");
            for target in targets {
                assert!(target.contains("://") || target.starts_with('#'), "{page}: {target}");
                for kind in ["blob", "raw", "tree"] {
                    let start = format!("{}/{kind}/v1.2.3/", env!("CARGO_PKG_REPOSITORY"));
                    let Some(path) = target.strip_prefix(&start) else { continue };
                    assert!(root().join(path.split('#').next().unwrap()).exists(), "{page}: {target}");
                }
            }
        }
    }
}
