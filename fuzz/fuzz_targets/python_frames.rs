//! Memory of a Python program, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image::ChangedImage;
use closewait_stacks::{MemoryReader, TargetProcess, image::Image, memory::ReadLimit, python, stack::MAX_FRAMES};
use libfuzzer_sys::fuzz_target;

/// Number of reads that one pass may need; a sound image needs fewer than 400.
const MOST_READS: u32 = 20_000;

fuzz_target!(|bytes: &[u8]| {
    static IMAGES: OnceLock<[Image; 4]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        let images: [&[u8]; 4] = [
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.8.18.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.10.13.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.11.2.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.14.10.image"),
        ];
        images.map(|image| Image::from_bytes(image).expect("an image of the tests"))
    });
    let Some((which, bytes)) = bytes.split_first() else { return };
    let image = &images[usize::from(*which) % images.len()];
    let memory = ChangedImage::new(image, bytes);
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads) = (&image.mappings, &image.threads);
    let process = TargetProcess { memory: MemoryReader::new(&memory, &limit), mappings, threads, symbols: image };
    if let Ok(stacks) = python::stacks(&process) {
        assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
        assert!(
            stacks.iter().all(|stack| !stack.frames.is_empty() || stack.cut.is_some()),
            "an empty stack has a reason"
        );
    }
});
