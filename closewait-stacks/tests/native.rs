//! Stacks of machine code: the functions in which threads of the images wait, and damaged images, which end the reader and make it invent
//! nothing.

mod damage;
mod saved;

use std::collections::{BTreeMap, BTreeSet};

use closewait_stacks::{
    Frame, Memory, MemoryError, MemoryReader, Stack, StackError, TargetProcess, image::Image, memory::ReadLimit,
    native, stack::MAX_FRAMES,
};
use damage::{Damage, Damaged};

/// Number of reads that one process may need. A sound image of the tests needs fewer than 500.
const MOST_READS: u32 = 20_000;

/// Ways from `outer`, or from `variable` below it, to the innermost own function of each thread of `src/waits.c`.
const WAITS: [&[&str]; 9] = [
    &["wait_in_lock", "middle", "variable"],
    &["wait_in_read", "middle", "outer"],
    &["wait_in_poll", "middle", "variable"],
    &["wait_in_sleep", "middle", "outer"],
    &["wait_in_cond", "middle", "outer"],
    &["wait_in_epoll", "middle", "outer"],
    &["wait_in_accept", "middle", "outer"],
    &["handler"],
    &["wait_in_sleep", "deep"],
];

fn images(beginning: &str, least: usize) -> Vec<(String, Image)> {
    let images = saved::images(beginning);
    assert!(images.len() >= least, "{}", images.len());
    images
}

fn read(image: &Image, memory: &dyn Memory, limit: &ReadLimit) -> Result<Vec<Stack>, StackError> {
    let (mappings, threads) = (&image.mappings, &image.threads);
    native::stacks(&TargetProcess { memory: MemoryReader::new(memory, limit), mappings, threads, symbols: image })
}

fn ample() -> ReadLimit {
    ReadLimit::new(MOST_READS, 64 << 20)
}

fn name(frame: &Frame) -> &str {
    frame.function.as_deref().unwrap_or("?")
}

#[test]
fn every_thread_waits_in_its_function_of_the_program() {
    for (image_name, image) in images("native-c-", 8) {
        let mut found = BTreeSet::new();
        for stack in read(&image, &image, &ample()).unwrap() {
            let own: Vec<&str> = stack.frames.iter().map(name).collect();
            let is_start = |own: &&str| own.starts_with("wait_in_") || *own == "handler";
            let Some(start) = own.iter().position(is_start) else {
                assert!(own.contains(&"main"), "{image_name}: {stack}");
                continue;
            };
            let way = WAITS.iter().find(|way| own[start..].starts_with(way));
            found.insert(*way.unwrap_or_else(|| panic!("{image_name}: {stack}")));
        }
        assert_eq!(found.len(), WAITS.len(), "{image_name}: {found:?}");
    }
}

#[test]
fn code_that_a_signal_has_interrupted_is_below_the_handler() {
    let way = ["interrupted", "wait_in_signal", "middle", "outer"];
    for (image_name, image) in images("native-c-", 8) {
        let stacks = read(&image, &image, &ample()).unwrap();
        let stack = stacks.iter().find(|stack| stack.frames.iter().any(|frame| name(frame) == "handler")).unwrap();
        let start = stack.frames.iter().position(|frame| name(frame) == "interrupted");
        let start = start.unwrap_or_else(|| panic!("{image_name}: {stack}"));
        // What follows a frame that only the frame pointer suggests is another matter.
        let sure = stack.frames[start..].iter().take_while(|frame| !frame.is_guess).map(name);
        let sure: Vec<&str> = sure.take(way.len()).collect();
        assert!(way.starts_with(&sure), "{image_name}: {stack}");
        // Without a table, a function that never returns has no end that says where its caller is.
        assert!(sure.len() == way.len() || image_name.contains("-notables") || image_name.contains("musl"), "{stack}");
    }
}

#[test]
fn return_addresses_lose_their_authentication() {
    const CODE: u64 = (1 << 48) - 1;
    let (_, image) = images("native-c-pac-", 1).remove(0);
    let mut signed = 0;
    for (stack, thread) in read(&image, &image, &ample()).unwrap().iter().zip(&image.threads) {
        let mut words = [0; 4096];
        image.read(thread.registers.unwrap().sp, &mut words).unwrap();
        let words = words.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let on_stack: BTreeSet<u64> = words.filter(|word| word & !CODE != 0).map(|word| word & CODE).collect();
        signed += stack.frames.iter().filter(|frame| on_stack.contains(&(frame.address.unwrap() + 1))).count();
        assert!(stack.frames.iter().all(|frame| frame.address.unwrap() <= CODE));
    }
    // `middle` and `outer` sign theirs in each thread.
    assert!(signed >= 18, "{signed}");
}

