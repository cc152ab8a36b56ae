//! `cargo xtask docs`: the table of the kernel's record in docs/events.md, from the doc comments of the struct, and
//! docs/diagnoses.md, from what the rules say of themselves.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    exec::{self, Workspace},
    setup,
};

const RECORD: &str = "closewait-common/src/record.rs";
const EVENTS: &str = "docs/events.md";
const DIAGNOSES_TEST: &str = "diagnose::page::tests::the_page_says_what_the_rules_say";
const BEGIN: &str = "<!-- generated: record -->";
const END: &str = "<!-- end generated -->";

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing; fail if a page in docs/ is not up to date
    #[arg(long)]
    check: bool,
}

/// One field of a `repr(C)` struct.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    name: String,
    kind: String,
    offset: usize,
    doc: String,
}

/// Writes what is generated, or checks it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        check(&workspace.root)?;
    } else {
        write(workspace)?;
    }
    diagnoses(workspace, options.check)
}

/// Only the agent knows its rules; one of its tests compares the page with them, and writes it if it is told to.
fn diagnoses(workspace: &Workspace, check: bool) -> Result<()> {
    setup::run(workspace)?;
    let mut test = workspace.cargo("test");
    // The same packages as for the other tests: with others, cargo may choose other features and build anew.
    test.args(["--quiet", "--workspace", "--exclude", "closewait-ebpf", "--lib"]);
    // So that what it says of a difference is on stderr.
    test.args(["--", "--nocapture", "--exact", DIAGNOSES_TEST]);
    if check {
        test.env_remove("BLESS");
    } else {
        test.env("BLESS", "1");
    }
    let output = exec::output(&mut test)?;
    if !output.contains("1 passed") {
        bail!("there is no test {DIAGNOSES_TEST}, which is to write docs/diagnoses.md; name it in xtask/src/docs.rs");
    }
    Ok(())
}

/// Writes the generated part of docs/events.md.
fn write(workspace: &Workspace) -> Result<()> {
    let (old, new) = regenerate(&workspace.root)?;
    if old != new {
        let path = workspace.root.join(EVENTS);
        fs::write(&path, new).with_context(|| format!("cannot write {}; is it yours?", path.display()))?;
        println!("wrote {EVENTS}");
    }
    Ok(())
}

/// Fails if the generated part of docs/events.md differs from what the source says.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (old, new) = regenerate(root)?;
    if old != new {
        bail!("{EVENTS} is not what {RECORD} says; run `cargo xtask docs` and commit the result");
    }
    Ok(())
}

/// The page as it is, and as it should be.
fn regenerate(root: &Path) -> Result<(String, String)> {
    let source = fs::read_to_string(root.join(RECORD))
        .with_context(|| format!("cannot read {RECORD}; the ABI record has to be defined there"))?;
    let page = fs::read_to_string(root.join(EVENTS)).with_context(|| {
        format!("cannot read {EVENTS}; create it with the lines `{BEGIN}` and `{END}`, then run `cargo xtask docs`")
    })?;
    let fields = |name| {
        let read = struct_fields(&source, name).map(|(fields, _size, _align)| fields);
        read.with_context(|| format!("cannot read the struct {name} in {RECORD}"))
    };
    let (record, detail) = (table(&fields("Record")?), table(&fields("Detail")?));
    let new = replace_generated(
        &page,
        &format!("{record}\nBehind it, in records that are not about a change of state:\n\n{detail}"),
    )?;
    Ok((page, new))
}

fn replace_generated(page: &str, generated: &str) -> Result<String> {
    let missing = |marker: &str| format!("{EVENTS} has no line `{marker}`; add it, then run `cargo xtask docs`");
    let begin = page.find(BEGIN).with_context(|| missing(BEGIN))? + BEGIN.len();
    let end = begin + page[begin..].find(END).with_context(|| missing(END))?;
    Ok(format!("{}\n{generated}{}", &page[..begin], &page[end..]))
}

fn table(fields: &[Field]) -> String {
    let mut text = String::from("| Field | Type | Offset | Meaning |\n|---|---|---|---|\n");
    for Field { name, kind, offset, doc } in fields {
        // A bar would end the cell, and rustdoc's links to items lead nowhere in a Markdown page.
        let doc = doc.replace('|', "\\|").replace("[`", "`").replace("`]", "`");
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "| `{name}` | `{kind}` | {offset} | {doc} |");
    }
    text
}

