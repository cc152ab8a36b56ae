//! Limits of a reading: what it keeps and computes does not depend on what the process has in its memory and files.

mod saved;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use closewait_stacks::{
    Frame, Mapping, Memory, MemoryError, MemoryReader, Stack, Symbols, TargetProcess, TargetThread,
    image::Image,
    limit::{MAX_FUNCTION_BYTES, MAX_KEPT, MAX_STEPS},
    memory::{ReadBound, ReadLimit},
    native,
};

/// Number of threads: as many as a pass of the agent reads.
const THREADS: usize = 2048;

/// Returns an image with its threads repeated, and a limit of reads that is never reached.
fn many_threads() -> (Image, Vec<TargetThread>, ReadLimit) {
    let (_, image) = saved::images("native-c-nofp").remove(0);
    let threads = image.threads.iter().cloned().cycle().take(THREADS).collect();
    (image, threads, ReadLimit::new(u32::MAX, u64::MAX))
}

fn read(image: &Image, threads: &[TargetThread], memory: MemoryReader<'_>, symbols: &dyn Symbols) -> Vec<Stack> {
    native::stacks(&TargetProcess { memory, mappings: &image.mappings, threads, symbols }).expect("stacks")
}

/// Returns the texts of all frames by their addresses: those that share their memory once, and each of them.
fn name_bytes(stacks: &[Stack]) -> (usize, usize) {
    let frames = stacks.iter().flat_map(|stack| &stack.frames);
    let texts = frames.flat_map(|frame: &Frame| [&frame.function, &frame.file, &frame.object]).flatten();
    let (mut kept, mut shown) = (BTreeMap::new(), 0);
    for text in texts {
        kept.insert(text.as_ptr() as usize, text.len());
        shown += text.len();
    }
    (kept.values().sum(), shown)
}

#[test]
fn names_of_a_mebibyte_are_cut_and_kept_once() {
    /// Symbols with another name of 1 MiB for each address.
    struct LongNames;

    impl Symbols for LongNames {
        fn named(&self, _mapping: &Mapping, _name: &str) -> Option<u64> {
            None
        }

        fn at(&self, _mapping: &Mapping, address: u64) -> Option<(String, u64)> {
            Some((format!("f{address:x}{}", "x".repeat(1 << 20)), address))
        }
    }

    let (image, threads, limit) = many_threads();
    let stacks = read(&image, &threads, MemoryReader::new(&image, &limit), &LongNames);
    assert_eq!((stacks.len(), limit.reached()), (THREADS, None));
    let frames: usize = stacks.iter().map(|stack| stack.frames.len()).sum();
    let functions: BTreeSet<&str> =
        stacks.iter().flat_map(|stack| &stack.frames).filter_map(|frame| frame.function.as_deref()).collect();
    assert!(functions.iter().any(|name| name.len() == MAX_FUNCTION_BYTES && name.ends_with("x…")), "{functions:?}");
    let (kept, shown) = name_bytes(&stacks);
    assert!(frames > 10 * THREADS && kept <= functions.len() * MAX_FUNCTION_BYTES + 1000, "{frames} {kept}");
    assert!(shown > 100 * kept, "{shown} {kept}");
    assert!(limit.kept_left() < MAX_KEPT - (frames * size_of::<Frame>() + kept) as u64);
}

#[test]
fn nothing_goes_on_after_the_time_is_over() {
    /// Memory that ends the reading at this number of reads, if it asks.
    struct Impatient<'a> {
        image: &'a Image,
        left: Cell<u32>,
    }

    impl Memory for Impatient<'_> {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            self.left.set(self.left.get().saturating_sub(1));
            self.image.read(address, into)
        }

        fn may_go_on(&self) -> bool {
            self.left.get() > 0
        }
    }

    let (image, threads, ample) = many_threads();
    let whole = read(&image, &threads, MemoryReader::new(&image, &ample), &image);
    let memory = Impatient { image: &image, left: Cell::new(100) };
    let limit = ReadLimit::new(u32::MAX, u64::MAX);
    let stacks = read(&image, &threads, MemoryReader::new(&memory, &limit), &image);
    assert_eq!((limit.reached(), limit.reads_left()), (Some(ReadBound::Time), 0));
    let (used, of_whole) = (MAX_STEPS - limit.steps_left(), MAX_STEPS - ample.steps_left());
    assert!(used < of_whole / 4, "{used} of {of_whole}");
    for (stack, expected) in stacks.iter().zip(&whole) {
        assert!(stack.cut.is_some() || stack.frames.len() == expected.frames.len(), "{stack}");
    }
    assert!(stacks.iter().any(|stack| stack.cut.as_deref().is_some_and(|cut| cut.contains("the time is over"))));
}
