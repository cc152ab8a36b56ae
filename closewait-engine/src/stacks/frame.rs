//! Frames and stacks, as the agent reads them.

use serde::{Deserialize, Serialize};

use super::{scripts, short_name::short_name};
use crate::text::harmless_field;

/// Kind of code that a stack shows. A stack of Python, PHP or Ruby can begin with frames of machine code: the function of the interpreter
/// that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CodeLanguage {
    /// Go: goroutines.
    Go,
    /// Python: the interpreter's frames.
    Python,
    /// Machine code.
    Native,
    /// Java and other languages of a Java virtual machine.
    Jvm,
    /// PHP.
    Php,
    /// Ruby.
    Ruby,
}

/// Call of a function that has not returned.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeFrame {
    /// Name of the function; `None` if it is unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub function: Option<String>,
    /// Source file, as the program names it.
    #[serde(deserialize_with = "harmless_field")]
    pub file: Option<String>,
    /// Line in the source file, from 1.
    pub line: Option<u32>,
    /// Path of the executable or library that has the function; `None` for interpreted code.
    #[serde(deserialize_with = "harmless_field")]
    pub object: Option<String>,
}

/// State of a task of Python that waits for its event loop to continue it. No thread has it.
pub const TASK_STATE: &str = "waiting";

/// Stack of a thread, of a goroutine, or of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeStack {
    /// Kind of code.
    pub language: CodeLanguage,
    /// Thread, in the agent's pid namespace; `None` for a goroutine that no thread runs.
    pub tid: Option<u32>,
    /// Name that the runtime has for the thread or task; `None` where no reader knows one.
    #[serde(deserialize_with = "harmless_field")]
    pub name: Option<String>,
    /// State in the words of the runtime: `IO wait`, `sync.Mutex.Lock`; [`TASK_STATE`] of a task.
    #[serde(deserialize_with = "harmless_field")]
    pub state: Option<String>,
    /// Position, in the list of stacks, of the thread that owns the lock that this one waits for; `None` if the runtime does not say it.
    pub lock_owner: Option<u32>,
    /// Frames, innermost first.
    pub frames: Vec<CodeFrame>,
    /// Reason why outer frames are missing; `None` if all are there.
    #[serde(deserialize_with = "harmless_field")]
    pub cut: Option<String>,
}

impl CodeLanguage {
    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Python => "python",
            Self::Native => "native",
            Self::Jvm => "jvm",
            Self::Php => "php",
            Self::Ruby => "ruby",
        }
    }
}

/// Whether a stack is that of a task of Python, by its state.
pub(super) fn is_task(language: CodeLanguage, state: Option<&str>) -> bool {
    language == CodeLanguage::Python && state == Some(TASK_STATE)
}

impl CodeFrame {
    /// Returns the number of usual frames whose names take as much memory, at least 1.
    pub(super) fn weight(&self) -> usize {
        /// Number of bytes of the names of a large usual frame.
        const USUAL: usize = 256;
        let names = [&self.function, &self.file, &self.object].into_iter().flatten();
        1 + names.map(String::len).sum::<usize>() / USUAL
    }

    /// Returns the last part of the source file's path.
    pub fn file_name(&self) -> Option<&str> {
        self.file.as_deref()?.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// Returns the kind of code of a frame in a stack of `language`.
    pub(super) const fn language(&self, language: CodeLanguage) -> CodeLanguage {
        match language {
            CodeLanguage::Python | CodeLanguage::Php | CodeLanguage::Ruby if self.object.is_some() => {
                CodeLanguage::Native
            }
            CodeLanguage::Go
            | CodeLanguage::Python
            | CodeLanguage::Native
            | CodeLanguage::Jvm
            | CodeLanguage::Php
            | CodeLanguage::Ruby => language,
        }
    }

    /// Returns the name of the function as the tables have it: with its file in Python, whose names are not unique, and by the last part
    /// of a qualified name (`threading.py:wait` of `Condition.wait`); without its version in machine code (`sem_wait@@GLIBC_2.34`).
    pub(super) fn table_name(&self, language: CodeLanguage) -> Option<String> {
        let function = self.function.as_deref()?;
        Some(match self.language(language) {
            CodeLanguage::Go | CodeLanguage::Jvm => function.to_owned(),
            CodeLanguage::Python => {
                format!("{}:{}", self.file_name()?, function.rsplit('.').next().unwrap_or(function))
            }
            CodeLanguage::Php | CodeLanguage::Ruby => scripts::table_name(self, function),
            CodeLanguage::Native => function.split('@').next().unwrap_or(function).to_owned(),
        })
    }
}

impl std::fmt::Display for CodeFrame {
    /// Writes `reserve (orders.py:7)`; without a file, the name of the object instead. A long name is shortened.
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.function.as_deref().unwrap_or("unknown function");
        // Functions of V8 that JavaScript calls: its own have no names in memory.
        to.write_str(&if name.starts_with("Builtins_") { "JavaScript".into() } else { short_name(name) })?;
        let object = self.object.as_deref().and_then(|path| path.rsplit('/').next());
        match (self.file_name(), self.line, object) {
            (Some(file), Some(line), _) => write!(to, " ({file}:{line})"),
            (Some(file), None, _) => write!(to, " ({file})"),
            (None, _, Some(object)) => write!(to, " ({object})"),
            (None, _, None) => Ok(()),
        }
    }
}
