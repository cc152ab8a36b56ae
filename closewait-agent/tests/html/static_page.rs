//! The page as text.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use closewait::sink::report::html::{MAX_PAGE_BYTES, POLICY, SCRIPT, STYLE};
use snapbox::{assert_data_eq, file};

use super::fixture::{HOSTILE, empty, hostile, incident, largest, page};

/// Elements without an end tag.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
/// Elements whose content is text.
const RAW: [&str; 2] = ["style", "script"];

/// Tag of a page.
#[derive(Debug)]
struct Tag<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, &'a str)>,
}

/// Parses a page strictly: all tags are balanced, all attributes quoted, and no text has a bare `<` or `"`. Returns the tags.
fn parse(page: &str) -> Vec<Tag<'_>> {
    let (mut tags, mut open) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains(['>', '"']), "a text has a bare character: {text:?}");
        rest = &rest[at + 1..];
        let (tag, after) = rest.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "wrong end tag");
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut parsed = Vec::new();
        while !attributes.is_empty() {
            let end = attributes.find([' ', '=']).unwrap_or(attributes.len());
            let attribute = &attributes[..end];
            attributes = &attributes[end..];
            let mut value = "";
            if let Some(quoted) = attributes.strip_prefix("=\"") {
                (value, attributes) = quoted.split_once('"').expect("a value is quoted");
            }
            assert!(
                attribute.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-:".contains(&byte)),
                "{attribute:?}"
            );
            assert!(!value.contains('<'), "{value:?}");
            parsed.push((attribute, value));
            attributes = attributes.strip_prefix(' ').unwrap_or(attributes);
        }
        if RAW.contains(&name) {
            let end = format!("</{name}>");
            (_, rest) = rest.split_once(&end).expect("a raw element ends");
        } else if !VOID.contains(&name) {
            open.push(name);
        }
        tags.push(Tag { name, attributes: parsed });
    }
    assert_eq!(open, [""; 0], "tags are not closed");
    tags
}

fn json(page: &str) -> serde_json::Value {
    let (_, json) =
        page.split_once("<script id=\"report\" type=\"application/json\">").expect("the page has the report");
    let (json, _) = json.split_once("</script>").expect("it ends");
    serde_json::from_str(json).expect("it is JSON")
}

#[test]
fn the_page_of_an_incident_is_the_expected_one() {
    let page = page(&incident());
    // One element a line makes differences readable. The data and the style sheet have tests of their own.
    let (page, _) = page.split_once("<script id=\"report\"").unwrap();
    let page = page.replace(STYLE, "").replace("><", ">\n<");
    assert_data_eq!(page, file!["incident.html"]);
}

#[test]
fn tags_are_balanced_identifiers_unique_and_links_lead_to_them() {
    for report in [empty(), incident(), hostile(), largest()] {
        let page = page(&report);
        let tags = parse(&page);
        let mut ids = BTreeMap::<&str, u32>::new();
        let values = |wanted: &'static str| {
            tags.iter()
                .flat_map(|tag| &tag.attributes)
                .filter(move |(name, _)| *name == wanted)
                .map(|(_, value)| *value)
        };
        values("id").for_each(|id| *ids.entry(id).or_default() += 1);
        assert!(ids.values().all(|count| *count == 1), "{ids:?}");
        for link in values("href") {
            assert!(ids.contains_key(link.strip_prefix('#').expect("links stay in the page")), "{link}");
        }
        for label in values("aria-labelledby").flat_map(str::split_whitespace) {
            assert!(ids.contains_key(label), "{label}");
        }
    }
}

#[test]
fn pictures_have_a_title_or_are_hidden_and_tables_have_headings() {
    let page = page(&incident());
    let tags = parse(&page);
    let of = |wanted: &str| tags.iter().filter(|tag| tag.name == wanted).collect::<Vec<_>>();
    let has = |tag: &Tag<'_>, name: &str| tag.attributes.iter().any(|(other, _)| *other == name);
    for picture in of("svg") {
        let is_inner = has(picture, "preserveAspectRatio");
        assert!(is_inner || has(picture, "aria-labelledby") || has(picture, "aria-hidden"), "{picture:?}");
    }
    assert!(of("th").iter().all(|heading| has(heading, "scope")));
    assert_eq!(of("table").len(), of("thead").len());
}

#[test]
fn a_page_loads_nothing_and_has_no_handler() {
    for report in [incident(), hostile(), largest()] {
        let page = page(&report);
        for tag in parse(&page) {
            let is_loading = |name: &str| {
                matches!(name, "src" | "srcset" | "data" | "action" | "poster" | "xlink:href" | "style")
                    || name.starts_with("on")
            };
            assert!(!tag.attributes.iter().any(|(name, _)| is_loading(name)), "{tag:?}");
            let allowed = "!DOCTYPE a article b bdi body button caption code dd desc details div dl dt figcaption figure h1 h2 head \
                header html li line main meta nav p path pre rect script section span style summary svg table tbody td text th \
                thead title tr tspan ul";
            assert!(allowed.split_whitespace().any(|name| name == tag.name), "{tag:?}");
        }
    }
    for part in [STYLE, SCRIPT] {
        for banned in ["url(", "@import", "http:", "https:", "//", "fetch", "innerHTML", "eval"] {
            assert!(!part.contains(banned), "{banned}");
        }
    }
    assert!(SCRIPT.lines().count() <= 40);
}

