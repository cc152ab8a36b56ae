//! Compares the stacks of running processes with those of another reader: `cargo run --example compare -- eu-stack|gdb PID...`.
//!
//! The other reader stops a process for a moment. This one runs before and after it; a thread whose two stacks differ has moved, and is
//! not compared.

#![expect(clippy::print_stdout, reason = "a tool for developers")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    process::{Command, Output},
};

use closewait_stacks::{
    Mapping, MemoryReader, Stack, TargetProcess,
    files::{self, FileSymbols},
    live,
    memory::ReadLimit,
    native,
    stack::MAX_FRAMES,
};

/// Frame of the other reader: the address of the next instruction, if it is shown, and the name of the function.
type OtherFrame = (Option<u64>, String);

/// Numbers of threads by the result of the comparison, and of frames that both readers have.
#[derive(Default)]
struct Counts {
    results: BTreeMap<&'static str, u32>,
    frames: usize,
    /// Names of the same function, where they differ.
    names: BTreeSet<(String, String)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut counts = Counts::default();
    let (mut processes, mut failed) = (0, 0);
    let mut arguments = env::args().skip(1);
    let reader = arguments.next().filter(|reader| ["eu-stack", "gdb"].contains(&reader.as_str()));
    let reader = reader.ok_or("usage: compare eu-stack|gdb PID...")?;
    for pid in arguments {
        match compare(&reader, pid.parse()?, &mut counts) {
            Ok(()) => processes += 1,
            Err(error) => {
                failed += 1;
                println!("{pid}: {error}");
            }
        }
    }
    let threads: u32 = counts.results.values().sum();
    println!("{processes} processes, {failed} failed, {threads} threads, {} equal frames", counts.frames);
    for (result, count) in counts.results {
        println!("{count:6} {result}");
    }
    println!("{} different names", counts.names.len());
    for (own, other) in counts.names {
        println!("    {own}    {other}");
    }
    Ok(())
}

fn compare(reader: &str, pid: u32, counts: &mut Counts) -> Result<(), Box<dyn Error>> {
    let before = read(pid)?;
    let others = if reader == "gdb" { gdb(pid)? } else { eu_stack(pid)? };
    let after: BTreeMap<_, _> = read(pid)?.into_iter().map(|stack| (stack.tid, stack)).collect();
    for stack in before {
        let tid = stack.tid.unwrap_or_default();
        let own: Vec<u64> = stack.frames.iter().filter_map(|frame| frame.address).collect();
        let other = others.get(&tid).map_or(&[][..], Vec::as_slice);
        let (equal, missing) = align(&own, other);
        // More frames than this reader has at most are no difference.
        let missing = if equal == MAX_FRAMES { &[] } else { missing };
        let result = match (stack.cut.as_deref(), own.len(), missing.len()) {
            _ if after.get(&stack.tid) != Some(&stack) => "moved",
            (Some("running"), ..) => "running",
            _ if other.is_empty() => "not read by the other",
            (_, own, 0) if equal == own => "equal",
            (Some(_), own, _) if equal == own => "cut, equal so far",
            (None, own, _) if equal == own => "ends, and the other goes on",
            (None, _, 0) => "goes on to the root, and the other ends",
            (Some(_), _, 0) => "goes on and is cut, and the other ends",
            _ => "different",
        };
        *counts.results.entry(result).or_default() += 1;
        if !["moved", "running", "not read by the other"].contains(&result) {
            counts.frames += equal;
            // Without inlined calls, frames are in the same places.
            if equal == other.len() {
                let names = stack.frames.iter().zip(other).map(|(own, other)| (own.function.clone(), &other.1));
                let named = names.filter_map(|(own, other)| Some((own?.to_string(), other.clone())));
                counts.names.extend(named.filter(|(own, other)| own != other));
            }
        }
        if !["moved", "running", "equal"].contains(&result) {
            println!("{pid}: {result}\n{stack}");
            let own = stack.frames.iter().zip(&own).skip(equal);
            own.for_each(|(frame, address)| println!("    own   {address:#x} {frame}"));
            missing.iter().for_each(|(address, name)| println!("    other {:#x} {name}", address.unwrap_or(0)));
        }
    }
    Ok(())
}

