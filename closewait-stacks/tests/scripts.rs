//! Frames of PHP and Ruby: the lines in which threads of the images wait, and damaged images, which end the readers and make them invent
//! nothing.

mod damage;
mod saved;

use std::collections::BTreeMap;

use closewait_stacks::{
    Memory, MemoryReader, ProgramKind, Stack, StackError, TargetProcess, image::Image, memory::ReadLimit,
    stack::MAX_FRAMES,
};
use damage::{Damage, Damaged};

/// Number of reads that one process may need. A sound image of the tests needs fewer than 2,000.
const MOST_READS: u32 = 20_000;

/// Returns the images of both kinds, with the kind and the name of each.
fn images() -> Vec<(ProgramKind, String, Image)> {
    let of = |kind, beginning| saved::images(beginning).into_iter().map(move |(name, image)| (kind, name, image));
    of(ProgramKind::Php, "php-").chain(of(ProgramKind::Ruby, "ruby-")).collect()
}

fn read(kind: ProgramKind, image: &Image, memory: &dyn Memory, limit: &ReadLimit) -> Result<Vec<Stack>, StackError> {
    let (mappings, threads) = (&image.mappings, &image.threads);
    kind.stacks(&TargetProcess { memory: MemoryReader::new(memory, limit), mappings, threads, symbols: image })
}

fn ample() -> ReadLimit {
    ReadLimit::new(MOST_READS, 64 << 20)
}

/// Returns a stack as text, without its first line.
fn shown(stack: &Stack) -> String {
    stack.to_string().lines().skip(1).map(|line| format!("{}\n", line.trim_start())).collect()
}

#[test]
fn scripts_of_php_wait_in_their_lines() {
    let expected = [
        ("php-lock-", "flock\nShop\\Orders\\Shelf::locked (/srv/app/waits.php:75)\n"),
        (
            "php-map-",
            "sleep\nShop\\Orders\\Shelf::waits (/srv/app/waits.php:44)\nShop\\Orders\\Shelf::reserve (/srv/app/waits.php:54)\narray_map\n",
        ),
        (
            "php-eval-",
            "sleep\nShop\\Orders\\Shelf::waits (/srv/app/waits.php:44)\nShop\\Orders\\Shelf::reserve (/srv/app/waits.php:54)\n\
             eval (/srv/app/waits.php(121) : eval()'d code:3)\n",
        ),
        (
            "php-require-",
            "sleep\nShop\\Orders\\Shelf::waits (/srv/app/waits.php:44)\nShop\\Orders\\Shelf::reserve (/srv/app/waits.php:54)\n\
             include (/srv/app/waits-included.php:3)\n",
        ),
    ];
    for (beginning, expected) in expected {
        let images = saved::images(beginning);
        assert_eq!(images.len(), 3, "{beginning}");
        for (name, image) in images {
            let stacks = read(ProgramKind::Php, &image, &image, &ample()).unwrap();
            let [stack] = &stacks[..] else { panic!("{name}: {stacks:?}") };
            assert!(shown(stack).starts_with(expected) && stack.tid.is_some(), "{name}: {stack}");
            assert!(shown(stack).ends_with("\n{main} (/srv/app/waits.php:137)\n"), "{name}: {stack}");
        }
    }
}

#[test]
fn a_worker_of_php_without_a_request_has_no_script() {
    let (_, image) = saved::images("php-fpm-").remove(0);
    let stacks = read(ProgramKind::Php, &image, &image, &ample()).unwrap();
    let [stack] = &stacks[..] else { panic!("{stacks:?}") };
    assert_eq!((stack.frames.len(), &stack.cut, stack.state.as_deref()), (0, &None, Some("no script")));
}