#[test]
fn hostile_text_stays_text() {
    let page = page(&hostile());
    assert!(parse(&page).iter().all(|tag| !["img", "i"].contains(&tag.name)));
    let (shown, _) = page.split_once("<script id=\"report\"").unwrap();
    assert!(!shown.contains(['\u{202e}', '\u{7}']), "control characters are escaped");
    // The text itself is complete, but for the characters that are escaped.
    assert!(page.contains(
        "&lt;img src=x onerror=alert(1)&gt;&quot;'`&amp;&lt;!--&lt;script&gt;alert(2)&lt;/script&gt;\\u{202e}\\u{7}\\\\"
    ));
    let json = json(&page);
    assert_eq!(json["groups"][0]["verdict"]["text"], HOSTILE, "the JSON has it as it is");
}

#[test]
fn the_page_has_the_json_of_the_report() {
    let json = json(&page(&incident()));
    let counts: Vec<_> = json["groups"].as_array().unwrap().iter().map(|group| &group["count"]).collect();
    assert_eq!(counts, [1144, 420, 6]);
}

#[test]
fn the_largest_report_is_shortened_and_the_page_says_so() {
    let report = largest();
    let page = page(&report);
    assert!(page.len() <= MAX_PAGE_BYTES, "{} bytes", page.len());
    let json = json(&page);
    let (groups, more) = (json["groups"].as_array().unwrap().len() as u64, json["more_groups"].as_u64().unwrap());
    assert!(groups > 0 && groups + more == 1064, "{groups} and {more} more");
    assert!(page.contains(&format!("it has {groups} of 1064 groups")));
    for text in [
        "more groups are less urgent and not in this page",
        "with a problem: in the table below",
        "that ended: not in this page",
        "more events not shown",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // A usual report is whole.
    let page = super::fixture::page(&incident());
    assert!(page.len() < 100_000 && !page.contains("It is shortened"), "{} bytes", page.len());
}

#[test]
fn the_policy_names_the_script_and_the_style_sheet() {
    for part in [STYLE, SCRIPT] {
        let mut child =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("coreutils");
        child.stdin.take().unwrap().write_all(part.as_bytes()).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&output[at * 2..at * 2 + 2], 16).unwrap()).collect();
        let wanted = format!("'sha256-{}'", base64(&bytes));
        assert!(POLICY.contains(&wanted), "POLICY in html.rs needs {wanted}");
    }
}

/// Encodes bytes by RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |number, at| number << 8 | usize::from(part.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[number >> (18 - at * 6) & 63]);
            text.push(if at <= part.len() { digit } else { '=' });
        }
    }
    text
}

/// Returns the colors of a scheme by the names of their variables: the first block is light, the second dark.
fn colors(dark: bool) -> BTreeMap<&'static str, [f64; 3]> {
    let block =
        STYLE.split(":root {").nth(1 + usize::from(dark)).and_then(|rest| rest.split('}').next()).expect("two schemes");
    let color = |line: &'static str| {
        let (name, value) = line.trim().strip_prefix("--")?.split_once(": #")?;
        let channel = |at: usize| f64::from(u8::from_str_radix(&value[at..at + 2], 16).expect("a color")) / 255.0;
        Some((name, [0, 2, 4].map(channel)))
    };
    block.split(';').filter_map(color).collect()
}

/// Returns the contrast ratio of two colors by WCAG 2.2.
fn contrast(left: [f64; 3], right: [f64; 3]) -> f64 {
    let linear =
        |channel: f64| if channel <= 0.04045 { channel / 12.92 } else { ((channel + 0.055) / 1.055).powf(2.4) };
    let luminance =
        |[red, green, blue]: [f64; 3]| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let (left, right) = (luminance(left) + 0.05, luminance(right) + 0.05);
    left.max(right) / left.min(right)
}

#[test]
fn text_has_a_contrast_of_at_least_4_5_and_curves_of_3() {
    let text = [
        ("ink", "paper"),
        ("ink", "panel"),
        ("muted", "paper"),
        ("link", "paper"),
        ("limit", "paper"),
        ("bad-ink", "bad"),
        ("warn-ink", "warn"),
        ("good-ink", "good"),
    ];
    let curves = [
        ("stuck", "paper"),
        ("open", "paper"),
        ("limit", "paper"),
        ("mark", "paper"),
        ("bar", "paper"),
        ("left", "paper"),
        ("read-1", "paper"),
        ("read-6", "paper"),
    ];
    for dark in [false, true] {
        let colors = colors(dark);
        assert_eq!(colors.len(), super::static_page::colors(!dark).len(), "both schemes have all colors");
        let check = |pairs: &[(&str, &str)], least: f64| {
            for (ink, paper) in pairs {
                let contrast = contrast(colors[ink], colors[paper]);
                assert!(contrast >= least, "{ink} on {paper}, dark {dark}: {contrast:.2}");
            }
        };
        check(&text, 4.5);
        check(&curves, 3.0);
    }
    assert!((contrast([1.0; 3], [0.0; 3]) - 21.0).abs() < 0.001);
}
