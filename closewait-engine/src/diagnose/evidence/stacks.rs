//! Work of the threads of a group's owners, as their stacks show it.

use std::time::Duration;

use crate::{
    stacks::{CodeFrame, CodeWait, EVENTS, HiddenTasks, ProcessStacks, StackGroup, ThreadWork, largest_lines},
    text::count,
    time::BootTime,
};

/// Minimum time between the first and the last sample in which threads are at one line, for evidence that they are blocked there. One
/// sample is an indication.
pub(crate) const STEADY: Duration = Duration::from_secs(30);

/// Threads or goroutines of all owners of a group, by what their stacks show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackEvidence {
    /// Number of stacks.
    pub threads: u32,
    /// Number of threads that wait for work: in an idle pool or in `accept`.
    pub idle: u32,
    /// Number of threads that have waited for a connection of a pool in two samples at least 30 s apart.
    pub pool: u32,
    /// Number of threads that have waited for a lock, or for room in a queue, at one line of the application in two such samples: the line
    /// with the most of them.
    pub at_line: u32,
    /// Number of threads that have waited for locks at up to three such lines of one process.
    pub at_lines: u32,
    /// Number of these lines.
    pub lines: u32,
    /// Whether most of the threads at the first of them wait for room in a queue.
    pub for_room: bool,
    /// Number of threads that have waited for another one in two such samples: for a lock, room in a queue, a connection of a pool, a signal
    /// or its end.
    pub inside: u32,
    /// Number of threads that wait so in the last sample, but not yet in two such samples.
    pub inside_once: u32,
    /// Number of threads that may work, or wait for a time, a process or a file: these can continue without another thread, and wake it.
    pub active: u32,
    /// Number of threads that wait for a connection: for data, room, or its start.
    pub networked: u32,
    /// Number of threads that wait for work or for a result in the function that they began with.
    pub in_loops: u32,
    /// Meaning of most of these; `None` without such threads.
    pub loops: Option<OwnLoops>,
    /// Number of virtual threads that cannot run, because all carriers have waited for a lock at one line in two such samples.
    pub stopped: u32,
    /// Number of tasks of event loops.
    pub tasks: u32,
    /// Number of tasks that have waited for another task or a result, at one line of the application in two such samples: the line with the
    /// most of them.
    pub awaiting: u32,
    /// Kind of tasks that a thread runs, if their own stacks cannot be read.
    pub hidden_tasks: Option<HiddenTasks>,
    /// Whether some stacks were not read, or show nothing.
    pub unknown: bool,
    /// Whether all stacks were read, and show what each thread does. An event loop's do not: it can serve connections without tasks, and
    /// only tasks of asyncio are read.
    pub complete: bool,
}

/// Meaning of threads that wait in the function that they began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLoops {
    /// Workers without work: there are too few of them for the sockets, or their number has not risen with that of the sockets.
    Workers,
    /// Handlers, one for each socket: their number has risen with that of the sockets.
    Handlers,
    /// As many as sockets, by chance or because they are handlers: neither number has risen.
    AsMany,
    /// Nothing shows which.
    Undecided,
}

impl OwnLoops {
    /// Returns the meaning of `threads` that wait at one line, of which there were `first` when they were first seen there. `then` and `now`
    /// are the numbers of sockets at these two times.
    fn of(first: u32, threads: u32, then: u32, now: u32) -> Self {
        let more = u64::from(now.saturating_sub(then));
        let rise = u64::from(threads.saturating_sub(first)) * 10;
        if more >= 2.max(u64::from(now) / 3) && rise >= more * 7 {
            Self::Handlers
        } else if more >= 2.max(u64::from(now) / 3) && rise <= more * 3 || u64::from(now) > u64::from(threads) * 2 {
            Self::Workers
        } else if now >= 3 && (now..=now.saturating_add(1)).contains(&threads) {
            // One client may still wait.
            Self::AsMany
        } else {
            Self::Undecided
        }
    }
}

