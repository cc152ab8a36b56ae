//! Checkpoint: the state of an engine at one time, from which another engine continues with the same findings.
//!
//! A checkpoint is the engine itself, serialized by derived code, and not a list of observations that would rebuild the
//! state. Reasons:
//!
//! - A new field of the state is in the checkpoint without further work, or it does not compile. With observations,
//!   somebody would have to remember it: incidents with their ids and courses, habits, budgets and running inspections
//!   follow from input that is long gone, so each would need an observation of its own.
//! - It is exact. The only fields that are left out follow from others ([`Engine::restored`]).
//! - It is cheap for the caller. Making one copies the tables but not the tracked sockets, whose chunks are behind
//!   shared pointers. The serialization, which takes some hundred times longer, can run on another thread.
//!
//! The price is that a checkpoint is bound to the fields of the state, unlike observations. So a reader that cannot
//! read a checkpoint of another version says so, and [`Checkpoint::VERSION`] tells fields that changed their meaning.

use serde::{Deserialize, Serialize};

use crate::Engine;

/// State of an engine at one time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checkpoint(Box<Engine>);

/// Reason why no engine can continue from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The settings are invalid.
    #[error("it has settings that no agent takes")]
    Settings,
}

impl Checkpoint {
    /// Version of the state. Raise it when a field changes its meaning, or when a new field has no `#[serde(default)]`
    /// with the previous behavior: then earlier checkpoints cannot be read.
    pub const VERSION: u32 = 3;

    /// Returns an engine that continues from here.
    ///
    /// # Errors
    ///
    /// If the checkpoint has settings that no engine takes.
    pub fn restore(self) -> Result<Engine, CheckpointError> {
        let mut engine = *self.0;
        if !engine.config.is_sound() {
            return Err(CheckpointError::Settings);
        }
        engine.restored();
        Ok(engine)
    }
}

impl Engine {
    /// Returns the state; `None` while there are outputs that the caller has not taken with [`Engine::poll_output`].
    ///
    /// The time that this takes grows with the numbers of tracked sockets and of flows.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.outputs.is_empty().then(|| Checkpoint(Box::new(self.clone())))
    }

    /// Returns a copy without outputs, which answers queries while this engine goes on.
    ///
    /// The time that this takes is that of [`Engine::checkpoint`].
    pub fn snapshot(&mut self) -> Box<Self> {
        let outputs = std::mem::take(&mut self.outputs);
        let copy = Box::new(self.clone());
        self.outputs = outputs;
        copy
    }

    /// Restores the fields that a checkpoint does not contain.
    fn restored(&mut self) {
        self.lingering.restored();
        self.host_context.restored();
    }
}

#[cfg(test)]
mod tests;
