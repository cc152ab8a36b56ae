//! Stacks of a program in its `connect(2)`: the code that opens the connections of a group.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{
    frame::{CodeFrame, CodeLanguage, CodeStack},
    group::{StackGroup, group},
    origin::FrameOrigin,
};
use crate::{model::Endpoint, time::BootTime};

/// Maximum number of different stacks of a group of connections.
const MAX_STACKS: usize = 4;
/// Maximum number of frames of a stack, from the innermost. A frame with long names counts as several.
const MAX_FRAMES: usize = 48;
/// Number of callers that the text names.
const CALLERS: usize = 2;

/// Connections that a watched process has opened to a remote port since the previous inspection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSamples {
    /// The process.
    pub pid: u32,
    /// Remote port.
    pub port: u16,
    /// Number of connections, sampled or not.
    pub connects: u64,
    /// Samples whose stacks could be read, oldest first.
    pub samples: Vec<ConnectSample>,
}

/// Stack of a thread or goroutine in its `connect(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSample {
    /// Time of the call.
    pub at: BootTime,
    /// Inode of the socket's network namespace.
    pub netns: Option<u32>,
    /// Remote endpoint.
    pub remote: Endpoint,
    /// Stack.
    pub stack: CodeStack,
}

/// Stacks in which a process opened connections to the remote endpoint of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectStacks {
    /// Groups of equal stacks, the most frequent first, four at most. They count connections, not threads.
    pub groups: Vec<StackGroup>,
    /// Number of sampled connections with other stacks.
    pub others: u32,
    /// Number of connections, sampled or not, that the process has opened to the remote port while it was watched.
    pub connects: u64,
}

impl ConnectStacks {
    /// Adds a sampled connection.
    pub(crate) fn add(&mut self, stack: &CodeStack) {
        let mut new = group(stack);
        let weights = new.frames.iter().scan(0, |sum, frame| {
            *sum += frame.weight();
            Some(*sum)
        });
        let kept = weights.take_while(|sum| *sum <= MAX_FRAMES).count();
        new.keep_innermost(kept);
        let is_same = |one: &StackGroup| (one.language, &one.frames, &one.cut) == (new.language, &new.frames, &new.cut);
        let same = self.groups.iter().position(is_same);
        if let Some(same) = same.and_then(|at| self.groups.get_mut(at)) {
            same.count = same.count.saturating_add(1);
        } else if self.groups.len() < MAX_STACKS {
            self.groups.push(StackGroup { count: 1, ..new });
        } else {
            self.others = self.others.saturating_add(1);
        }
        self.groups.sort_by_key(|group| Reverse(group.count));
    }

    /// Returns the number of sampled connections.
    pub fn sampled(&self) -> u32 {
        self.groups.iter().fold(self.others, |sum, group| sum.saturating_add(group.count))
    }

    /// Returns the line that opens most connections, and its callers:
    /// `main.dial (client.go:31) < main.fetch (client.go:12): 5 of 5 sampled connections`. `None` if no stack names a function.
    pub fn text(&self) -> Option<String> {
        let lines = || self.groups.iter().filter_map(|group| Some((group, frames_from_line(group)?)));
        let count = |line: &CodeFrame| {
            let same = lines().filter(|(_, frames)| frames.first() == Some(line));
            same.fold(0_u32, |sum, (group, _)| sum.saturating_add(group.count))
        };
        // Of lines that are equally frequent, the first one.
        let best = lines().rev().max_by_key(|(_, frames)| frames.first().map(count));
        let (_, frames) = best?;
        let line = frames.first()?;
        let callers = frames.iter().skip(1).filter(|frame| frame.function.is_some()).take(CALLERS);
        let names: Vec<String> = [line].into_iter().chain(callers).map(ToString::to_string).collect();
        Some(format!("{}: {} of {} sampled connections", names.join(" < "), count(line), self.sampled()))
    }
}

