//! Frames of CPython: the lines in which threads of the images wait, and damaged images, which end the reader and make it invent nothing.

mod damage;
mod saved;

use std::collections::BTreeMap;

use closewait_stacks::{
    Memory, MemoryReader, Stack, StackError, TargetProcess,
    image::Image,
    memory::ReadLimit,
    python,
    stack::{MAX_FRAMES, TASK_STATE},
};
use damage::{Damage, Damaged};
use saved::images;

/// Number of reads that one process may need. A sound image of the tests needs fewer than 300.
const MOST_READS: u32 = 20_000;

fn read(image: &Image, memory: &dyn Memory, limit: &ReadLimit) -> Result<Vec<Stack>, StackError> {
    let (mappings, threads) = (&image.mappings, &image.threads);
    python::stacks(&TargetProcess { memory: MemoryReader::new(memory, limit), mappings, threads, symbols: image })
}

fn ample() -> ReadLimit {
    ReadLimit::new(MOST_READS, 64 << 20)
}

/// Returns the number of damages of an image: one of tasks has many stacks.
fn seeds(name: &str) -> u64 {
    if name.starts_with("python-tasks-") { 24 } else { 60 }
}

#[test]
fn every_thread_waits_in_its_line_of_the_program() {
    // Function, without the names around it, and line in `images/src`.
    let expected = [
        ("__init__", 21),
        ("reserve", 25),
        ("received", 41),
        ("epoll", 50),
        ("lines", 57),
        ("<lambda>", 64),
        ("<lambda>", 91),
        ("main", 102),
        ("𐎠𐎡", 10),
    ];
    let images = images("python-threads-");
    assert!(images.len() >= 8, "{}", images.len());
    for (name, image) in images {
        let stacks = read(&image, &image, &ample()).unwrap();
        assert_eq!(stacks.len(), 13, "{name}");
        assert!(
            stacks.iter().all(|stack| stack.tid.is_some() && stack.cut.is_none() && stack.state.is_none()),
            "{name}"
        );
        let mut innermost: Vec<(&str, u32)> = Vec::new();
        for stack in &stacks {
            let own =
                stack.frames.iter().find(|frame| frame.file.as_ref().is_some_and(|file| file.starts_with("/srv/app/")));
            let Some(own) = own else { continue };
            let function = own.function.as_deref().and_then(|function| function.rsplit('.').next()).unwrap_or_default();
            innermost.push((function, own.line.unwrap_or_default()));
        }
        innermost.sort_unstable_by_key(|(function, line)| (*line, *function));
        // A comprehension has a frame of its own until 3.11 (PEP 709).
        let comprehension =
            innermost.iter().position(|(function, line)| ["<listcomp>", "left"].contains(function) && *line == 33);
        innermost.remove(comprehension.unwrap_or_else(|| panic!("{name}: {innermost:?}")));
        let mut expected = expected;
        expected.sort_unstable_by_key(|(function, line)| (*line, *function));
        assert_eq!(innermost, expected, "{name}");
    }
}

#[test]
fn the_thread_that_holds_the_lock_of_the_interpreter_is_named() {
    let images = images("python-holder-");
    assert!(images.len() >= 3, "{}", images.len());
    for (name, image) in images {
        let stacks = read(&image, &image, &ample()).unwrap();
        let states: Vec<_> =
            stacks.iter().map(|stack| (stack.frames[0].function.as_deref(), stack.state.as_deref())).collect();
        // 3.15 is the first version that says which threads want it.
        let wants = name.contains("-3.15").then_some("waits for the GIL");
        assert_eq!(states, [(Some("wants"), wants), (Some("keeps"), Some("holds the GIL"))], "{name}");
    }
}

