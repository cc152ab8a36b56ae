//! Stacks of one process at one time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    carriers::{self, PinnedCarriers},
    frame::{CodeFrame, CodeStack},
    group::{StackGroup, ThreadWork, group_stacks},
    waits::CodeWait,
};
use crate::{
    process::ProcessImage,
    text::{duration, harmless_field},
    time::BootTime,
};

/// Maximum number of groups of a sample. A program whose threads all do something else has no line at which they block.
const MAX_GROUPS: usize = 32;
/// Age above which a text says how old a sample is, because it stands beside facts that are a few seconds old.
const OLD: Duration = Duration::from_secs(10);
/// Maximum number of frames of a group in a sample, from the innermost.
const MAX_FRAMES: usize = 48;

/// Stacks of the threads of a process at one time: an indication of what they do. If the next sample agrees, they do it all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStacks {
    /// The process.
    pub pid: u32,
    /// Time before the read.
    pub at: BootTime,
    /// Program that the process ran then; `None` if it is unknown.
    #[serde(default)]
    pub image: Option<ProcessImage>,
    /// Groups of equal stacks: those that are not idle first, then the larger ones.
    pub groups: Vec<StackGroup>,
    /// Number of stacks in further groups, which are not kept.
    pub ungrouped: u32,
    /// Reasons why stacks are missing, a sentence each.
    #[serde(deserialize_with = "harmless_field")]
    pub unread: Vec<String>,
}

/// Maximum number of lines at which threads wait for locks that count together, and that a text names: a deadlock has two, or three.
const MAX_LINES: usize = 3;

/// Adds up the threads of each line, and returns the lines with the most threads, at most three.
pub fn largest_lines(lines: Vec<(&CodeFrame, u32)>) -> Vec<(&CodeFrame, u32)> {
    let mut sums: Vec<(&CodeFrame, u32)> = Vec::new();
    for (line, count) in lines {
        match sums.iter_mut().find(|(known, _)| *known == line) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => sums.push((line, count)),
        }
    }
    sums.sort_by_key(|(_, sum)| u32::MAX - sum);
    sums.truncate(MAX_LINES);
    sums
}

/// Ratio above which threads that wait for another thread or a time say more than those that wait for something of their own.
const MANY_TIMES: u64 = 4;

impl ProcessStacks {
    /// Groups the stacks that an inspection read.
    pub fn new(pid: u32, at: BootTime, stacks: &[CodeStack], unread: Vec<String>) -> Self {
        let mut groups = group_stacks(stacks);
        let mut further = groups.split_off(groups.len().min(MAX_GROUPS));
        // Without it, all carriers of virtual threads would seem to be pinned.
        if let (Some(last), Some(can_run)) = (groups.last_mut(), further.iter_mut().find(|one| carriers::can_run(one)))
        {
            std::mem::swap(last, can_run);
        }
        let ungrouped = further.iter().fold(0, |sum: u32, group| sum.saturating_add(group.count));
        for group in &mut groups {
            (group.since, group.first_count) = (Some(at), Some(group.count));
            group.keep_innermost(MAX_FRAMES);
        }
        Self { pid, at, image: None, groups, ungrouped, unread }
    }

    /// Adds the program that the process ran before the read.
    #[must_use]
    pub fn of_image(self, image: Option<ProcessImage>) -> Self {
        Self { image, ..self }
    }

    /// Whether the process ran the same program at both times, as far as is known.
    pub(crate) fn is_of(&self, image: Option<ProcessImage>) -> bool {
        self.image.zip(image).is_none_or(|(one, other)| one.is_same(other))
    }

    /// Takes over since when groups are at their lines, from the sample before.
    pub fn continue_from(&mut self, before: &Self) {
        for group in &mut self.groups {
            if let Some(same) = before.groups.iter().find(|one| one.is_at_same_line(group)) {
                (group.since, group.first_count) = (same.since, same.first_count);
            }
        }
    }

    /// Whether no thread has a frame: the read had no time, or was refused.
    pub(crate) fn shows_nothing(&self) -> bool {
        self.groups.iter().all(|group| group.frames.is_empty())
    }

