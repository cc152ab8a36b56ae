//! Memory of programs in machine code, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image;
use closewait_stacks::{ProgramKind, image::Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static IMAGES: OnceLock<[Image; 5]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        changed_image::images([
            include_bytes!("../../closewait-stacks/tests/images/native-c-nofp.image"),
            include_bytes!("../../closewait-stacks/tests/images/native-c-musl.image"),
            include_bytes!("../../closewait-stacks/tests/images/native-c-static.image"),
            include_bytes!("../../closewait-stacks/tests/images/native-c-pac-aarch64.image"),
            include_bytes!("../../closewait-stacks/tests/images/native-musl-aarch64.image"),
        ])
    });
    changed_image::check(ProgramKind::Native, images, bytes);
});
