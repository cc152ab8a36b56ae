//! Saved images of processes, and the stacks that are read from them: `tests/images/KIND-NAME.image` and `.txt`. `BLESS=1` rewrites the
//! texts. `examples/record.rs` makes an image.

use std::{env, fs, path::Path};

use closewait_stacks::{MemoryReader, TargetProcess, go, image::Image, memory::ReadLimit, native, python};

/// Number of reads that one process may need.
const MOST_READS: u32 = 100_000;

fn read(image: &Image, kind: &str) -> String {
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads) = (&image.mappings, &image.threads);
    let process = TargetProcess { memory: MemoryReader::new(image, &limit), mappings, threads, symbols: image };
    let stacks = match kind {
        "go" => go::stacks(&process),
        "python" => python::stacks(&process),
        "native" => native::stacks(&process),
        other => panic!("no reader for {other}"),
    };
    let stacks = stacks.unwrap_or_else(|error| panic!("{kind}: {error}"));
    stacks.iter().map(|stack| format!("{stack}\n")).collect()
}

#[test]
fn every_image_has_its_stacks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).expect("tests/images") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "image") {
            continue;
        }
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let kind = name.split('-').next().unwrap_or_default();
        let image = Image::from_bytes(&fs::read(&path).expect("an image")).expect("an image");
        let (text, golden) = (read(&image, kind), path.with_extension("txt"));
        if env::var_os("BLESS").is_some() {
            fs::write(&golden, text).expect("the text");
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&text) {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
