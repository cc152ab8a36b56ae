//! Stacks of copies: the same as those of the saved images that the copies are made of, as far as the copies reach.

mod saved;

use closewait_stacks::{
    CopiedStack, Memory as _, MemoryReader, TargetProcess, image::Image, memory::ReadLimit, native,
};

/// Number of bytes that are copied together.
const CHUNK: u64 = 512;
/// Maximum length of a copy, bytes.
const MOST: u64 = 8 << 10;

/// Returns the readable bytes at `sp`, `most` at most.
fn copy(image: &Image, sp: u64, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < most {
        let mut chunk = [0; CHUNK as usize];
        if image.read(sp + bytes.len() as u64, &mut chunk).is_err() {
            break;
        }
        bytes.extend(chunk);
    }
    bytes
}

#[test]
fn copies_have_the_stacks_of_their_threads() {
    let (mut whole, mut cut) = (0, 0);
    for (name, image) in saved::images("native-") {
        let limit = ReadLimit::new(100_000, 64 << 20);
        let (mappings, threads) = (&image.mappings, &image.threads);
        let process = TargetProcess { memory: MemoryReader::new(&image, &limit), mappings, threads, symbols: &image };
        let stacks = native::stacks(&process).expect("stacks");
        for (thread, stack) in threads.iter().zip(stacks) {
            let Some(registers) = thread.registers else { continue };
            for most in [CHUNK, MOST] {
                let bytes = copy(&image, registers.sp, most);
                let copied = native::copied_stacks(&process, &[CopiedStack { tid: thread.tid, registers, bytes }]);
                let [copied] = &copied[..] else { panic!("{name}: one stack") };
                assert_eq!(copied.frames, stack.frames[..copied.frames.len()], "{name}, {}", thread.tid);
                assert!(!copied.frames.is_empty(), "{name}, {}", thread.tid);
                let is_whole = copied == &stack;
                assert!(is_whole || copied.cut.is_some(), "{name}: {copied}");
                (whole, cut) = (whole + u32::from(is_whole), cut + u32::from(!is_whole));
            }
        }
    }
    assert!(whole > 20 && cut > 20, "{whole} whole, {cut} cut");
}
