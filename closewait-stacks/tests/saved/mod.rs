//! Saved images of processes.

use std::fs;

use closewait_stacks::image::Image;

/// Folder of the images.
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images");

/// Returns the images whose file names begin with `beginning`, with these names, sorted by them.
pub(crate) fn images(beginning: &str) -> Vec<(String, Image)> {
    let mut images = Vec::new();
    for entry in fs::read_dir(FOLDER).expect("tests/images") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if name.starts_with(beginning) && name.ends_with(".image") {
            images.push((name, Image::from_bytes(&fs::read(&path).expect("an image")).expect("an image")));
        }
    }
    images.sort_by(|one, other| one.0.cmp(&other.0));
    images
}