impl StackEvidence {
    /// Counts the stacks of all owners, `None` for one that was not read. `sockets_at` returns the number of the group's sockets at a time.
    /// Returns `None` if no stack was read.
    pub(crate) fn of<'s>(
        owners: impl Iterator<Item = Option<&'s ProcessStacks>>,
        sockets_at: &dyn Fn(BootTime) -> u32,
    ) -> Option<Self> {
        let mut evidence = Self { complete: true, ..Self::default() };
        let mut most = 0;
        for owner in owners {
            let Some(stacks) = owner else {
                (evidence.complete, evidence.unknown) = (false, true);
                continue;
            };
            evidence.add(stacks);
            let is_loop = |group: &&StackGroup| group.in_own_loop || waits_for_turn(group, &stacks.groups);
            let loops = stacks.groups.iter().filter(is_loop);
            if let Some(group) = loops.max_by_key(|group| group.count).filter(|group| group.count > most) {
                most = group.count;
                let (first, since) = (group.first_count.unwrap_or(group.count), group.since.unwrap_or(stacks.at));
                evidence.loops = Some(OwnLoops::of(first, group.count, sockets_at(since), sockets_at(stacks.at)));
            }
        }
        (evidence.threads > 0).then_some(evidence)
    }

    fn add(&mut self, stacks: &ProcessStacks) {
        let (mut lines, mut results): (Vec<(&CodeFrame, u32)>, Vec<_>) = (Vec::new(), Vec::new());
        let (mut locked, mut full) = (0, 0);
        let is_known = |group: &StackGroup| !matches!(group.work, ThreadWork::Unknown) && !runs_tasks(group.work);
        let is_unknown = |group: &StackGroup| matches!(group.work, ThreadWork::Unknown);
        self.unknown |= stacks.ungrouped > 0 || !stacks.unread.is_empty() || stacks.groups.iter().any(is_unknown);
        self.complete &= stacks.ungrouped == 0 && stacks.unread.is_empty() && stacks.groups.iter().all(is_known);
        let is_steady = |since: Option<BootTime>| since.is_some_and(|since| stacks.at.since(since) >= STEADY);
        if let Some(pinned) = stacks.pinned_carriers()
            && pinned.work == ThreadWork::Waits(CodeWait::Lock)
            && is_steady(pinned.since)
        {
            self.stopped = self.stopped.saturating_add(pinned.unmounted);
        }
        for group in &stacks.groups {
            let is_steady = is_steady(group.since);
            self.threads = self.threads.saturating_add(group.count);
            if group.are_tasks() {
                self.tasks = self.tasks.saturating_add(group.count);
                if group.work == ThreadWork::Waits(CodeWait::Signal) && is_steady {
                    results.extend(group.place().map(|place| (place, group.count)));
                }
            }
            if group.in_own_loop || waits_for_turn(group, &stacks.groups) {
                self.in_loops = self.in_loops.saturating_add(group.count);
                continue;
            }
            self.count_progress(group, is_steady);
            match group.work {
                work if runs_tasks(work) => self.hidden_tasks = self.hidden_tasks.or(group.hidden_tasks()),
                ThreadWork::Idle(_) | ThreadWork::Waits(CodeWait::Accept) => {
                    self.idle = self.idle.saturating_add(group.count);
                }
                ThreadWork::Waits(CodeWait::Pool) if is_steady => self.pool = self.pool.saturating_add(group.count),
                ThreadWork::Waits(CodeWait::Lock | CodeWait::Room) if is_steady && group.place.is_some() => {
                    lines.extend(group.place().map(|place| (place, group.count)));
                    let waiting = if group.work == ThreadWork::Waits(CodeWait::Room) { &mut full } else { &mut locked };
                    *waiting = group.count.max(*waiting);
                }
                ThreadWork::Waits(
                    CodeWait::Pool
                    | CodeWait::Lock
                    | CodeWait::Room
                    | CodeWait::Signal
                    | CodeWait::Events
                    | CodeWait::Interpreter
                    | CodeWait::Receive
                    | CodeWait::Read
                    | CodeWait::Send
                    | CodeWait::Connect
                    | CodeWait::Resolve
                    | CodeWait::Sleep
                    | CodeWait::Join
                    | CodeWait::Process
                    | CodeWait::File,
                )
                | ThreadWork::Unknown => {}
            }
        }
        let result = largest_lines(results).first().map_or(0, |(_, count)| *count);
        self.awaiting = self.awaiting.max(result);
        let lines = largest_lines(lines);
        let sum = lines.iter().fold(0_u32, |sum, (_, count)| sum.saturating_add(*count));
        self.at_line = self.at_line.max(lines.first().map_or(0, |(_, count)| *count));
        if sum > self.at_lines {
            (self.at_lines, self.lines) = (sum, u32::try_from(lines.len()).unwrap_or(0));
            self.for_room = full > locked;
        }
    }

    /// Counts which threads can continue, and which wait for others.
    fn count_progress(&mut self, group: &StackGroup, is_steady: bool) {
        let counter =
            match group.work {
                ThreadWork::Idle(_) | ThreadWork::Waits(CodeWait::Accept | CodeWait::Events) => return,
                // What an event loop runs for a task has no stack.
                _ if group.are_tasks() => return,
                ThreadWork::Waits(
                    CodeWait::Lock | CodeWait::Room | CodeWait::Pool | CodeWait::Signal | CodeWait::Join,
                ) if is_steady && group.place.is_some() => &mut self.inside,
                ThreadWork::Waits(CodeWait::Receive | CodeWait::Send | CodeWait::Connect | CodeWait::Resolve) => {
                    &mut self.networked
                }
                ThreadWork::Waits(_) | ThreadWork::Unknown => &mut self.active,
            };
        *counter = counter.saturating_add(group.count);
    }

    /// Whether threads that wait for other threads of the program are at least half as many as `sockets`, and no thread can continue, so that
    /// none will wake them, unless a connection brings something.
    pub fn waits_for_itself(&self, sockets: u32) -> bool {
        !self.unknown
            && self.active == 0
            && self.inside_once == 0
            && self.inside > 0
            && u64::from(self.inside) * 2 >= u64::from(sockets)
    }

    /// Whether threads that wait for other threads of the program, perhaps for a moment, are at least half as many as `sockets`: each may work on
    /// one of them.
    pub fn may_wait_for_itself(&self, sockets: u32) -> bool {
        let waiting = u64::from(self.inside) + u64::from(self.inside_once);
        waiting > 0 && waiting * 2 >= u64::from(sockets)
    }

    /// Whether most of the threads that wait for another one wait for a signal, such as that of a condition, and not for a lock or a pool.
    pub fn wait_mostly_for_signals(&self) -> bool {
        u64::from(self.at_lines.max(self.pool)) * 2 < u64::from(self.inside) + u64::from(self.inside_once)
    }

    /// Returns what the threads do that [`Self::waits_for_itself`] counts, in words.
    pub fn waiting_for_itself(&self) -> String {
        let Self { inside, threads, .. } = self;
        format!(
            "{inside} of {threads} stacks have waited for other threads of the program for at least 30s, and none of these works"
        )
    }

    /// Returns what the tasks do that wait for a result, in words.
    pub fn waiting_for_result(&self) -> String {
        let Self { awaiting, threads, .. } = self;
        format!(
            "{awaiting} of {threads} stacks have waited for another task or a result at one line for at least 30s, and the event loop has \
             no timer"
        )
    }

    /// Whether no thread waits for clients, for work or for another thread: each works, or waits for a time, a process or a file.
    pub fn serves_no_client(&self) -> bool {
        !self.unknown && self.threads > 0 && self.active == self.threads
    }

    /// Returns the number of threads that wait for work, with those in loops of the program's own if they are known to be workers.
    pub fn waiting_for_work(&self) -> u32 {
        let workers = if self.loops == Some(OwnLoops::Workers) { self.in_loops } else { 0 };
        self.idle.saturating_add(workers)
    }

    /// Returns the number of threads that do something, or wait for something other than work.
    pub fn working(&self) -> u32 {
        self.threads.saturating_sub(self.waiting_for_work())
    }

    /// Whether every thread waits for work: none of them will close a socket that it has forgotten.
    pub fn all_idle(&self) -> bool {
        self.complete && self.threads > 0 && self.waiting_for_work() >= self.threads
    }

    /// Returns the meaning of the threads in loops of the program's own; `None` if others may work on half of the `sockets`.
    pub fn only_loops(&self, sockets: u32) -> Option<OwnLoops> {
        let others = self.threads.saturating_sub(self.idle.saturating_add(self.in_loops));
        self.loops.filter(|_| self.complete && u64::from(others) * 2 < u64::from(sockets))
    }

    /// Whether the tasks of an event loop, all of which were read, are fewer than half of `sockets`: none works on most of them. A program
    /// without any task, which may use callbacks, shows nothing.
    pub fn lacks_tasks(&self, sockets: u32) -> bool {
        !self.unknown && self.tasks > 0 && self.has_few_tasks(sockets)
    }

    /// Whether the tasks of event loops, if there are any, are fewer than half of `sockets`.
    pub fn has_few_tasks(&self, sockets: u32) -> bool {
        u64::from(self.tasks) * 2 < u64::from(sockets)
    }

    /// Returns what the threads at one line do, in words.
    pub fn blocked(&self) -> String {
        let Self { at_line, at_lines, lines, threads, stopped, .. } = self;
        let stopped = match stopped {
            0 => String::new(),
            stopped => format!(", and keep {} from running", count(*stopped, "virtual thread")),
        };
        let (a_lock, locks) = if self.for_room { ("room in a queue", "locks or queues") } else { ("a lock", "locks") };
        if *lines > 1 {
            format!("{at_lines} of {threads} stacks have waited for {locks} at {lines} lines for at least 30s{stopped}")
        } else {
            format!("{at_line} of {threads} stacks have waited for {a_lock} at one line for at least 30s{stopped}")
        }
    }

    /// Returns what the threads do that wait for a connection of a pool, in words.
    pub fn waiting_for_pool(&self) -> String {
        format!("{} of {} stacks have waited for a connection of a pool for at least 30s", self.pool, self.threads)
    }

    /// Whether threads at up to three lines, or threads that wait for a connection of a pool, are at least half as many as `sockets`: each may
    /// work on one of them, although other threads serve other connections.
    pub fn stops(&self, sockets: u32) -> bool {
        let waiting = self.at_lines.max(self.pool);
        waiting > 0 && u64::from(waiting) * 2 >= u64::from(sockets)
    }

    /// Whether most of the threads that [`Self::stops`] counts wait for a connection of a pool.
    pub fn stops_in_pool(&self) -> bool {
        self.pool > self.at_lines
    }

    /// Whether the threads that wait for a connection of a pool explain why `sockets` are not closed: they are at least half as many as
    /// the sockets, or most of the threads that work.
    pub fn lacks_pooled(&self, sockets: u32) -> bool {
        self.pool > 0 && (u64::from(self.pool) * 2 >= u64::from(sockets) || self.are_most_working(self.pool.into()))
    }

    /// Whether these are most of the threads that do not wait for work.
    fn are_most_working(&self, threads: u64) -> bool {
        threads * 10 >= u64::from(self.working()) * 7
    }

    /// Whether the threads at one line explain why `sockets` are not closed: with those that they keep from running, they are at least
    /// half as many as the sockets, or most of the threads that work. In a deadlock, they wait at two or three lines, and no other works.
    pub fn blocks(&self, sockets: u32) -> bool {
        let at_line = if self.at_line > 0 { u64::from(self.at_line) + u64::from(self.stopped) } else { 0 };
        let at_lines = u64::from(self.at_lines) + u64::from(self.stopped);
        let are_most = self.are_most_working(at_line) || self.are_most_working(at_lines);
        at_line > 0 && (at_line * 2 >= u64::from(sockets) || are_most)
    }
}

/// Whether threads wait for the lock of a queue that another worker has while it waits for an item: as one of those that share the receiver
/// of a channel of Rust.
fn waits_for_turn(group: &StackGroup, groups: &[StackGroup]) -> bool {
    let takes = |one: &&StackGroup| one.in_own_loop && function_of(one) == function_of(group);
    let taking = || groups.iter().filter(takes).map(|one| one.count).sum::<u32>();
    group.work == ThreadWork::Waits(CodeWait::Lock) && group.place.is_some() && taking() == 1
}

fn function_of(group: &StackGroup) -> Option<&str> {
    group.place()?.function.as_deref()
}

/// Whether a thread runs an event loop, whose own stack shows nothing about its tasks.
fn runs_tasks(work: ThreadWork) -> bool {
    matches!(work, ThreadWork::Idle(EVENTS) | ThreadWork::Waits(CodeWait::Events))
}

#[cfg(test)]
mod tests;
