//! Grammar of texts: a subject of one or several processes, and the words that agree with it.

use std::fmt;

use crate::model::Task;

/// Maximum number of processes that a text names; it counts the others.
const NAMED: usize = 3;

/// OwnerNames or object of a sentence: the names of processes, or `its program`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnerNames {
    /// Names, as `name[pid]`.
    text: String,
    /// Whether there are several processes.
    several: bool,
}

impl OwnerNames {
    /// Names processes: the first [`NAMED`], then the number of the others; `None` if there are none.
    pub(super) fn new(tasks: &[&Task]) -> Option<Self> {
        if tasks.is_empty() {
            return None;
        }
        let shown: Vec<_> = tasks.iter().take(NAMED).map(|task| task.to_string()).collect();
        let text = match (tasks.len() - shown.len(), shown.split_last()) {
            (0, Some((last, first @ [_, ..]))) => format!("{} and {last}", first.join(", ")),
            (0, _) => shown.join(", "),
            (more, _) => format!("{} and {more} more", shown.join(", ")),
        };
        Some(Self { text, several: tasks.len() > 1 })
    }

    /// Names one program, without its process.
    pub(super) fn program(text: &str) -> Self {
        Self { text: text.to_owned(), several: false }
    }

    /// Returns the form of a word that agrees: `one` for one process, else `several`.
    pub(super) const fn word<'t>(&self, one: &'t str, several: &'t str) -> &'t str {
        if self.several { several } else { one }
    }

    pub(super) const fn has(&self) -> &'static str {
        self.word("has", "have")
    }

    pub(super) const fn is(&self) -> &'static str {
        self.word("is", "are")
    }

    pub(super) const fn does(&self) -> &'static str {
        self.word("does", "do")
    }

    pub(super) const fn it(&self) -> &'static str {
        self.word("it", "they")
    }

    pub(super) const fn its(&self) -> &'static str {
        self.word("its", "their")
    }
}

impl fmt::Display for OwnerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::task, *};

    fn named(count: u32) -> Option<OwnerNames> {
        let tasks: Vec<_> = (1..=count).map(|pid| task(pid, "nginx")).collect();
        OwnerNames::new(&tasks.iter().collect::<Vec<_>>())
    }

    #[test]
    fn words_agree_with_the_number_of_processes() {
        let words = |subject: &OwnerNames| {
            [subject.has(), subject.is(), subject.does(), subject.it(), subject.its(), subject.word("keeps", "keep")]
        };
        let one = ["has", "is", "does", "it", "its", "keeps"];
        let several = ["have", "are", "do", "they", "their", "keep"];
        for (count, text, agreeing) in [
            (1, "nginx[1]", one),
            (2, "nginx[1] and nginx[2]", several),
            (3, "nginx[1], nginx[2] and nginx[3]", several),
            (4, "nginx[1], nginx[2], nginx[3] and 1 more", several),
            (6, "nginx[1], nginx[2], nginx[3] and 3 more", several),
        ] {
            let subject = named(count).unwrap();
            assert_eq!((subject.to_string().as_str(), words(&subject)), (text, agreeing));
        }
        assert_eq!(named(0), None);
        assert_eq!(words(&OwnerNames::program("its program")), one);
    }
}
