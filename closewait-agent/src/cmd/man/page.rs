//! One manual page, in the language of roff (macros of man(7)).

use std::fmt::Write as _;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// Name of the program.
pub(super) const PROGRAM: &str = "closewait";

/// Manual page under construction.
pub(super) struct ManPage {
    /// Name, such as `closewait-run`.
    name: String,
    /// Section of the manual.
    section: u8,
    text: String,
}

impl ManPage {
    /// Creates a page with its section NAME. It has no date, because the same source has to give the same page.
    pub(super) fn new(name: &str, section: u8, about: &str) -> Self {
        let title = name.to_uppercase().replace('-', "\\-");
        let version = concat!("closewait ", env!("CARGO_PKG_VERSION"));
        let mut page = Self { name: name.to_owned(), section, text: preamble() };
        page.control(&format!(".TH \"{title}\" {section} \"\" \"{version}\" \"closewait manual\""));
        page.heading("NAME");
        page.roff(Roff::new().text(inlines(&format!("{name} - {about}"))));
        page
    }

    /// Adds a line as it is.
    fn control(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = writeln!(self.text, "{line}");
    }

    fn roff(&mut self, roff: &Roff) {
        self.rendered(&roff.render());
    }

    /// Adds a part of a page that a generator rendered. Text between backticks becomes bold.
    pub(super) fn rendered(&mut self, roff: &str) {
        for line in roff.strip_prefix(&preamble()).unwrap_or(roff).lines() {
            let parts: Vec<_> = line.split('`').collect();
            if parts.len() % 2 == 0 {
                self.control(line);
                continue;
            }
            let fonts = ["\\fB", "\\fR"].into_iter().cycle();
            let joined = parts[1..].iter().zip(fonts).map(|(part, font)| format!("{font}{part}"));
            self.control(&(parts[0].to_owned() + &joined.collect::<String>()));
        }
    }

    /// Begins a section.
    pub(super) fn heading(&mut self, heading: &str) {
        self.control(&format!(".SH \"{heading}\""));
    }

    /// Begins a part of a section.
    pub(super) fn subheading(&mut self, heading: &str) {
        self.control(".SS");
        self.roff(Roff::new().text(inlines(heading)));
    }

    /// Adds a paragraph of Markdown text.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.control(".PP");
        self.roff(Roff::new().text(inlines(text)));
    }

    /// Adds an item with a term, both of them Markdown text.
    pub(super) fn item(&mut self, term: &str, text: &str) {
        self.control(".TP");
        self.roff(Roff::new().text(inlines(term)).text(inlines(text)));
    }

    /// Adds lines that are not filled, such as commands.
    pub(super) fn code(&mut self, lines: &str) {
        self.control(".PP\n.RS 4\n.nf");
        for line in lines.lines() {
            self.roff(Roff::new().text([roman(line.trim_start())]));
        }
        self.control(".fi\n.RE");
    }

    /// Adds Markdown with paragraphs, items that begin with `- `, and lines of code with an indent of four spaces.
    pub(super) fn markdown(&mut self, text: &str) {
        for block in text.split("\n\n") {
            if block.lines().all(|line| line.starts_with("    ")) {
                self.code(block);
            } else if let Some(items) = block.strip_prefix("- ") {
                for item in items.split("\n- ") {
                    self.control(".IP \\(bu 2");
                    self.roff(Roff::new().text(inlines(&unwrapped(item))));
                }
            } else {
                self.paragraph(&unwrapped(block));
            }
        }
    }

    /// Adds the last section: pages as `name(section)`.
    pub(super) fn see_also<'n>(&mut self, pages: impl IntoIterator<Item = &'n str>) {
        self.heading("SEE ALSO");
        // A name that is divided cannot be searched for.
        self.control(".nh\n.ad l");
        let pages = pages.into_iter().map(|page| {
            let (name, section) = page.split_once('(').expect("a section");
            format!("`{name}`({section}")
        });
        let pages: Vec<_> = pages.collect();
        self.roff(Roff::new().text(inlines(&pages.join(", "))));
    }

    /// Returns the name of the page, as other pages refer to it.
    pub(super) fn reference(&self) -> String {
        format!("{}({})", self.name, self.section)
    }

    /// Returns the name of the file and its text.
    pub(super) fn into_file(self) -> (String, String) {
        (format!("{}.{}", self.name, self.section), self.text)
    }
}

/// Returns the lines at the beginning of everything that the crate renders: they define the apostrophe.
fn preamble() -> String {
    Roff::new().render()
}

fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns Markdown text with fonts: `code` is bold, *emphasis* is italic, and of a link only its text remains.
fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            inlines.push(bold(part));
            continue;
        }
        for (at, part) in without_links(part).split('*').enumerate() {
            inlines.push(if at % 2 == 1 { italic(part) } else { roman(part) });
        }
    }
    inlines.retain(|inline| !matches!(inline, Inline::Roman(text) | Inline::Bold(text) if text.is_empty()));
    inlines
}

/// Returns text with `[text](address)` replaced by `text`.
fn without_links(text: &str) -> String {
    let mut rest = text;
    let mut result = String::new();
    while let Some((before, name, after)) = first_link(rest) {
        result.push_str(before);
        result.push_str(name);
        rest = after;
    }
    result + rest
}

/// Returns the text before the first link, the text of the link, and the text behind it.
fn first_link(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("](")?;
    let (before, name) = before.rsplit_once('[')?;
    let (_address, after) = rest.split_once(')')?;
    Some((before, name, after))
}

#[test]
fn text_for_markdown_keeps_its_meaning_in_roff() {
    let roff = |text: &str| Roff::new().text(inlines(text)).to_roff();
    assert_eq!(
        roff("list of [Owner](#owner) or `null`, *optional*"),
        "list of Owner or \\fBnull\\fR, \\fIoptional\\fR\n"
    );
    assert_eq!(roff("`a-b`: [1, 2] and C:\\x"), "\\fBa\\-b\\fR: [1, 2] and C:\\\\x\n");
    assert_eq!(roff(".conf"), "\\&.conf\n");
}

#[test]
fn a_rendered_part_has_bold_code_and_no_second_preamble() {
    let mut page = ManPage::new("closewait-x", 1, "Do x");
    page.rendered(&Roff::new().text([roman("the program's `run --x` and `list`")]).render());
    let (name, text) = page.into_file();
    assert_eq!(name, "closewait-x.1");
    assert!(text.ends_with("the program\\*(Aqs \\fBrun \\-\\-x\\fR and \\fBlist\\fR\n"), "{text}");
    assert_eq!(text.matches(".ds Aq \\(aq").count(), 1, "{text}");
}