#[test]
fn a_deep_recursion_ends_at_the_limit_of_frames() {
    let mut cut = 0;
    for (image_name, image) in images("native-c-", 8) {
        for stack in read(&image, &image, &ample()).unwrap() {
            if stack.frames.iter().filter(|frame| name(frame) == "deep").count() > 1 {
                assert_eq!(stack.frames.len(), MAX_FRAMES, "{image_name}");
                assert_eq!(stack.cut.as_deref(), Some("more than 128 frames"), "{image_name}");
                cut += 1;
            }
        }
    }
    assert!(cut >= 8, "{cut}");
}

#[test]
fn unreadable_memory_makes_stacks_shorter_and_never_different() {
    let (mut shorter, mut whole) = (0, 0);
    for (image_name, image) in images("native-", 13) {
        let sound = read(&image, &image, &ample()).unwrap();
        let sound: BTreeMap<_, _> = sound.iter().map(|stack| (stack.tid, stack)).collect();
        for seed in 0..36 {
            let damage = Damage::Missing([20, 60, 200][seed as usize % 3]);
            let Ok(stacks) = read(&image, &Damaged { image: &image, seed, damage }, &ample()) else { continue };
            for stack in stacks {
                let expected = sound[&stack.tid];
                // What a frame pointer suggests replaces what a table says, and is marked.
                let sure = stack.frames.iter().position(|frame| frame.is_guess).unwrap_or(stack.frames.len());
                let same = |(own, sound): (&Frame, &Frame)| own.address == sound.address && own.object == sound.object;
                assert!(
                    sure <= expected.frames.len() && stack.frames[..sure].iter().zip(&expected.frames).all(same),
                    "{image_name} {seed}: {stack}\ninstead of\n{expected}"
                );
                if sure < expected.frames.len() {
                    assert!(stack.cut.is_some() || sure < stack.frames.len(), "{image_name} {seed}: {stack}");
                    shorter += 1;
                } else {
                    whole += 1;
                }
            }
        }
    }
    assert!(shorter > 500 && whole > 500, "{shorter} {whole}");
}

#[test]
fn a_damaged_memory_ends_the_reader_within_its_limits() {
    let (mut changed, mut equal) = (0, 0);
    for (_, image) in images("native-", 13) {
        let sound = read(&image, &image, &ample()).unwrap();
        for seed in 0..36 {
            let one_of = [20, 100, 1000, 20_000][seed as usize % 4];
            let damage = if seed % 2 == 0 { Damage::Bytes(one_of) } else { Damage::Words(one_of) };
            let Ok(stacks) = read(&image, &Damaged { image: &image, seed, damage }, &ample()) else { continue };
            assert_eq!(stacks.len(), sound.len());
            assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
            let same = stacks.iter().zip(&sound).filter(|(own, sound)| own == sound).count();
            equal += same;
            changed += stacks.len() - same;
        }
    }
    assert!(changed > 500 && equal > 20, "{changed} {equal}");
}

#[test]
fn a_pass_ends_at_the_limit_of_reads_with_what_it_has() {
    for (image_name, image) in images("native-c-", 8) {
        let sound = read(&image, &image, &ample()).unwrap();
        let mut whole = 0;
        for reads in (0..500).step_by(7) {
            let Ok(stacks) = read(&image, &image, &ReadLimit::new(reads, 64 << 20)) else { continue };
            whole = 0;
            for (stack, expected) in stacks.iter().zip(&sound) {
                let same = |(own, sound): (&Frame, &Frame)| own.address == sound.address;
                assert!(stack.frames.iter().zip(&expected.frames).all(same), "{image_name} {reads}: {stack}");
                let is_whole = stack.frames.len() == expected.frames.len();
                assert!(stack.cut.is_some() || is_whole, "{image_name} {reads}: {stack}");
                whole += usize::from(is_whole);
            }
        }
        assert_eq!(whole, sound.len(), "{image_name}");
    }
}

#[test]
fn a_stack_that_cannot_be_read_is_an_error_only_if_no_other_is_read() {
    /// Memory without its stacks, except for those below an address.
    struct WithoutStacks<'a>(&'a Image, u64);

    impl Memory for WithoutStacks<'_> {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            let mut stacks = self.0.threads.iter().filter_map(|thread| Some(thread.registers?.sp));
            if stacks.any(|sp| sp == address && sp >= self.1) {
                return Err(MemoryError::Unreadable { address, len: into.len() });
            }
            self.0.read(address, into)
        }
    }

    let (_, image) = &images("native-c-", 8)[0];
    assert!(matches!(read(image, &WithoutStacks(image, 0), &ample()), Err(StackError::Memory(_))));
    let mut stacks: Vec<u64> = image.threads.iter().filter_map(|thread| Some(thread.registers?.sp)).collect();
    stacks.sort_unstable();
    let partly = read(image, &WithoutStacks(image, stacks[1]), &ample()).unwrap();
    let empty = partly.iter().filter(|stack| stack.frames.is_empty() && stack.cut.is_some()).count();
    assert_eq!((empty, partly.len()), (stacks.len() - 1, stacks.len()));
}