    /// Returns the groups of threads that are not idle: those that may explain why sockets are not closed.
    pub fn working_groups(&self) -> impl Iterator<Item = &StackGroup> {
        self.groups.iter().filter(|group| !group.is_idle())
    }

    /// Returns how old the sample is at `now`, for the end of a sentence; empty for a recent one.
    pub fn as_of(&self, now: BootTime) -> String {
        let age = now.since(self.at);
        if age > OLD { format!(", as of {} ago", duration(age)) } else { String::new() }
    }

    /// Returns the most important fact about why a program makes no progress, in a sentence; `None` if the stacks show none.
    pub fn headline(&self) -> Option<String> {
        let pinned = self.pinned_carriers().map(|pinned| pinned.headline());
        pinned.or_else(|| self.main_group().map(|main| self.headline_of(main)))
    }

    /// Returns what all threads do that wait for the same as the main group at its line. If that is a lock, further lines follow at which
    /// others wait for one: in a deadlock, each line alone says little.
    fn headline_of(&self, main: &StackGroup) -> String {
        let is_lock = main.work == ThreadWork::Waits(CodeWait::Lock);
        let is_same = |group: &&StackGroup| {
            group.work == main.work
                && (group.language, group.in_own_loop) == (main.language, main.in_own_loop)
                && (is_lock || group.place() == main.place())
        };
        let waiting = || self.groups.iter().filter(is_same);
        let lines = largest_lines(waiting().filter_map(|group| Some((group.place()?, group.count))).collect());
        let [(first, count), others @ ..] = &lines[..] else { return main.headline() };
        let largest = waiting().find(|group| group.place() == Some(*first)).unwrap_or(main);
        let text = StackGroup { count: *count, ..largest.clone() }.headline();
        others.iter().fold(text, |text, (line, count)| format!("{text}, {count} in {line}"))
    }

    /// Returns the carriers of virtual threads, if all of them are pinned; `None` otherwise.
    pub fn pinned_carriers(&self) -> Option<PinnedCarriers> {
        PinnedCarriers::of(&self.groups, self.ungrouped > 0)
    }

