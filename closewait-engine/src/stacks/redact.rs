//! Labels instead of the names in stacks, except those of runtimes and of the libraries of a system.

use super::{
    connect::ConnectStacks,
    frame::{CodeFrame, CodeLanguage},
    group::StackGroup,
    origin::FrameOrigin,
    sample::ProcessStacks,
};
use crate::snapshot::redact::Redactor;

impl ProcessStacks {
    /// Replaces names of functions, files and threads.
    pub(crate) fn redact(&mut self, redactor: &mut Redactor) {
        self.groups.iter_mut().for_each(|group| group.redact(redactor));
        if !self.unread.is_empty() {
            self.unread = vec!["some stacks were not read".to_owned()];
        }
    }
}

impl ConnectStacks {
    /// Replaces names of functions and files.
    pub(crate) fn redact(&mut self, redactor: &mut Redactor) {
        self.groups.iter_mut().for_each(|group| group.redact(redactor));
    }
}

impl StackGroup {
    fn redact(&mut self, redactor: &mut Redactor) {
        let language = self.language;
        self.names.iter_mut().for_each(|name| redactor.name("thread", name));
        self.frames.iter_mut().for_each(|frame| frame.redact(language, redactor));
        if let Some(cut) = &mut self.cut {
            "outer frames are missing".clone_into(cut);
        }
        if let Some(owner) = &mut self.lock_owner {
            owner.name.iter_mut().for_each(|name| redactor.name("thread", name));
            owner.place.iter_mut().for_each(|place| place.redact(language, redactor));
            // Nothing shows the rest.
            (owner.stack.name, owner.stack.cut) = (None, None);
            owner.stack.frames.clear();
        }
    }
}

impl CodeFrame {
    fn redact(&mut self, language: CodeLanguage, redactor: &mut Redactor) {
        let is_own = self.origin(language) != FrameOrigin::Runtime;
        let Self { function, file, line: _, object } = self;
        if is_own {
            function.iter_mut().for_each(|name| redactor.name("function", name));
        }
        for path in [file, object].into_iter().flatten() {
            match path.rsplit_once('/') {
                // The folders above a library can have the name of a user.
                Some((_, name)) if !is_own => *path = name.to_owned(),
                None if !is_own => {}
                _ => redactor.name("file", path),
            }
        }
    }
}
