//! Memory of a PHP or Ruby program, in which the input changes what single reads return.
#![no_main]

use std::sync::OnceLock;

use closewait_fuzz::changed_image;
use closewait_stacks::{ProgramKind, image::Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static PHP: OnceLock<[Image; 2]> = OnceLock::new();
    static RUBY: OnceLock<[Image; 2]> = OnceLock::new();
    let Some((kind, bytes)) = bytes.split_first() else { return };
    if kind.is_multiple_of(2) {
        let images = PHP.get_or_init(|| {
            changed_image::images([
                include_bytes!("../../closewait-stacks/tests/images/php-deep-7.4.33.image"),
                include_bytes!("../../closewait-stacks/tests/images/php-map-8.4.27.image"),
            ])
        });
        changed_image::check(ProgramKind::Php, images, bytes);
    } else {
        let images = RUBY.get_or_init(|| {
            changed_image::images([
                include_bytes!("../../closewait-stacks/tests/images/ruby-waits-2.7.4.image"),
                include_bytes!("../../closewait-stacks/tests/images/ruby-waits-3.3.8.image"),
            ])
        });
        changed_image::check(ProgramKind::Ruby, images, bytes);
    }
});
