//! Memory of a Python program, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image;
use closewait_stacks::{ProgramKind, image::Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static IMAGES: OnceLock<[Image; 6]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        changed_image::images([
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.8.18.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.10.13.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.11.2.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-threads-3.14.10.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-tasks-3.11.2.image"),
            include_bytes!("../../closewait-stacks/tests/images/python-tasks-3.14.10.image"),
        ])
    });
    changed_image::check(ProgramKind::Python, images, bytes);
});
