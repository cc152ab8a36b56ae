//! Kinds of programs that have a reader.

use super::{
    go, native, php,
    process::TargetProcess,
    python, ruby,
    stack::{Stack, StackError},
};

/// Kind of program, with a reader of its stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// See [`go`].
    Go,
    /// See [`python`].
    Python,
    /// See [`php`].
    Php,
    /// See [`ruby`].
    Ruby,
    /// See [`native`].
    Native,
}

impl ProgramKind {
    /// Returns the kind with a name: `go`, `python`, `php`, `ruby` or `native`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "go" => Self::Go,
            "python" => Self::Python,
            "php" => Self::Php,
            "ruby" => Self::Ruby,
            "native" => Self::Native,
            _ => return None,
        })
    }

    /// Reads the stacks of a process with the reader of this kind.
    ///
    /// # Errors
    ///
    /// See the reader.
    pub fn stacks(self, process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
        match self {
            Self::Go => go::stacks(process),
            Self::Python => python::stacks(process),
            Self::Php => php::stacks(process),
            Self::Ruby => ruby::stacks(process),
            Self::Native => native::stacks(process),
        }
    }
}