/// The fields of a `repr(C)` struct with their offsets, and its size and alignment.
fn struct_fields(source: &str, name: &str) -> Result<(Vec<Field>, usize, usize)> {
    let head = format!("pub struct {name} {{");
    let body =
        source.split_once(&head).map(|(_before, after)| after).with_context(|| format!("there is no `{head}`"))?;
    let (mut fields, mut doc, mut end, mut align) = (Vec::new(), Vec::new(), 0, 1);
    for line in body.lines().map(str::trim) {
        if line == "}" {
            return Ok((fields, usize::next_multiple_of(end, align), align));
        }
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some((field, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(": "))
            && !line.starts_with("//")
        {
            let field = field.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let (size, field_align) = layout(source, kind).with_context(|| {
                format!("cannot tell the size of {name}::{field}; use integers, arrays and structs of this file")
            })?;
            let offset = usize::next_multiple_of(end, field_align);
            end = offset + size;
            align = align.max(field_align);
            // A blank `///` line parts paragraphs; a table cell has one.
            let doc = std::mem::take(&mut doc).into_iter().filter(|text: &&str| !text.is_empty()).collect::<Vec<_>>();
            fields.push(Field { name: field.to_owned(), kind: kind.to_owned(), offset, doc: doc.join(" ") });
        }
    }
    bail!("`{head}` has no closing line `}}`");
}

/// Size and alignment of a type in a `repr(C)` struct on a 64-bit target.
fn layout(source: &str, kind: &str) -> Result<(usize, usize)> {
    if let Some((element, count)) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')?.rsplit_once("; ")) {
        let (size, align) = layout(source, element)?;
        return Ok((size * constant(source, count)?, align));
    }
    match kind {
        "u8" | "i8" => Ok((1, 1)),
        "u16" | "i16" => Ok((2, 2)),
        "u32" | "i32" => Ok((4, 4)),
        "u64" | "i64" => Ok((8, 8)),
        other => struct_fields(source, other).map(|(_fields, size, align)| (size, align)),
    }
}

/// A number, or a `const NAME: usize = NUMBER;` of the same file.
fn constant(source: &str, text: &str) -> Result<usize> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let head = format!("const {text}: usize = ");
    let value = source.split_once(&head).and_then(|(_before, after)| after.split(';').next()?.trim().parse().ok());
    value.with_context(|| format!("there is no `{head}NUMBER;`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_fields(source: &str) -> Result<Vec<Field>> {
        struct_fields(source, "Record").map(|(fields, _size, _align)| fields)
    }

    const SOURCE: &str = "pub const COMM: usize = 16;\n\n/// An address.\n#[repr(C)]\npub struct Addr {\n    pub port: u16,\n    \
        pub ip: [u8; 16],\n}\n\n/// One record.\n#[repr(C)]\n#[derive(Clone, Copy)]\npub struct Record {\n    /// Nanoseconds of [`at`].\n    ///\n    \
        /// A | B.\n    pub at_ns: u64,\n    /// Who.\n    pub comm: [u8; COMM],\n    // not a doc: comment,\n    pub flag: u8,\n    \
        /// Peer.\n    #[doc(alias = \"x\")]\n    pub peer: Addr,\n    pub count: u32,\n    pub _pad: [u8; 4],\n}\n";

    #[test]
    fn offsets_follow_repr_c() {
        let fields = record_fields(SOURCE).unwrap();
        let found: Vec<_> = fields.iter().map(|field| (field.name.as_str(), field.offset)).collect();
        assert_eq!(found, [("at_ns", 0), ("comm", 8), ("flag", 24), ("peer", 26), ("count", 44), ("_pad", 48)]);
    }

    #[test]
    fn the_doc_comment_becomes_one_cell() {
        let table = table(&record_fields(SOURCE).unwrap());
        assert!(table.contains("| `at_ns` | `u64` | 0 | Nanoseconds of `at`. A \\| B. |\n"), "{table}");
        assert!(table.contains("| `flag` | `u8` | 24 |  |\n"), "{table}");
    }

    #[test]
    fn a_type_of_unknown_size_is_an_error() {
        let error = record_fields("pub struct Record {\n    pub on: bool,\n}\n").unwrap_err();
        assert!(format!("{error:#}").contains("Record::on"), "{error:#}");
        assert!(record_fields("").is_err());
    }

    #[test]
    fn replaces_only_what_is_between_the_markers() {
        let page = format!("# Events\n\n{BEGIN}\nold\n{END}\ntail\n");
        let new = replace_generated(&page, "new\n").unwrap();
        assert_eq!(new, format!("# Events\n\n{BEGIN}\nnew\n{END}\ntail\n"));
        assert_eq!(replace_generated(&new, "new\n").unwrap(), new, "a second run changes nothing");
        assert!(replace_generated("no markers", "new\n").unwrap_err().to_string().contains("cargo xtask docs"));
    }

    #[test]
    fn a_missing_record_is_named() {
        let error = check(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains(RECORD), "{error}");
    }
}
