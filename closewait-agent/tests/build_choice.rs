//! Choice between a build with and without the kernel program, as the build script makes it.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

#[path = "../build/choice.rs"]
mod choice;

use choice::{
    Choice, LINKER_VERSION, Missing, choose, find_tools, has_llvm_of, is_required, is_wanted_version, watched,
};

/// First and last line of the output of `rustc -vV`.
const COMPILER: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nLLVM version: 22.1.2\n";

#[test]
fn without_the_set_up_the_object_is_empty_unless_the_caller_forbids_it() {
    let missing = || Err(Missing::Linker("/setup/bin".into()));
    assert_eq!(choose(false, false, missing), Choice::Empty(Missing::Linker("/setup/bin".into())));
    assert_eq!(choose(false, true, missing), Choice::Refuse(Missing::Linker("/setup/bin".into())));
}

#[test]
fn with_the_set_up_the_kernel_program_is_compiled() {
    for required in [false, true] {
        assert_eq!(choose(false, required, || Ok("/setup/bin".into())), Choice::Compile("/setup/bin".into()));
    }
}

#[test]
fn fuzz_targets_never_have_a_kernel_program() {
    for required in [false, true] {
        assert_eq!(choose(true, required, || panic!("nothing is looked for")), Choice::EmptyForFuzzing);
    }
}

#[test]
fn the_variable_forbids_an_empty_object_unless_it_is_empty_or_0() {
    for (value, required) in [(None, false), (Some(""), false), (Some("0"), false), (Some("1"), true)] {
        assert_eq!(is_required(value.map(OsStr::new)), required, "{value:?}");
    }
}

#[test]
fn the_linker_of_the_set_up_goes_before_those_in_path_and_one_that_does_not_fit_counts_for_nothing() {
    let scratch = Scratch::new("linker");
    let (setup, first, second) = (scratch.0.join("setup/bin"), scratch.0.join("first"), scratch.0.join("second"));
    let path = env::join_paths([&first, &second]).expect("a PATH");
    let sysroot = scratch.std_source(&["Cargo.lock", "core/src/lib.rs"]);
    let find = |fits: &dyn Fn(&Path) -> bool| find_tools(&setup, &path, &sysroot, fits);

    assert_eq!(find(&|_linker| true), Err(Missing::Linker(setup.clone())));
    for dir in [&first, &second, &setup] {
        fs::create_dir_all(dir).expect("a folder");
    }
    assert_eq!(find(&|_linker| true), Err(Missing::Linker(setup.clone())), "folders without a linker");
    fs::write(second.join("bpf-linker"), "").expect("a file");
    assert_eq!(find(&|_linker| true), Ok(second.clone()));
    fs::write(first.join("bpf-linker"), "").expect("a file");
    assert_eq!(find(&|_linker| true), Ok(first.clone()));
    assert_eq!(find(&|linker| !linker.starts_with(&first)), Ok(second));
    fs::write(setup.join("bpf-linker"), "").expect("a file");
    assert_eq!(find(&|_linker| true), Ok(setup.clone()));
    assert_eq!(find(&|linker| !linker.starts_with(&setup)), Ok(first));
    assert_eq!(find(&|_linker| false), Err(Missing::Linker(setup)));
}

#[test]
fn the_source_of_the_standard_library_has_to_be_complete() {
    let scratch = Scratch::new("source");
    let setup = scratch.0.join("setup/bin");
    fs::create_dir_all(&setup).expect("a folder");
    fs::write(setup.join("bpf-linker"), "").expect("a file");
    let find = |sysroot: &Path| find_tools(&setup, OsStr::new(""), sysroot, |_linker| true);
    let sysroot = scratch.0.join("sysroot");
    let missing = || Err(Missing::StdSource(sysroot.join("lib/rustlib/src/rust")));
    assert_eq!(find(&sysroot), missing());
    assert_eq!(find(&scratch.std_source(&["Cargo.lock"])), missing());
    assert_eq!(find(&scratch.std_source(&["core/src/lib.rs"])), Ok(setup.clone()));
}

#[test]
fn cargo_watches_the_nearest_folder_that_exists() {
    let scratch = Scratch::new("watched");
    let (rustlib, bin) = (scratch.0.join("lib/rustlib"), scratch.0.join("setup/bin"));
    for dir in [&rustlib, &bin] {
        fs::create_dir_all(dir).expect("a folder");
    }
    assert_eq!(watched(&Missing::StdSource(rustlib.join("src/rust"))), rustlib);
    assert_eq!(watched(&Missing::Linker(bin.clone())), bin);
}

#[test]
fn only_the_version_of_the_set_up_with_the_llvm_of_the_compiler_fits() {
    assert!(is_wanted_version(&format!("bpf-linker {LINKER_VERSION}\n")));
    assert!(!is_wanted_version("bpf-linker 0.9.0\n") && !is_wanted_version(""));

    let line = "\tlibLLVM.so.22.1-rust-1.95.0-stable => /toolchain/lib/libLLVM.so.22.1-rust-1.95.0-stable (0x7f)\n";
    assert!(has_llvm_of(COMPILER, line));
    assert!(!has_llvm_of(COMPILER, &line.replace("22.1", "21.1")));
    assert!(!has_llvm_of(COMPILER, "\tlibLLVM.so.22.1-rust-1.95.0-stable => not found\n"));
    assert!(!has_llvm_of(COMPILER, "\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n"));
    assert!(!has_llvm_of("rustc of another kind\n", line));
}

#[test]
fn the_message_names_what_is_missing_and_where_it_is_looked_for() {
    let linker = Missing::Linker("/target/setup/bin".into()).to_string();
    assert!(linker.contains(LINKER_VERSION) && linker.contains("/target/setup/bin"), "{linker}");
    let source = Missing::StdSource("/sysroot/lib/rustlib/src/rust".into()).to_string();
    assert!(source.contains("/sysroot/lib/rustlib/src/rust"), "{source}");
}

/// Folder that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("closewait-build-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Returns the folder of a toolchain, with these files of the standard library's source.
    fn std_source(&self, files: &[&str]) -> PathBuf {
        let sysroot = self.0.join("sysroot");
        for file in files {
            let file = sysroot.join("lib/rustlib/src/rust/library").join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, "").expect("a file");
        }
        sysroot
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, the file stays in the folder for temporary files, which is harmless.
        let _result = fs::remove_dir_all(&self.0);
    }
}