/// Returns the frames of a stack from the line to show on: that of the application, or else that of a library, or else the outermost
/// one of Go, whose standard library connects on goroutines of its own.
fn frames_from_line(group: &StackGroup) -> Option<&[CodeFrame]> {
    let is_named = |frame: &CodeFrame| frame.function.is_some();
    let of_library = || {
        let is_library = |frame: &CodeFrame| frame.origin(group.language) == FrameOrigin::Library && is_named(frame);
        group.frames.iter().position(is_library)
    };
    let of_go = || {
        let is_outermost =
            |frame: &CodeFrame| frame.function.as_deref().is_some_and(|name| !name.starts_with("runtime."));
        group.frames.iter().rposition(is_outermost).filter(|_| group.language == CodeLanguage::Go)
    };
    let at = group.place.or_else(of_library).or_else(of_go)?;
    let end = group.frames.iter().rposition(|frame| frame.function.as_deref() != Some("runtime.goexit"))?;
    group.frames.get(at..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(functions: &[(&str, &str, u32)]) -> CodeStack {
        let frame = |(function, file, line): &(&str, &str, u32)| CodeFrame {
            function: Some((*function).to_owned()),
            file: Some((*file).to_owned()),
            line: Some(*line),
            object: Some("/srv/client".to_owned()),
        };
        CodeStack {
            language: CodeLanguage::Go,
            tid: Some(7),
            name: None,
            state: None,
            lock_owner: None,
            frames: functions.iter().map(frame).collect(),
            cut: None,
        }
    }

    const CONNECT: (&str, &str, u32) = ("syscall.connect", "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", 1478);
    const DIAL: (&str, &str, u32) = ("net.Dial", "/usr/local/go/src/net/dial.go", 319);
    const EXIT: (&str, &str, u32) = ("runtime.goexit", "/usr/local/go/src/runtime/asm_amd64.s", 1594);

    fn of(stacks: &[CodeStack]) -> ConnectStacks {
        let mut all = ConnectStacks::default();
        stacks.iter().for_each(|stack| all.add(stack));
        all
    }

    #[test]
    fn equal_lines_are_counted_together_and_callers_are_named() {
        let fetch = ("main.fetch", "/srv/client.go", 31);
        let from = |line| go(&[CONNECT, DIAL, fetch, ("main.main", "/srv/client.go", line), EXIT]);
        let other = go(&[CONNECT, DIAL, ("main.probe", "/srv/client.go", 90), EXIT]);
        let all = of(&[other.clone(), from(12), from(13), from(12), from(12), other]);
        assert_eq!(all.groups.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 2, 1]);
        let expected = "main.fetch (client.go:31) < main.main (client.go:12): 4 of 6 sampled connections";
        assert_eq!(all.text().as_deref(), Some(expected));
    }

    #[test]
    fn without_a_frame_of_the_application_the_outermost_one_of_go_is_named() {
        let transport = ("net/http.(*Transport).dialConnFor", "/usr/local/go/src/net/http/transport.go", 1467);
        let all = of(&[go(&[CONNECT, DIAL, transport, EXIT])]);
        let expected = "net/http.(*Transport).dialConnFor (transport.go:1467): 1 of 1 sampled connections";
        assert_eq!(all.text().as_deref(), Some(expected));
        assert_eq!(of(&[go(&[])]).text(), None);
    }

    #[test]
    fn stacks_over_the_limits_are_counted_and_cut() {
        let many: Vec<_> =
            (0..MAX_STACKS as u32 + 3).map(|line| go(&[CONNECT, ("main.f", "/srv/a.go", line + 1)])).collect();
        let all = of(&many);
        assert_eq!((all.groups.len(), all.others, all.sampled()), (MAX_STACKS, 3, MAX_STACKS as u32 + 3));
        let path = "/srv".repeat(1000);
        let long = of(&[go(&[("main.f", path.as_str(), 1); 30])]);
        assert_eq!(long.groups[0].frames.len(), 3, "16 usual frames each");
        assert_eq!(long.groups[0].cut.as_deref(), Some("only the innermost frames are kept"));
    }
}
