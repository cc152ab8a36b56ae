//! Dumps of a process, parsed, and the stacks in them.

use closewait_stacks::{
    TargetThread,
    jvm::{self, FIRST_WITH_VIRTUAL_THREADS, JvmThread, MAX_JVM_THREADS, json, text},
};

use super::{AttachError, attach::AttachAnswer, threads};
use closewait_engine::stacks::CodeStack;

/// Threads of the dumps of a process.
pub(super) struct JvmDump {
    threads: Vec<JvmThread>,
    /// Feature release of its JDK; `None` if it is unknown.
    release: Option<u32>,
    /// Maximum size of a dump, bytes.
    most: usize,
    /// Reasons why threads are missing, a sentence each.
    left_out: Vec<String>,
}

impl JvmDump {
    /// Parses the first dump, of the threads of the system. Dumps are cut at `most` bytes.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(super) fn parse(answer: &AttachAnswer, most: usize) -> Result<Self, AttachError> {
        let threads = text::parse(&answer.text).map_err(AttachError::Malformed)?;
        let release = text::release(&answer.text);
        let mut dump = Self { threads, release, most, left_out: Vec::new() };
        if answer.is_cut {
            dump.left_out.push(format!("the dump has more than {} MiB", most >> 20));
        }
        Ok(dump)
    }

    /// Whether any thread can carry virtual threads, whose stacks are in the second dump.
    pub(super) fn has_virtual_threads(&self) -> bool {
        jvm::has_virtual_threads(&self.threads)
    }

    /// Whether the machine writes the second dump.
    pub(super) fn has_second(&self) -> bool {
        self.release.is_some_and(|release| release >= FIRST_WITH_VIRTUAL_THREADS)
    }

    /// Adds the threads of the second dump, or the reason why there are none.
    pub(super) fn add_virtual<E: ToString>(&mut self, answer: Result<AttachAnswer, E>) {
        let parsed = answer.map_err(|why| why.to_string()).and_then(|file| {
            if file.is_cut {
                return Err(AttachError::TooLarge(self.most).to_string());
            }
            json::parse(&file.text).map_err(|why| AttachError::Malformed(why).to_string())
        });
        match parsed {
            Ok(more) => self.threads = jvm::merged(std::mem::take(&mut self.threads), more),
            Err(why) => self.left_out.push(format!("the virtual threads were not dumped: {why}")),
        }
    }

    /// Returns the stacks of the threads, with their numbers in this pid namespace, and the reasons why some are missing.
    pub(super) fn into_stacks(self, tasks: &[TargetThread]) -> (Vec<CodeStack>, Vec<String>) {
        let Self { threads, mut left_out, .. } = self;
        if threads.len() >= MAX_JVM_THREADS {
            left_out.push(format!("more than {MAX_JVM_THREADS} threads: the others of the dump are not shown"));
        }
        (threads::code_stacks(threads, tasks), left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn answer(name: &str) -> AttachAnswer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../closewait-stacks/tests/dumps");
        AttachAnswer { text: fs::read(folder.join(name)).unwrap(), is_cut: false }
    }

    fn dump(name: &str) -> JvmDump {
        JvmDump::parse(&answer(name), 4 << 20).unwrap()
    }

    #[test]
    fn the_second_dump_is_for_programs_that_can_have_virtual_threads() {
        for (name, expected) in [
            ("jvm-8-waits.txt", (false, false)),
            ("jvm-11-waits.txt", (false, false)),
            ("jvm-17-waits.txt", (false, false)),
            ("jvm-21-waits.txt", (false, true)),
            ("jvm-21-pinned.txt", (true, true)),
            ("jvm-25-waits.txt", (false, true)),
            ("jvm-25-pinned.txt", (true, true)),
            ("jvm-28-pinned.txt", (true, true)),
        ] {
            let dump = dump(name);
            assert_eq!((dump.has_virtual_threads(), dump.has_second()), expected, "{name}");
        }
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let mut one = dump("jvm-21-pinned.txt");
        one.add_virtual::<String>(Ok(answer("jvm-21-pinned.json")));
        assert_eq!(one.into_stacks(&[]).1, Vec::<String>::new());
        for (second, why) in [
            (Err("it is stopped".to_owned()), "it is stopped"),
            (Ok(AttachAnswer { is_cut: true, ..AttachAnswer::default() }), "they are more than 3 MiB"),
            (Ok(AttachAnswer::default()), "its answer: the dump is malformed in line 1"),
        ] {
            let mut one =
                JvmDump::parse(&AttachAnswer { is_cut: true, ..answer("jvm-21-pinned.txt") }, 3 << 20).unwrap();
            one.add_virtual(second);
            let (stacks, reasons) = one.into_stacks(&[]);
            assert!(!stacks.is_empty());
            let [cut, missing] = &reasons[..] else { panic!("{reasons:?}") };
            assert_eq!(cut, "the dump has more than 3 MiB");
            assert_eq!(*missing, format!("the virtual threads were not dumped: {why}"));
        }
    }
}
