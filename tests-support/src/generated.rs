//! Files in the repository that are generated from the code.

use std::{env, fs, path::Path};

/// Whether the file `path` of the repository, relative to its root, has this text. With `BLESS=1`, as `cargo xtask docs` sets it,
/// this writes the text first.
pub fn is_current(path: &str, text: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a generated file");
    }
    fs::read_to_string(&path).is_ok_and(|now| now == text)
}
