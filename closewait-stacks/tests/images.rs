//! Saved images of processes, and the stacks that are read from them: `tests/images/KIND-NAME.image` and `.txt`. `BLESS=1` rewrites the
//! texts. `examples/record.rs` makes an image.

mod saved;

use std::{env, fs, io::Read as _, path::Path};

use closewait_stacks::{MemoryReader, ProgramKind, TargetProcess, image::Image, memory::ReadLimit};

/// Number of reads that one process may need.
const MOST_READS: u32 = 100_000;

fn read(image: &Image, kind: &str) -> String {
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads) = (&image.mappings, &image.threads);
    let process = TargetProcess { memory: MemoryReader::new(image, &limit), mappings, threads, symbols: image };
    let reader = ProgramKind::named(kind).unwrap_or_else(|| panic!("no reader for {kind}"));
    let stacks = reader.stacks(&process).unwrap_or_else(|error| panic!("{kind}: {error}"));
    stacks.iter().map(|stack| format!("{stack}\n")).collect()
}

#[test]
fn every_image_has_its_stacks() {
    let mut wrong = Vec::new();
    for (name, image) in saved::images("") {
        let kind = name.split('-').next().unwrap_or_default();
        let (text, golden) = (read(&image, kind), Path::new(saved::FOLDER).join(&name).with_extension("txt"));
        if env::var_os("BLESS").is_some() {
            fs::write(&golden, text).expect("the text");
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&text) {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_image_has_the_environment_of_its_process() {
    for (name, _) in saved::images("") {
        let bytes = fs::read(Path::new(saved::FOLDER).join(&name)).expect("the image");
        let mut plain = Vec::new();
        flate2::read::DeflateDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("an image");
        let plain = String::from_utf8_lossy(&plain);
        for variable in ["HOME=/", "PWD=/", "SHELL=/", "LANG=C", "TERM=linux", "USER=root"] {
            assert!(!plain.contains(variable), "{name}: {variable}");
        }
    }
}
