//! Measures a pass over the threads of a running process: `cargo run --release --example measure -- PID go|python|native [PASSES]`.

#![expect(clippy::print_stderr, reason = "a tool for developers")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use closewait_stacks::{MemoryReader, ProgramKind, TargetProcess, live, memory::ReadLimit, process::NoSymbols};

/// Number of reads that a pass may use.
const READS: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [pid, kind, passes @ ..] = &arguments[..] else {
        return Err("usage: measure PID go|python|native [PASSES]".into());
    };
    let kind = ProgramKind::named(kind).ok_or_else(|| format!("{kind} is none of go, python, native"))?;
    let (pid, passes) = (pid.parse()?, passes.first().map_or(Ok(100), |passes| passes.parse())?);
    let (memory, symbols) = (live::LiveMemory::open(pid)?, NoSymbols);
    let (mappings, threads) = (live::mappings(pid)?, live::threads(pid, 2048, &|| true)?);
    let mut times = Vec::new();
    for _ in 0..passes {
        let limit = ReadLimit::new(READS, 256 << 20);
        let process = TargetProcess {
            memory: MemoryReader::new(&memory, &limit),
            mappings: &mappings,
            threads: &threads,
            symbols: &symbols,
        };
        let start = Instant::now();
        let stacks = kind.stacks(&process)?;
        let frames: usize = stacks.iter().map(|stack| stack.frames.len()).sum();
        times.push((start.elapsed(), READS - limit.reads_left(), stacks.len(), frames));
    }
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    let micros = |time: Duration| time.as_micros();
    let (median, reads, stacks, frames) = at(50);
    let (fast, slow) = (micros(at(0).0), micros(at(95).0));
    eprintln!(
        "{stacks} stacks, {frames} frames, {reads} reads: {fast} µs, median {} µs, p95 {slow} µs",
        micros(median)
    );
    Ok(())
}