    /// Returns the number of frames, for limits. A frame with long names counts as several.
    pub(crate) fn frames(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.frames).map(CodeFrame::weight).sum()
    }

    /// Returns the group that says most about why a program makes no progress: of those that wait in the application's code, the largest
    /// that waits for something of its own, or else the largest that waits for another thread or a time, also if it is many times larger; workers that a queue may have no
    /// work for are the last choice.
    pub fn main_group(&self) -> Option<&StackGroup> {
        let weight = |group: &StackGroup| match group.work {
            ThreadWork::Waits(CodeWait::Events | CodeWait::Accept) | ThreadWork::Idle(_) | ThreadWork::Unknown => None,
            // The first task of a program often waits for its end.
            ThreadWork::Waits(CodeWait::Signal | CodeWait::Sleep) if group.count == 1 && group.are_tasks() => None,
            ThreadWork::Waits(_) if group.in_own_loop => Some((0, group.count)),
            ThreadWork::Waits(CodeWait::Signal | CodeWait::Sleep) => Some((1, group.count)),
            ThreadWork::Waits(_) => Some((2, group.count)),
        };
        let of_application = || self.groups.iter().rev().filter(|group| group.place.is_some());
        let weighed = || of_application().filter_map(|group| Some((weight(group)?, group)));
        let largest = |kind: u8| weighed().filter(|((of, _), _)| *of == kind).max_by_key(|((_, count), _)| *count);
        let largest = |kind| largest(kind).map(|(_, group)| group);
        let is_many = |one: &StackGroup, other: &StackGroup| u64::from(one.count) > u64::from(other.count) * MANY_TIMES;
        let sleeps = |group: &StackGroup| group.work == ThreadWork::Waits(CodeWait::Sleep);
        let chosen = match (largest(2), largest(1)) {
            // One thread that reads from a client says nothing about many that wait elsewhere.
            (Some(own), Some(others)) if is_many(others, own) => Some(others),
            (own, others) => own.or(others),
        };
        match (chosen, largest(0)) {
            // Nor does one that sleeps, as a timer of the program does.
            (Some(sleeper), Some(workers)) if sleeps(sleeper) && is_many(workers, sleeper) => Some(workers),
            (chosen, workers) => chosen.or(workers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::python_stack as stack;

    const WAIT: (&str, &str, u32) = ("Condition.wait", "/usr/lib/python3.11/threading.py", 320);
    const POLL: (&str, &str, u32) = ("EpollSelector.select", "/usr/lib/python3.11/selectors.py", 468);

    fn second(n: u64) -> BootTime {
        BootTime(0) + Duration::from_secs(n)
    }

    #[test]
    fn only_an_old_sample_has_its_age_in_texts() {
        let stacks = [stack(1, &[WAIT, ("reserve", "/srv/orders.py", 5)])];
        let sample = ProcessStacks::new(7, second(10), &stacks, Vec::new());
        let process = crate::testing::process("orders", 7, None);
        let text = |n| process.activity_beside(Some(&sample), second(n)).unwrap();
        assert!(text(20).ends_with("in reserve (orders.py:5)"), "{}", text(20));
        assert_eq!(text(90), text(20) + ", as of 1m20s ago");
    }

    #[test]
    fn threads_that_are_still_at_a_line_are_there_since_the_first_sample() {
        let at = |n, tid, line| {
            ProcessStacks::new(7, second(n), &[stack(tid, &[WAIT, ("reserve", "/srv/orders.py", line)])], Vec::new())
        };
        let since = |first: &ProcessStacks, mut next: ProcessStacks| {
            next.continue_from(first);
            next.groups[0].since
        };
        let first = at(10, 1, 5);
        assert_eq!(since(&first, at(70, 1, 5)), Some(second(10)));
        assert_eq!(since(&first, at(70, 1, 6)), Some(second(70)), "another line");
        assert_eq!(since(&first, at(70, 2, 5)), Some(second(70)), "another thread");
    }

    #[test]
    fn the_main_group_waits_in_the_application_for_something_that_can_end() {
        let main = |lines: &[&[(&str, &str, u32)]]| {
            let stacks: Vec<_> = lines.iter().zip(1..).map(|(lines, tid)| stack(tid, lines)).collect();
            let sample = ProcessStacks::new(7, second(0), &stacks, Vec::new());
            sample.main_group().map(StackGroup::headline)
        };
        let (looped, reserve) = (("run", "/srv/loop.py", 3), ("reserve", "/srv/orders.py", 5));
        assert_eq!(main(&[&[POLL, looped], &[POLL, looped]]), None, "an event loop");
        let expected = Some("1 thread waits for another thread in reserve (orders.py:5)".to_owned());
        assert_eq!(main(&[&[POLL, looped], &[POLL, looped], &[WAIT, reserve]]), expected);
        // Two workers that a queue has no work for, and one that works.
        let (queued, locked) = (("work", "/srv/pool.py", 9), ("__enter__", "/usr/lib/python3.11/threading.py", 270));
        let expected = Some("1 thread waits for a lock in reserve (orders.py:5)".to_owned());
        assert_eq!(main(&[&[WAIT, queued], &[WAIT, queued], &[locked, reserve]]), expected);
    }

    #[test]
    fn threads_that_came_to_a_line_in_different_ways_count_together() {
        let hit = ("hit", "/srv/hits.py", 27);
        let callers = [("first", "/srv/hits.py", 9), ("second", "/srv/hits.py", 12)];
        let stacks: Vec<_> =
            callers.into_iter().zip(1..).map(|(caller, tid)| stack(tid, &[WAIT, hit, caller])).collect();
        let sample = ProcessStacks::new(7, second(0), &stacks, Vec::new());
        assert_eq!(sample.headline().as_deref(), Some("2 threads wait for another thread in hit (hits.py:27)"));
    }

    #[test]
    fn many_threads_at_one_line_say_more_than_one_that_reads() {
        let put = [("Queue.put", "/usr/lib/python3.11/queue.py", 140), ("enqueue", "/srv/ingest.py", 13)];
        let read = [("readinto", "/usr/lib/python3.11/socket.py", 705), ("reader", "/srv/ingest.py", 40)];
        let wait = [WAIT, ("result", "/srv/ingest.py", 22), ("handle", "/srv/ingest.py", 60)];
        let headline = |many: &[_], count: u32| {
            let mut stacks: Vec<_> = (1..=count).map(|tid| stack(tid, many)).collect();
            stacks.push(stack(99, &read));
            ProcessStacks::new(7, second(0), &stacks, Vec::new()).headline().unwrap()
        };
        assert_eq!(headline(&put, 2), "2 threads wait for room in a queue in enqueue (ingest.py:13)");
        assert_eq!(headline(&wait, 5), "5 threads wait for another thread in result (ingest.py:22)");
        assert_eq!(headline(&wait, 4), "1 thread waits for data from a connection in reader (ingest.py:40)");
    }

    #[test]
    fn many_workers_say_more_than_one_thread_that_sleeps() {
        let pause = ("sleep", "/usr/lib/python3.11/asyncio/tasks.py", 665);
        let (timer, queued) = (("flush", "/srv/timer.py", 9), ("handle", "/srv/pool.py", 9));
        let headline = |workers: u32| {
            let mut stacks: Vec<_> = (1..=workers).map(|tid| stack(tid, &[WAIT, queued])).collect();
            stacks.push(stack(99, &[pause, timer]));
            ProcessStacks::new(7, second(0), &stacks, Vec::new()).headline().unwrap()
        };
        assert_eq!(headline(5), "5 threads wait for another thread in handle (pool.py:9)");
        assert_eq!(headline(4), "1 thread waits for a period of time in flush (timer.py:9)");
    }

    #[test]
    fn the_lines_of_a_deadlock_are_named_together() {
        let locked = ("__enter__", "/usr/lib/python3.11/threading.py", 270);
        let (reserve, release) = (("reserve", "/srv/orders.py", 5), ("release", "/srv/orders.py", 8));
        let began = ("Thread.run", "/usr/lib/python3.11/threading.py", 982);
        let lines: [&[_]; 4] =
            [&[locked, reserve], &[locked, reserve, began], &[locked, release], &[WAIT, ("work", "/srv/pool.py", 9)]];
        let stacks: Vec<_> = lines.iter().zip(1..).map(|(lines, tid)| stack(tid, lines)).collect();
        let sample = ProcessStacks::new(7, second(0), &stacks, Vec::new());
        let expected = "2 threads wait for a lock in reserve (orders.py:5), 1 in release (orders.py:8)";
        assert_eq!(sample.headline().as_deref(), Some(expected));
    }

    #[test]
    fn the_number_of_threads_at_a_line_is_kept_from_the_first_sample() {
        let at = |n, threads: u32| {
            let stacks: Vec<_> = (1..=threads).map(|tid| stack(tid, &[WAIT, ("work", "/srv/pool.py", 9)])).collect();
            ProcessStacks::new(7, second(n), &stacks, Vec::new())
        };
        let (first, mut next) = (at(10, 3), at(70, 8));
        next.continue_from(&first);
        assert_eq!((next.groups[0].first_count, next.groups[0].count), (Some(3), 8));
        let recorded = serde_json::to_string(&next.groups[0]).unwrap();
        assert_eq!(serde_json::from_str::<StackGroup>(&recorded).unwrap(), next.groups[0]);
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let lines: Vec<_> = (0..100).map(|line| stack(line, &[WAIT, ("reserve", "/srv/orders.py", line)])).collect();
        let sample = ProcessStacks::new(7, second(0), &lines, Vec::new());
        let kept: u32 = sample.groups.iter().map(|group| group.count).sum();
        assert_eq!((sample.groups.len(), sample.ungrouped, kept + sample.ungrouped), (32, 68, 100));
        let deep = vec![("walk", "/srv/tree.py", 9); 500];
        let sample = ProcessStacks::new(7, second(0), &[stack(1, &deep)], Vec::new());
        assert_eq!(sample.frames(), MAX_FRAMES);
        assert_eq!(sample.groups[0].cut.as_deref(), Some("only the innermost frames are kept"));
        let path = "/srv".repeat(1000);
        let long = vec![("walk", path.as_str(), 9); 500];
        let sample = ProcessStacks::new(7, second(0), &[stack(1, &long)], Vec::new());
        assert_eq!(sample.frames(), 16 * MAX_FRAMES, "4,004 bytes");
    }
}
