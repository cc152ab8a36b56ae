//! Measures the reading of goroutines: `cargo run --release --example go -- PID [ROUNDS]` prints them, and the time of each round.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for developers")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{env, error::Error, time::Instant};

use closewait_stacks::{
    Mapping, MemoryReader, TargetProcess,
    files::{self, FileSymbols},
    go, live,
    memory::ReadLimit,
};

fn main() -> Result<(), Box<dyn Error>> {
    const MOST_READS: u32 = 1_000_000;
    let mut arguments = env::args().skip(1);
    let pid = arguments.next().ok_or("usage: go PID [ROUNDS]")?.parse()?;
    let rounds = arguments.next().map_or(Ok(1), |rounds| rounds.parse::<u32>())?;
    for round in 0..rounds {
        let open = |mapping: &Mapping| files::open(pid, mapping);
        let (memory, symbols) = (live::LiveMemory::open(pid)?, FileSymbols::new(&open));
        let (start, mappings, threads) = (Instant::now(), live::mappings(pid)?, live::threads(pid, 512)?);
        let opened = start.elapsed();
        let limit = ReadLimit::new(MOST_READS, 1 << 30);
        let memory = MemoryReader::new(&memory, &limit);
        let stacks = go::stacks(&TargetProcess { memory, mappings: &mappings, threads: &threads, symbols: &symbols })?;
        let (all, reads) = (start.elapsed(), MOST_READS - limit.reads_left());
        let frames: usize = stacks.iter().map(|stack| stack.frames.len()).sum();
        if round == 0 {
            stacks.iter().for_each(|stack| println!("{stack}"));
        }
        eprintln!(
            "{} goroutines, {frames} frames: maps and threads {opened:?}, stacks {:?}, {reads} reads",
            stacks.len(),
            all - opened
        );
    }
    Ok(())
}
