//! Memory of a Go program, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image;
use closewait_stacks::{ProgramKind, image::Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static IMAGES: OnceLock<[Image; 3]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        changed_image::images([
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.15.image"),
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.27-stripped.image"),
            include_bytes!("../../closewait-stacks/tests/images/go-waits-1.23-aarch64.image"),
        ])
    });
    changed_image::check(ProgramKind::Go, images, bytes);
});
