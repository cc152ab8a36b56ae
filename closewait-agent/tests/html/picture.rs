//! Picture of README.md: the first chart of the page on a recorded incident. `cargo xtask docs` writes it, with `BLESS=1`.
//!
//! `incident.recording` is from `closewait run --stuck-after 20s --record`, beside a Python server with 8 workers and at most 160
//! descriptors. It gets 3 requests a second; 20 s after its start, its workers wait for a lock that no thread releases.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use closewait::sink::report::html::STYLE;

/// Width of the picture, and its margin, pixels.
const WIDTH: usize = 880;
const MARGIN: usize = 24;
/// Heights of the headline and of the legend, pixels.
const HEAD: usize = 56;
const LEGEND: usize = 40;
/// Width of a character of the legend, and of the space between two entries, pixels.
const CHARACTER: f64 = 5.9;
const SPACE: f64 = 52.0;

/// Returns the text between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("the page has {start}"));
    rest.split_once(end).unwrap_or_else(|| panic!("the page has {end}")).0
}

/// Returns the picture: headline, chart and legend.
fn picture(page: &str) -> String {
    let headline = between(page, "</p><p><bdi>", "</bdi>");
    let figure = between(page, "<figure>", "</figure>");
    let legend = between(figure, "<ul class=\"legend\">", "</ul>");
    let start = figure.find("<svg role=\"img\"").expect("a chart");
    let chart = &figure[start..figure.find("<ul").expect("a legend")];
    let height: usize = between(chart, " height=\"", "\"").parse().expect("a height");
    let inner = WIDTH - 2 * MARGIN;
    let chart = chart.replacen(
        "<svg role=\"img\" width=\"100%\"",
        &format!("<svg role=\"img\" x=\"{MARGIN}\" y=\"{HEAD}\" width=\"{inner}\""),
        1,
    );
    let (all, bottom) = (HEAD + height + LEGEND, HEAD + height + 24);
    let mut entries = String::new();
    let mut x = MARGIN as f64;
    for entry in legend.split("<li>").skip(1) {
        let (path, text) = (between(entry, "<path", "</path>"), between(entry, "</svg>", "</li>"));
        entries.push_str(&format!("<g transform=\"translate({x:.0} {})\"><path{path}</path></g>", bottom - 11));
        entries.push_str(&format!("<text x=\"{:.0}\" y=\"{bottom}\">{text}</text>", x + 30.0));
        x += text.chars().count() as f64 * CHARACTER + SPACE;
    }
    assert!(x < WIDTH as f64 + SPACE, "the legend ends at {x}");
    let style = format!(
        "{STYLE}svg {{ font-family: system-ui, -apple-system, \"Segoe UI\", Roboto, sans-serif; }}\n\
        svg .headline {{ font-size: 15px; font-weight: 600; fill: var(--ink); }}\n"
    );
    // A page that is not HTML needs a name space. A chart of the page is then a part of the picture.
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{all}\" viewBox=\"0 0 {WIDTH} {all}\">\n\
         <style><![CDATA[\n{style}]]></style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"var(--paper)\"/>\n\
         <text class=\"headline\" x=\"{MARGIN}\" y=\"34\">{headline}</text>\n{}\n{}\n</svg>\n",
        chart.replace("><", ">\n<"),
        entries.replace("<g", "\n<g").trim_start(),
    )
}

#[test]
fn the_picture_of_the_readme_matches_the_recording() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO_BIN_EXE_closewait"))
        .args(["report", "--output", "html"])
        .arg(root.join("tests/html/incident.recording"))
        .stdin(Stdio::null())
        .output()
        .expect("the report");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let picture = picture(&String::from_utf8(output.stdout).expect("UTF-8"));
    let file = root.join("../docs/incident.svg");
    if env::var_os("BLESS").is_some() {
        fs::write(&file, &picture).expect("docs/ can be written");
    }
    let now = fs::read_to_string(&file).unwrap_or_default();
    assert!(now == picture, "docs/incident.svg is not up to date\nhint: cargo xtask docs");
}