fn read(pid: u32) -> Result<Vec<Stack>, Box<dyn Error>> {
    let open = |mapping: &Mapping| files::open(pid, mapping);
    let memory = live::LiveMemory::open(pid)?;
    let limit = ReadLimit::new(1_000_000, 256 << 20);
    let symbols = FileSymbols::new(&open, MemoryReader::new(&memory, &limit));
    let (mappings, threads) = (live::mappings(pid)?, live::threads(pid, 4096, &|| true)?);
    let process = TargetProcess {
        memory: MemoryReader::new(&memory, &limit),
        mappings: &mappings,
        threads: &threads,
        symbols: &symbols,
    };
    Ok(native::stacks(&process)?)
}

/// Returns the number of innermost frames that are equal, and the frames of the other reader behind them.
fn align<'a>(own: &[u64], mut other: &'a [OtherFrame]) -> (usize, &'a [OtherFrame]) {
    let mut last = None;
    // gdb shows inlined calls, too, with the address of the function that has them.
    let is_inlined = |last: Option<u64>, frame: &OtherFrame| last.is_some() && frame.0 == last;
    for (index, own) in own.iter().enumerate() {
        while let [frame, rest @ ..] = other
            && is_inlined(last, frame)
            && !is_same(index, *own, frame.0)
        {
            other = rest;
        }
        match other {
            [frame, rest @ ..] if is_same(index, *own, frame.0) => {
                (last, other) = (frame.0.or(Some(own + u64::from(index > 0))), rest);
            }
            _ => return (index, other),
        }
    }
    while let [frame, rest @ ..] = other
        && is_inlined(last, frame)
    {
        other = rest;
    }
    (own.len(), other)
}

/// Whether a frame of this reader is that of the other one.
fn is_same(index: usize, own: u64, other: Option<u64>) -> bool {
    // gdb shows no address of the code that returns from a signal handler.
    let Some(other) = other else { return true };
    // For a stopped thread, the kernel of aarch64 has already put the next instruction before the system call.
    own == other || own == other.wrapping_sub(1) || index == 0 && cfg!(target_arch = "aarch64") && own == other + 4
}

/// Returns the stacks that `eu-stack` prints, by the numbers of threads. Its lines are `TID 7:` and `#0  0x1234 name`.
fn eu_stack(pid: u32) -> Result<BTreeMap<u32, Vec<OtherFrame>>, Box<dyn Error>> {
    let output = Command::new("eu-stack").args(["-p", &pid.to_string()]).output()?;
    parse(&output, |line| line.strip_prefix("TID ")?.strip_suffix(':')?.parse().ok())
}

/// Returns the stacks that gdb prints. Its lines are `Thread 2 (LWP 7):` and `#1  0x1234 in name`.
fn gdb(pid: u32) -> Result<BTreeMap<u32, Vec<OtherFrame>>, Box<dyn Error>> {
    let mut command = Command::new("gdb");
    // With debug information it would show calls that were replaced by jumps, which have no frame.
    command.args(["-nx", "-batch", "-iex", "set debug-file-directory /nonexistent", "-p", &pid.to_string()]);
    for setting in [
        "set backtrace past-main on",
        "set backtrace past-entry on",
        "set print entry-values no",
        "set debuginfod enabled off",
        "thread apply all -s backtrace -frame-arguments none -frame-info location-and-address 300",
    ] {
        command.args(["-ex", setting]);
    }
    parse(&command.output()?, |line| {
        let rest = line.strip_prefix("Thread ")?;
        let number = rest.split_once("LWP ").or_else(|| rest.split_once("process "))?.1;
        number.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
    })
}

fn parse(output: &Output, tid: impl Fn(&str) -> Option<u32>) -> Result<BTreeMap<u32, Vec<OtherFrame>>, Box<dyn Error>> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut stacks: BTreeMap<u32, Vec<OtherFrame>> = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        last = tid(line).or(last);
        let Some((Some(tid), frame)) = line.strip_prefix('#').map(|frame| (last, frame)) else { continue };
        let frame = frame.trim_start_matches(|byte: char| byte.is_ascii_digit()).trim_start();
        let (address, name) = match frame.strip_prefix("0x") {
            Some(frame) => frame.split_once(' ').map_or((frame, ""), |(address, name)| (address, name)),
            None => ("", frame),
        };
        stacks.entry(tid).or_default().push((u64::from_str_radix(address, 16).ok(), name.trim().to_owned()));
    }
    if stacks.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(stacks)
}
