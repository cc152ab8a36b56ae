//! `cargo xtask docs`: the table of the kernel's record in docs/events.md, from the doc comments of the struct, and
//! docs/diagnoses.md, from what the rules say of themselves.

use crate::prelude::*;
use crate::{setup, test};

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

/// A `repr(C)` struct on a 64-bit target.
struct Struct {
    /// Name, type, offset and doc comment of each field, as cells of a table.
    rows: Vec<String>,
    size: usize,
    align: usize,
}

/// Writes the generated pages, or checks them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        check(&workspace.root)?;
    } else {
        let (old, new) = regenerate(&workspace.root)?;
        if old != new {
            fs::write(workspace.root.join(EVENTS), new)?;
            println!("wrote {EVENTS}");
        }
    }
    diagnoses(workspace, options.check)
}

/// Fails if the generated part of docs/events.md differs from what the source says.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (old, new) = regenerate(root)?;
    ensure!(old == new, "{EVENTS} is not what {RECORD} says; run `cargo xtask docs` and commit the result");
    Ok(())
}

/// Runs the agent's test that compares docs/diagnoses.md with the rules, or writes the page: only the agent knows them.
fn diagnoses(workspace: &Workspace, check: bool) -> Result<()> {
    setup::run(workspace)?;
    let mut command = workspace.cargo("test");
    command.args(test::PACKAGES).args(["--quiet", "--lib"]);
    // With `--nocapture` a difference is shown on stderr.
    command.args(["--", "--nocapture", "--exact", DIAGNOSES_TEST]).env_remove("BLESS");
    command.envs((!check).then_some(("BLESS", "1")));
    let output = exec::output(&mut command)?;
    ensure!(
        output.contains("1 passed"),
        "there is no test {DIAGNOSES_TEST}, which is to write docs/diagnoses.md; name it in xtask/src/docs.rs"
    );
    Ok(())
}

/// The page as it is, and as it should be.
fn regenerate(root: &Path) -> Result<(String, String)> {
    let source = fs::read_to_string(root.join(RECORD)).context("the ABI record has to be defined there")?;
    let page = fs::read_to_string(root.join(EVENTS))
        .with_context(|| format!("create it with the lines `{BEGIN}` and `{END}`, then run `cargo xtask docs`"))?;
    let table = |name| {
        let read = Struct::read(&source, name).with_context(|| format!("cannot read the struct {name} in {RECORD}"))?;
        Ok::<_, anyhow::Error>(markdown::table("Field | Type | Offset | Meaning", read.rows))
    };
    let (record, detail) = (table("Record")?, table("Detail")?);
    let generated = format!("{record}\nBehind it, in records that are not about a change of state:\n\n{detail}");
    let new = replace_generated(&page, &generated)?;
    Ok((page, new))
}

fn replace_generated(page: &str, generated: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| {
        format!("{EVENTS} has no lines `{BEGIN}` and `{END}`; add them, then run `cargo xtask docs`")
    })?;
    Ok(format!("{before}{BEGIN}\n{generated}{END}{after}"))
}

impl Struct {
    /// Reads the definition of `pub struct NAME` in a source text.
    fn read(source: &str, name: &str) -> Result<Self> {
        let head = format!("pub struct {name} {{");
        let (_before, body) = source.split_once(&head).with_context(|| format!("there is no `{head}`"))?;
        let (mut read, mut doc) = (Self { rows: Vec::new(), size: 0, align: 1 }, Vec::new());
        for line in body.lines().map(str::trim) {
            if line == "}" {
                read.size = read.size.next_multiple_of(read.align);
                return Ok(read);
            }
            if let Some(text) = line.strip_prefix("///") {
                // A blank `///` line separates paragraphs; a cell has one.
                doc.extend(Some(text.trim()).filter(|text| !text.is_empty()));
            } else if let Some((field, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(": "))
                && !line.starts_with("//")
            {
                let field = field.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
                let (size, align) = layout(source, kind).with_context(|| {
                    format!("cannot tell the size of {name}::{field}; use integers, arrays and structs of this file")
                })?;
                let offset = read.size.next_multiple_of(align);
                (read.size, read.align) = (offset + size, read.align.max(align));
                // rustdoc's links to items lead nowhere in a Markdown page.
                let meaning = markdown::cell(&doc.join(" ")).replace("[`", "`").replace("`]", "`");
                read.rows.push(format!("`{field}` | `{kind}` | {offset} | {meaning}"));
                doc.clear();
            }
        }
        bail!("`{head}` has no closing line `}}`");
    }
}

/// Size and alignment of a type.
fn layout(source: &str, kind: &str) -> Result<(usize, usize)> {
    if let Some((element, count)) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')?.rsplit_once("; ")) {
        let (size, align) = layout(source, element)?;
        return Ok((size * constant(source, count)?, align));
    }
    let size = match kind {
        "u8" | "i8" => 1,
        "u16" | "i16" => 2,
        "u32" | "i32" => 4,
        "u64" | "i64" => 8,
        other => return Struct::read(source, other).map(|read| (read.size, read.align)),
    };
    Ok((size, size))
}

/// A number, or a `const NAME: usize = NUMBER;` of the same file.
fn constant(source: &str, text: &str) -> Result<usize> {
    let head = format!("const {text}: usize = ");
    let value = source.split_once(&head).and_then(|(_before, after)| after.split(';').next());
    let number = value.unwrap_or(text).trim().parse().ok();
    number.with_context(|| format!("there is no `{head}NUMBER;`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "pub const COMM: usize = 16;\n\n/// An address.\n#[repr(C)]\npub struct Addr {\n    pub port: u16,\n    \
        pub ip: [u8; 16],\n}\n\n/// One record.\n#[repr(C)]\n#[derive(Clone, Copy)]\npub struct Record {\n    /// Nanoseconds of [`at`].\n    ///\n    \
        /// A | B.\n    pub at_ns: u64,\n    /// Who.\n    pub comm: [u8; COMM],\n    // not a doc: comment,\n    pub flag: u8,\n    \
        /// Peer.\n    #[doc(alias = \"x\")]\n    pub peer: Addr,\n    pub count: u32,\n    pub _pad: [u8; 4],\n}\n";

    #[test]
    fn offsets_follow_repr_c_and_a_doc_comment_becomes_one_cell() {
        let record = Struct::read(SOURCE, "Record").unwrap();
        assert_eq!(
            record.rows,
            [
                "`at_ns` | `u64` | 0 | Nanoseconds of `at`. A \\| B.",
                "`comm` | `[u8; COMM]` | 8 | Who.",
                "`flag` | `u8` | 24 | ",
                "`peer` | `Addr` | 26 | Peer.",
                "`count` | `u32` | 44 | ",
                "`_pad` | `[u8; 4]` | 48 | ",
            ]
        );
        assert_eq!((record.size, record.align), (56, 8));
    }

    #[test]
    fn a_type_of_unknown_size_is_an_error() {
        let error = Struct::read("pub struct Record {\n    pub on: bool,\n}\n", "Record").err().unwrap();
        assert!(format!("{error:#}").contains("Record::on"), "{error:#}");
        assert!(Struct::read("", "Record").is_err());
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
        assert!(format!("{error:#}").contains(RECORD), "{error:#}");
    }
}