#[test]
fn every_task_waits_in_its_line_of_the_program() {
    // Innermost function of the program in `images/src/tasks.py`, with its line, and number of tasks.
    let expected = [
        // Also of the generator, and of a gathered task.
        (("book", 22), 3),
        (("work", 26), 1),
        (("wait", 29), 1),
        (("change", 33), 1),
        (("export", 37), 3),
        (("transaction", 49), 1),
        (("read", 93), 1),
        (("received", 101), 1),
        (("served", 105), 2),
    ];
    let images = images("python-tasks-");
    assert!(images.len() >= 5, "{}", images.len());
    for (name, image) in images {
        let mut lines: BTreeMap<(String, u32), u32> = BTreeMap::new();
        let stacks = read(&image, &image, &ample()).unwrap();
        let tasks: Vec<_> = stacks.iter().filter(|stack| stack.state.as_deref() == Some(TASK_STATE)).collect();
        for task in &tasks {
            assert!(task.tid.is_none() && task.name.is_some(), "{name}: {task}");
            let own = task.frames.iter().find(|frame| {
                frame.file.as_ref().is_some_and(|file| file.ends_with("/tasks.py") && !file.contains("/asyncio/"))
            });
            let own = own.unwrap_or_else(|| panic!("{name}: {task}"));
            let function = own.function.as_deref().and_then(|function| function.rsplit('.').next()).unwrap_or_default();
            *lines.entry((function.to_owned(), own.line.unwrap_or_default())).or_default() += 1;
        }
        for ((function, line), count) in expected {
            assert_eq!(lines.get(&(function.to_owned(), line)), Some(&count), "{name}: {function} {lines:#?}");
        }
        let reserve = lines.get(&("reserve".to_owned(), 18));
        assert!(reserve.is_some_and(|count| *count >= 23), "{name}: {lines:#?}");
        assert!(tasks.iter().any(|task| task.name.as_deref() == Some("nightly export")), "{name}");
        let cut = tasks.iter().filter(|task| task.cut.is_some()).count();
        assert_eq!(cut, 1, "{name}: 140 calls");
    }
}

#[test]
fn unreadable_memory_makes_stacks_shorter_and_never_different() {
    let (mut shorter, mut whole) = (0, 0);
    for (name, image) in images("python-") {
        let sound = read(&image, &image, &ample()).unwrap();
        let by_tid: BTreeMap<_, _> = sound.iter().map(|stack| (stack.tid, stack)).collect();
        for seed in 0..seeds(&name) {
            let damage = Damage::Missing([30, 100, 300][seed as usize % 3]);
            let Ok(stacks) = read(&image, &Damaged { image: &image, seed, damage }, &ample()) else { continue };
            for stack in stacks {
                // Without its number, a thread can be any; a task has none.
                let own = by_tid.get(&stack.tid).filter(|_| stack.tid.is_some());
                let one_of = own.map_or(&sound[..], |expected| std::slice::from_ref(*expected));
                let expected = one_of.iter().filter(|expected| expected.frames.starts_with(&stack.frames));
                let expected = expected.min_by_key(|expected| expected.frames.len());
                let expected = expected.unwrap_or_else(|| panic!("{name} {seed}: {stack}"));
                if stack.frames.len() < expected.frames.len() {
                    assert!(stack.cut.is_some(), "{name} {seed}: {stack}\ninstead of\n{expected}");
                    shorter += 1;
                } else {
                    whole += 1;
                }
            }
        }
    }
    assert!(shorter > 20 && whole > 500, "{shorter} {whole}");
}

#[test]
fn a_damaged_memory_ends_the_reader_within_its_limits() {
    let (mut read_some, mut failed) = (0, 0);
    for (name, image) in images("python-") {
        for seed in 0..seeds(&name) {
            let one_of = [20, 100, 1000, 20_000][seed as usize % 4];
            let damage = if seed % 2 == 0 { Damage::Bytes(one_of) } else { Damage::Words(one_of) };
            match read(&image, &Damaged { image: &image, seed, damage }, &ample()) {
                Ok(stacks) => {
                    assert!(stacks.len() <= 2048);
                    assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
                    read_some += 1;
                }
                Err(_) => failed += 1,
            }
        }
    }
    assert!(read_some > 20 && failed > 20, "{read_some} {failed}");
}

#[test]
fn a_pass_ends_at_the_limit_of_reads_with_what_it_has() {
    for (name, image) in images("python-holder-") {
        let sound = read(&image, &image, &ample()).unwrap();
        let mut found = 0;
        for reads in 0..120 {
            let Ok(stacks) = read(&image, &image, &ReadLimit::new(reads, 64 << 20)) else { continue };
            assert!(stacks.len() >= found && stacks.len() <= sound.len(), "{name} {reads}");
            for (stack, expected) in stacks.iter().zip(&sound) {
                assert!(expected.frames.starts_with(&stack.frames), "{name} {reads}: {stack}");
                assert!(stack.cut.is_some() || stack.frames.len() == expected.frames.len(), "{name} {reads}: {stack}");
            }
            found = stacks.len();
        }
        assert_eq!(found, sound.len(), "{name}");
    }
}
