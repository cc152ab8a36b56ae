//! Labels instead of the names in stacks, except those of runtimes and of the libraries of a system.

use super::{
    connect::ConnectStacks,
    frame::CodeFrame,
    group::StackGroup,
    origin::{FrameOrigin, within_c_library},
    sample::ProcessStacks,
};
use crate::snapshot::redact::Redactor;

impl ProcessStacks {
    /// Replaces names of functions, files and threads.
    pub(crate) fn redact(&mut self, redactor: &mut Redactor) {
        redactor.stacks(&mut self.groups, &mut self.unread);
    }
}

impl Redactor {
    /// Replaces names of functions, files and threads in groups of stacks, and the reasons why others are missing.
    pub fn stacks(&mut self, groups: &mut [StackGroup], unread: &mut Vec<String>) {
        groups.iter_mut().for_each(|group| group.redact(self));
        if !unread.is_empty() {
            *unread = vec!["some stacks were not read".to_owned()];
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
        let own = within_c_library(&self.frames, language);
        for (at, frame) in self.frames.iter_mut().enumerate() {
            let is_own = own.contains(&at) && frame.origin(language) != FrameOrigin::Runtime;
            frame.redact(is_own, redactor);
        }
        if let Some(cut) = &mut self.cut {
            "outer frames are missing".clone_into(cut);
        }
        if let Some(owner) = &mut self.lock_owner {
            owner.name.iter_mut().for_each(|name| redactor.name("thread", name));
            if let Some(place) = &mut owner.place {
                place.redact(place.origin(language) != FrameOrigin::Runtime, redactor);
            }
            // Nothing shows the rest.
            (owner.stack.name, owner.stack.cut) = (None, None);
            owner.stack.frames.clear();
        }
    }
}

impl CodeFrame {
    /// Replaces the names of a frame; `is_own` is whether its function is not of the runtime.
    fn redact(&mut self, is_own: bool, redactor: &mut Redactor) {
        let Self { function, file, line: _, object } = self;
        if is_own {
            function.iter_mut().for_each(|name| redactor.name("function", name));
        }
        // An executable has functions of its runtime, too: those of Go, and all of a static one.
        let is_own_object = is_own || object.as_deref().is_some_and(|object| !is_of_runtime(object));
        for (path, is_own) in [(file, is_own), (object, is_own_object)] {
            let Some(path) = path else { continue };
            match path.rsplit_once('/') {
                // The folders above a library can have the name of a user.
                Some((_, name)) if !is_own => *path = name.to_owned(),
                None if !is_own => {}
                _ => redactor.name("file", path),
            }
        }
    }
}

/// Whether an object of a runtime's frame is a library, a mapping of the kernel's, or a known interpreter, and not the program's executable.
fn is_of_runtime(object: &str) -> bool {
    const INTERPRETERS: [&str; 4] = ["python", "php", "ruby", "node"];
    let name = object.rsplit('/').next().unwrap_or(object);
    name.contains(".so") || name.starts_with('[') || INTERPRETERS.iter().any(|known| name.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::frame::CodeLanguage;

    #[test]
    fn the_executable_has_a_label_in_frames_of_its_runtime_too() {
        let redacted = |function: &str, object: &str| {
            let (function, object) = (Some(function.to_owned()), Some(object.to_owned()));
            let mut frame = CodeFrame { function, object, ..CodeFrame::default() };
            frame.redact(frame.origin(CodeLanguage::Native) != FrameOrigin::Runtime, &mut Redactor::default());
            (frame.function.unwrap_or_default(), frame.object.unwrap_or_default())
        };
        let (function, object) = redacted("__pthread_mutex_lock", "/srv/acme-secretd");
        assert_eq!((function.as_str(), object.as_str()), ("__pthread_mutex_lock", "file-1"));
        assert_eq!(redacted("read", "/usr/lib/x86_64-linux-gnu/libc.so.6").1, "libc.so.6");
        assert_eq!(redacted("node::SpinEventLoopInternal", "/usr/bin/node").1, "node");
        assert_eq!(redacted("serve", "/srv/acme-secretd"), ("function-1".to_owned(), "file-1".to_owned()));
    }
}
