//! Goroutines from damaged images: whatever a process has in its memory, the reader ends, and invents nothing.

mod damage;
mod saved;

use std::{cell::Cell, collections::BTreeMap};

use closewait_stacks::{
    Mapping, Memory, MemoryError, MemoryReader, Stack, StackError, Symbols, TargetProcess, TargetThread, go,
    image::Image, memory::ReadLimit, stack::MAX_FRAMES,
};

use damage::{Damage, Damaged};

/// Number of reads that one process may need. A sound image of the tests needs fewer than 1,000.
const MOST_READS: u32 = 20_000;

fn images() -> Vec<(String, Image)> {
    let images = saved::images("go-");
    assert!(images.len() >= 9, "{}", images.len());
    images
}

fn read(image: &Image, memory: &dyn Memory, symbols: &dyn Symbols) -> Result<Vec<Stack>, StackError> {
    let limit = ReadLimit::new(MOST_READS, 64 << 20);
    let (mappings, threads): (&[Mapping], &[TargetThread]) = (&image.mappings, &image.threads);
    go::stacks(&TargetProcess { memory: MemoryReader::new(memory, &limit), mappings, threads, symbols })
}

#[test]
fn unreadable_memory_makes_stacks_shorter_and_never_different() {
    let (mut shorter, mut whole) = (0, 0);
    for (name, image) in images() {
        let sound = read(&image, &image, &image).unwrap();
        let sound: BTreeMap<_, _> = sound.into_iter().map(|stack| (stack.number, stack)).collect();
        for seed in 0..40 {
            let damage = Damage::Missing([200, 500, 1000, 2000][seed as usize % 4]);
            let Ok(stacks) = read(&image, &Damaged { image: &image, seed, damage }, &image) else { continue };
            for stack in stacks {
                let expected = &sound[&stack.number];
                assert!(expected.frames.starts_with(&stack.frames), "{name} {seed}: {stack}\ninstead of\n{expected}");
                if stack.frames.len() < expected.frames.len() {
                    assert!(stack.cut.is_some(), "{name} {seed}: {stack}\ninstead of\n{expected}");
                    shorter += 1;
                } else {
                    whole += 1;
                }
            }
        }
    }
    assert!(shorter > 20 && whole > 500, "{shorter} {whole}");
}

#[test]
fn a_damaged_memory_ends_the_reader_within_its_limits() {
    let (mut read_some, mut failed) = (0, 0);
    for (_, image) in images() {
        for seed in 0..36 {
            let one_of = [50, 1000, 20_000][seed as usize % 3];
            let damage = if seed % 2 == 0 { Damage::Bytes(one_of) } else { Damage::Words(one_of) };
            match read(&image, &Damaged { image: &image, seed, damage }, &image) {
                Ok(stacks) => {
                    assert!(stacks.len() <= 10_000);
                    assert!(stacks.iter().all(|stack| stack.frames.len() <= MAX_FRAMES));
                    read_some += 1;
                }
                Err(_) => failed += 1,
            }
        }
    }
    assert!(read_some > 20 && failed > 20, "{read_some} {failed}");
}

#[test]
fn a_list_that_is_not_found_is_asked_from_the_symbols() {
    /// Memory without the list where it is searched, in blocks; a read of one word finds it.
    struct Hidden<'a>(&'a Image);

    impl Memory for Hidden<'_> {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            self.0.read(address, into)?;
            if into.len() > 8 && (address..address + into.len() as u64).contains(&ALLGS) {
                let at = usize::try_from(ALLGS - address).unwrap();
                into[at..at + 8].fill(0);
            }
            Ok(())
        }
    }

    /// Symbols that name it.
    struct Named(Cell<u32>);

    impl Symbols for Named {
        fn named(&self, _mapping: &Mapping, name: &str) -> Option<u64> {
            assert_eq!(name, "runtime.allgs");
            self.0.set(self.0.get() + 1);
            Some(ALLGS)
        }

        fn at(&self, _mapping: &Mapping, _address: u64) -> Option<(String, u64)> {
            None
        }
    }

    /// Address of `runtime.allgs` in the program of this image, as `nm` writes it.
    const ALLGS: u64 = 0x567490;
    let images = images();
    let (_, image) = images.iter().find(|(name, _)| name == "go-waits-1.24.image").unwrap();
    let symbols = Named(Cell::new(0));
    let sound = read(image, image, &symbols).unwrap();
    assert_eq!(symbols.0.get(), 0, "what the memory has is not asked");
    assert_eq!(read(image, &Hidden(image), &symbols), Ok(sound));
    assert_eq!(symbols.0.get(), 1);
    assert!(matches!(read(image, &Hidden(image), image), Err(StackError::Unexpected(_))));
}

#[test]
fn a_version_that_is_too_new_is_an_error() {
    /// Memory with another version.
    struct Newer<'a>(&'a Image);

    impl Memory for Newer<'_> {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            self.0.read(address, into)?;
            if let Some(at) = into.windows(6).position(|window| window == b"go1.27") {
                into[at + 5] = b'8';
            }
            Ok(())
        }
    }

    let images = images();
    let (_, image) = images.iter().find(|(name, _)| name == "go-waits-1.27-stripped.image").unwrap();
    let error = read(image, &Newer(image), image).unwrap_err();
    assert!(error.to_string().starts_with("Go 1.28"), "{error}");
    assert!(error.to_string().ends_with("is not supported"), "{error}");
}
