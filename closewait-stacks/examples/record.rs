//! Saves an image of a running process, for the tests of its reader: `cargo run --example record -- PID go|python|php|ruby|native FILE`.
//!
//! An image has the top of stacks, and of the first one the environment is a part. Start the program with an empty one: `env -i PROGRAM`.

#![expect(clippy::print_stderr, reason = "a tool for developers")]

use std::{env, error::Error, fs};

use closewait_stacks::{
    Mapping, MemoryReader, ProgramKind, TargetProcess,
    files::{self, FileSymbols},
    image::ImageRecorder,
    live,
    memory::ReadLimit,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [pid, kind, file] = &arguments[..] else {
        return Err("usage: record PID go|python|php|ruby|native FILE".into());
    };
    let kind = ProgramKind::named(kind).ok_or_else(|| format!("{kind} is none of go, python, php, ruby, native"))?;
    let pid = pid.parse()?;
    let open = |mapping: &Mapping| files::open(pid, mapping);
    let memory = live::LiveMemory::open(pid)?;
    let limit = ReadLimit::new(1_000_000, 256 << 20);
    let symbols = FileSymbols::new(&open, MemoryReader::new(&memory, &limit));
    let (mappings, threads) = (live::mappings(pid)?, live::threads(pid, 512, &|| true)?);
    let recorder = ImageRecorder::new(&memory, &symbols, &mappings, &threads);
    let process = TargetProcess {
        memory: MemoryReader::new(&recorder, &limit),
        mappings: &mappings,
        threads: &threads,
        symbols: &recorder,
    };
    let stacks = kind.stacks(&process)?;
    for stack in stacks {
        eprintln!("{stack}");
    }
    let bytes = recorder.finish().to_bytes()?;
    eprintln!("{} bytes, {} reads left", bytes.len(), limit.reads_left());
    fs::write(file, bytes)?;
    Ok(())
}