#[test]
fn threads_of_ruby_wait_in_their_lines() {
    let images = saved::images("ruby-waits-");
    assert_eq!(images.len(), 3);
    for (name, image) in images {
        let stacks = read(ProgramKind::Ruby, &image, &image, &ample()).unwrap();
        assert_eq!(stacks.len(), 42, "{name}");
        assert!(stacks.iter().all(|stack| stack.tid.is_some() && stack.state.is_none()), "{name}");
        for expected in [
            "synchronize\nreserve (/srv/app/waits.rb:20)\nblock in <main> (/srv/app/waits.rb:137)\n",
            "lock\nwith_lock (/srv/app/waits.rb:24)\nblock in <main> (/srv/app/waits.rb:138)\n",
            "sleep\nwait\nblock in signaled (/srv/app/waits.rb:37)\nsynchronize\nsignaled (/srv/app/waits.rb:37)\n",
            "sleep\ndeep (/srv/app/waits.rb:49)\ndeep (/srv/app/waits.rb:51)\ndeep (/srv/app/waits.rb:51)\n\
             block (2 levels) in <main> (заказы_é.rb:77)\n",
            // An instruction behind the first 54 ones.
            "sleep\nblock in long (/srv/app/waits.rb:128)\neach\nlong (/srv/app/waits.rb:128)\n",
            "accept\nblock in <main> (/srv/app/waits.rb:166)\n",
            "join\n<main> (/srv/app/waits.rb:184)\n",
        ] {
            assert!(stacks.iter().any(|stack| shown(stack).contains(expected)), "{name}: {expected}");
        }
        let cut = stacks.iter().filter_map(|stack| stack.cut.as_deref()).collect::<Vec<_>>();
        assert_eq!(cut, ["more than 128 frames"], "{name}");
    }
}

#[test]
fn unreadable_memory_makes_stacks_shorter_and_never_different() {
    let (mut shorter, mut whole) = (0, 0);
    for (kind, name, image) in images() {
        let sound = read(kind, &image, &image, &ample()).unwrap();
        let by_tid: BTreeMap<_, _> = sound.iter().map(|stack| (stack.tid, stack)).collect();
        for seed in 0..60 {
            let damage = Damage::Missing([30, 100, 300][seed as usize % 3]);
            let Ok(stacks) = read(kind, &image, &Damaged { image: &image, seed, damage }, &ample()) else { continue };
            for stack in stacks {
                // Without its number, a thread can be any.
                let one_of = by_tid.get(&stack.tid).map_or(&sound[..], |expected| std::slice::from_ref(*expected));
                let expected = one_of.iter().find(|expected| expected.frames.starts_with(&stack.frames));
                let expected = expected.unwrap_or_else(|| panic!("{name} {seed}: {stack}"));
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
fn a_damaged_memory_ends_the_readers_within_their_limits() {
    let (mut read_some, mut failed) = (0, 0);
    for (kind, _, image) in images() {
        for seed in 0..60 {
            let one_of = [20, 100, 1000, 20_000][seed as usize % 4];
            let damage = if seed % 2 == 0 { Damage::Bytes(one_of) } else { Damage::Words(one_of) };
            match read(kind, &image, &Damaged { image: &image, seed, damage }, &ample()) {
                Ok(stacks) => {
                    assert!(stacks.len() <= 2048);
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
fn a_pass_ends_at_the_limit_of_reads_with_what_it_has() {
    for (kind, name, image) in images() {
        let sound = read(kind, &image, &image, &ample()).unwrap();
        let mut found = 0;
        for reads in (0..2000).step_by(if kind == ProgramKind::Ruby { 37 } else { 1 }) {
            let Ok(stacks) = read(kind, &image, &image, &ReadLimit::new(reads, 64 << 20)) else { continue };
            assert!(stacks.len() >= found && stacks.len() <= sound.len(), "{name} {reads}");
            for (stack, expected) in stacks.iter().zip(&sound) {
                assert!(expected.frames.starts_with(&stack.frames), "{name} {reads}: {stack}");
                assert!(stack.cut.is_some() || stack.frames.len() == expected.frames.len(), "{name} {reads}: {stack}");
            }
            found = stacks.len();
        }
        assert_eq!(found, sound.len(), "{name}");
    }
}
