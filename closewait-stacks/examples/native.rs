//! Measures the reading of native stacks: `cargo run --release --example native -- PID [ROUNDS]` prints them, and the time of each round.
//! Functions that no loaded symbol names are written as addresses, to compare them with those of `eu-stack`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for developers")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{env, error::Error, time::Instant};

use closewait_stacks::{Mapping, MemoryReader, Symbols, TargetProcess, live, memory::ReadLimit, native};

/// Names that are addresses.
struct AddressSymbols;

impl Symbols for AddressSymbols {
    fn named(&self, _mapping: &Mapping, _name: &str) -> Option<u64> {
        None
    }

    fn at(&self, mapping: &Mapping, address: u64) -> Option<(String, u64)> {
        // An executable at a fixed address has the same addresses in its file.
        let in_memory = if address < mapping.start { mapping.start + address } else { address };
        Some((format!("{in_memory:#x}"), address))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    const MOST_READS: u32 = 1_000_000;
    let mut arguments = env::args().skip(1);
    let pid = arguments.next().ok_or("usage: native PID [ROUNDS]")?.parse()?;
    let rounds = arguments.next().map_or(Ok(1), |rounds| rounds.parse::<u32>())?;
    for round in 0..rounds {
        let memory = live::LiveMemory::open(pid)?;
        let (start, mappings, threads) = (Instant::now(), live::mappings(pid)?, live::threads(pid, 2048)?);
        let opened = start.elapsed();
        let limit = ReadLimit::new(MOST_READS, 1 << 30);
        let memory = MemoryReader::new(&memory, &limit);
        let symbols = &AddressSymbols;
        let stacks = native::stacks(&TargetProcess { memory, mappings: &mappings, threads: &threads, symbols })?;
        let (all, reads, frames) =
            (start.elapsed(), MOST_READS - limit.reads_left(), stacks.iter().map(|s| s.frames.len()));
        let (roots, frames) = (stacks.iter().filter(|stack| stack.cut.is_none()).count(), frames.sum::<usize>());
        if round == 0 {
            stacks.iter().for_each(|stack| println!("{stack}"));
        }
        eprintln!(
            "{} threads, {frames} frames, {roots} to the root: maps and threads {opened:?}, stacks {:?}, {reads} reads",
            threads.len(),
            all - opened
        );
    }
    Ok(())
}
