//! Memory of a Go program, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image::ChangedImage;
use closewait_stacks::{TargetProcess, MemoryReader, go, image::Image, memory::ReadLimit, stack::MAX_FRAMES};
use libfuzzer_sys::fuzz_target;

/// Number of reads that one pass may need; a sound image needs fewer than 1,000.
const MOST_READS: u32 = 20_000;

fuzz_target!(|bytes: &[u8]| {
    static IMAGES: OnceLock<[Image; 3]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        let images: [&[u8]; 3] = [
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.15.image"),
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.27-stripped.image"),
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.23-aarch64.image"),
        ];
        images.map(|image| Image::from_bytes(image).expect("an image of the tests"))
    });
    let Some((which, bytes)) = bytes.split_first() else { return };
    let image = &images[usize::from(*which) % images.len()];
    let memory = ChangedImage::new(image, bytes);
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads) = (&image.mappings, &image.threads);
    let process = TargetProcess { memory: MemoryReader::new(&memory, &limit), mappings, threads, symbols: image };
    if let Ok(stacks) = go::stacks(&process) {
        assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
        assert!(stacks.iter().all(|stack| !stack.frames.is_empty() || stack.cut.is_some()), "an empty stack has a reason");
    }
});
