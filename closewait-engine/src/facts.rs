//! Effect of each fact: one method for each part of [`Observation`].

use std::collections::BTreeSet;

use super::{
    CHECK_COUNTERS_AFTER, Engine, Events, diagnose,
    flow::flows::EndedBy,
    flow::group_key::FlowKey,
    model::{
        Exit, ExitCause, Finding, InspectionEnd, Observation, Owner, PassedSockets, RefreshEnd, RefreshFact, ScanEnd,
        ScanFact, Since, Socket, SocketEvent, SocketKey, Task,
    },
    time::BootTime,
    track::departed::{Departed, Left},
    track::lingering::Lingering,
    track::socket_view::SocketView,
    track::tracked_socket::{TrackedSocket, newer},
};

/// Facts of a [`SocketEvent::Leave`].
struct ExitFacts<'a> {
    key: SocketKey,
    at: BootTime,
    entered: Option<BootTime>,
    socket: &'a Socket,
    how: ExitCause,
    closer: Option<&'a Task>,
    fd_open: Option<bool>,
    wrote: Option<bool>,
    ended: Option<bool>,
}

impl Engine {
    pub(super) fn take_in(&mut self, observation: Observation) {
        match observation {
            Observation::Socket(ref event) => self.socket_changed(event),
            Observation::Passed(passed) => self.sockets_passed(&passed),
            Observation::Scan(fact) => self.scan_found(fact),
            Observation::ScanEnd(ScanEnd::Descriptors { began, blind, saw_listeners }) => {
                self.scan_ended(began, blind, saw_listeners);
            }
            Observation::ScanEnd(ScanEnd::Failed { why }) => self.scan_failed(why),
            Observation::ScanEnd(ScanEnd::Owners) => {
                self.queries.scan_ended();
                self.continue_queries();
            }
            Observation::ScanEnd(ScanEnd::Audit { began, at, complete, cost }) => {
                self.audit_scan_ended(began, at, complete, cost);
            }
            Observation::Refresh(fact) => self.refresh_found(fact),
            Observation::RefreshEnd(RefreshEnd::Inspection { at, lingering }) => self.refreshed_all(at, lingering),
            Observation::RefreshEnd(RefreshEnd::Lingering { began }) => {
                let closed = self.lingering.refreshed_found(began);
                self.not_found_again(closed, began);
            }
            Observation::RefreshEnd(RefreshEnd::Suspects { at, complete }) => self.refreshed_suspects(at, complete),
            Observation::Inspection(fact) => self.host_context.learn(fact),
            Observation::InspectionEnd(InspectionEnd::Owners { at, worked }) => self.inspected_owners(at, worked),
            Observation::Query(event) => self.query_event(event),
            Observation::Counters { at, counters } => self.counters_read(at, *counters),
            Observation::Resumed { reported, dwell } => {
                self.windows.resume(reported);
                self.counters.dwell = dwell;
                self.audit.hurry(self.began + CHECK_COUNTERS_AFTER);
            }
        }
    }

    /// Takes in the change of a socket: nearly all input. Healthy sockets are not copied.
    pub(super) fn socket_changed(&mut self, event: &SocketEvent) {
        match *event {
            SocketEvent::Enter { key, at, ref socket } => self.entered(key, at, socket),
            SocketEvent::Leave { key, at, entered, ref socket, how, ref closer, fd_open, wrote, ended } => {
                let exit = ExitFacts { key, at, entered, socket, how, closer: closer.as_ref(), fd_open, wrote, ended };
                self.left(&exit, None);
            }
            SocketEvent::Pass { key, entered, at, ref socket, how, ref closer, fd_open, wrote, ended } => {
                let exit = ExitFacts {
                    key,
                    at,
                    entered: Some(entered),
                    socket,
                    how,
                    closer: closer.as_ref(),
                    fd_open,
                    wrote,
                    ended,
                };
                let passed = self.tracker.pass(key, entered, at, socket);
                if passed.is_none() || self.config.events == Events::All {
                    // A later socket at its address, which a scan has found already. The record of an entry has no inode, by which they differ.
                    let is_followed =
                        self.tracker.get(key).is_some_and(|later| later.differs(socket) && later.seen() >= at);
                    let entry = socket.at_entry();
                    if is_followed {
                        self.entry_reported(key, entered, &entry);
                    } else {
                        self.entered(key, entered, &entry);
                    }
                    self.left(&exit, None);
                } else {
                    self.entry_happened(key, entered, socket);
                    self.left(&exit, passed);
                }
            }
        }
    }

    /// Takes in counts of sockets: the effects of as many [`SocketEvent::Pass`] of sockets that their programs closed, and of which no
    /// descriptor is open.
    ///
    /// The agent sends none with [`Events::All`], where each socket is a finding; none where records lack namespace and role; none of
    /// sockets that a scan may have found, because the tracker has these; and none of sockets that exit while a scan or an audit runs,
    /// because both need each exit. A socket that had the address of one of these and that still has a descriptor is closed: the next
    /// refresh of such sockets shows that.
    fn sockets_passed(&mut self, passed: &PassedSockets) {
        let count = passed.count();
        if count == 0 {
            return;
        }
        self.something_happened(passed.last);
        self.exits.closed(count);
        self.windows.passed(passed);
        if let Some(flows) = &mut self.flows {
            flows.passed(FlowKey::from(&passed.flow), passed, count);
        }
    }

    /// Takes in an exit. `passed` is its result if the tracker has it already.
    fn left(&mut self, exit: &ExitFacts<'_>, passed: Option<Left>) {
        let ExitFacts { key, at, entered, socket, how, closer, fd_open, wrote, ended } = *exit;
        self.something_happened(at);
        self.audit.left(key, at);
        let is_own_close = closer.is_some_and(|closer| self.is_last_reference(closer.pid, key));
        let (closer, ended) = if is_own_close { (None, None) } else { (closer, ended) };
        // What the last refresh found beside the facts of the record, for a socket that may remain in its group.
        let may_remain = fd_open == Some(true) && how.is_by_peer();
        let refreshed = may_remain.then(|| self.tracker.get(key)).flatten();
        let refreshed = refreshed.filter(|known| !known.differs(socket)).map(SocketView::socket);
        let left = passed.unwrap_or_else(|| self.tracker.leave(key, at, entered, socket));
        let Left { missed, tracked, dwell } = left;
        if let Some(missed) = missed {
            self.missed_exit(at, missed);
        }
        self.exits.left(at, how, socket, dwell);
        if let Some(dwell) = dwell {
            self.windows.finished(socket, dwell);
            if entered.is_none() {
                self.windows.finished_uncounted(dwell);
            }
        }
        let sent_before = tracked.as_ref().and_then(|tracked| tracked.sent_bytes);
        let sent = socket.sent_bytes.zip(sent_before).map(|(sent, before)| sent.saturating_sub(before));
        // A peer that is gone answers data with a reset (`tcp_rcv_state_process`, net/ipv4/tcp_input.c at v5.10).
        let answered = wrote == Some(true) || sent.is_some_and(|sent| sent > 0);
        let finished = match how {
            ExitCause::Closed | ExitCause::Shutdown | ExitCause::Aborted => true,
            ExitCause::Reset => answered,
            ExitCause::Timeout | ExitCause::Destroyed | ExitCause::ListenerClosed | ExitCause::Unknown => false,
        };
        let abandoned = may_remain && dwell.is_some() && !finished;
        if let Some(flows) = &mut self.flows {
            let ended = (ended == Some(true)).then(|| EndedBy(closer.map(|closer| closer.pid)));
            flows.left(self.group_keys.flow(socket), at, entered, dwell, (finished, ended, abandoned));
        }
        let stuck = tracked.as_ref().is_some_and(|tracked| tracked.reported)
            || dwell.is_some_and(|dwell| dwell.at_least() >= self.config.stuck_after);
        if fd_open != Some(true) && !stuck && self.config.events != Events::All {
            return;
        }
        let (socket, closer) = (with_earlier_facts(socket.clone(), tracked.as_ref()), closer.cloned());
        if fd_open == Some(true) {
            let gone = Exit { at, seen: true, how, closer: closer.clone(), dwell };
            let owners = tracked.as_ref().and_then(|tracked| tracked.owners.clone());
            let touched = tracked.as_ref().map_or(at, |tracked| tracked.touched);
            // The end of a connection drops its send queue and its timers (`tcp_reset`, net/ipv4/tcp_input.c, `tcp_write_err`,
            // net/ipv4/tcp_timer.c, and `tcp_done`, net/ipv4/tcp.c at v5.10).
            let ended = |known| Socket { send_queue_bytes: Some(0), timer: None, ..newer(&socket, known) };
            let whole = refreshed.filter(|_| tracked.is_some()).map_or_else(|| socket.clone(), ended);
            self.lingering.add(key, whole, gone, (owners, abandoned.then_some(touched)));
        }
        if stuck || self.config.events == Events::All {
            let verdict = if stuck && !is_own_close {
                diagnose::left(&socket, dwell, (how, ended), fd_open, (answered, sent)).map(Box::new)
            } else {
                None
            };
            self.find(Finding::Leave { at, socket, dwell, how, closer, ended, fd_open, stuck, verdict });
        }
    }

    fn entered(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        self.entry_reported(key, at, socket);
        if let Some(missed) = self.tracker.enter(key, at, socket) {
            self.missed_exit(at, missed);
        }
    }

    /// Takes in an entry with its finding, except for the tracked socket.
    fn entry_reported(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        if self.config.events == Events::All {
            self.find(Finding::Enter { at, socket: socket.clone() });
        }
        self.entry_happened(key, at, socket);
    }

    /// Takes in an entry, except for the tracked socket.
    fn entry_happened(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        self.something_happened(at);
        let replaced = self.lingering.remove(key);
        self.descriptors_closed(replaced, &BTreeSet::new());
        self.host_context.forget_socket(key);
        if let Some(flows) = &mut self.flows {
            flows.entered(self.group_keys.flow(socket), at);
        }
    }

    /// Counts sockets that had counted in their groups until their descriptors were closed. No event tells whether the program closed one
    /// late, or has ended: `going_on` are the processes that a refresh has just found others of these in.
    fn descriptors_closed(&mut self, closed: impl IntoIterator<Item = Lingering>, going_on: &BTreeSet<u32>) {
        let Some(flows) = &mut self.flows else { return };
        let is_in_group = |one: &Lingering| one.is_abandoned() && !one.has_left();
        for one in closed.into_iter().filter(is_in_group) {
            let (since, at) = (one.since(), one.last_open());
            let entered = if let Since::Exact(entered) = since { Some(entered) } else { None };
            let flow_key = self.group_keys.flow(&one.socket);
            let finished = one.first_pid().is_some_and(|pid| going_on.contains(&pid));
            flows.left(flow_key, at, entered, Some(since.dwell(at)), (finished, None, false));
        }
    }

    /// Does that for the sockets that a refresh since `began` did not find again.
    pub(super) fn not_found_again(&mut self, closed: Vec<Lingering>, began: BootTime) {
        if !closed.is_empty() {
            let going_on = self.lingering.owners_found_since(began);
            self.descriptors_closed(closed, &going_on);
        }
    }

    fn scan_found(&mut self, fact: ScanFact) {
        match fact {
            ScanFact::Present { key, at, since, socket } => {
                if !self.tracker.is_outdated(key, at, &socket) {
                    self.present(key, at, since, socket);
                }
            }
            ScanFact::Owned { key, at, since, socket, owner } => {
                if !self.tracker.is_outdated(key, at, &socket) {
                    self.present(key, at, since, socket.clone());
                    if !self.is_own_duplicate(owner.task.pid, key) {
                        self.tracker.held(key, &socket, owner);
                    }
                }
            }
            ScanFact::Descriptor { key, ref owner, .. } if self.is_own_duplicate(owner.task.pid, key) => {}
            ScanFact::Lingering { key, ref owner, .. } if self.is_own_duplicate(owner.task.pid, key) => {}
            ScanFact::InodeDescriptor { inode, ref owner } if self.is_own_duplicate_inode(owner.task.pid, inode) => {}
            ScanFact::Descriptor { key, at, inode, owner } => self.tracker.holds(key, at, inode, owner),
            ScanFact::InodeDescriptor { inode, owner } => {
                self.host_context.held_inode(inode, &owner);
                self.lingering.held_inode(inode, &owner);
                self.tracker.held_inode(inode, owner);
            }
            ScanFact::Lingering { key, at, socket, how, owner } => self.found_lingering(key, at, socket, how, owner),
            ScanFact::Listening { key, at, listener, owner } => self.host_context.listening(key, at, listener, owner),
            ScanFact::StoredEntry { key, entered } => self.stored(key, entered),
        }
    }

    fn refresh_found(&mut self, fact: RefreshFact) {
        match fact {
            RefreshFact::Present { key, at, since, socket } => {
                self.refreshed_stored(key, at, since, &socket);
                self.tracker.refreshed(key, at, &socket);
            }
            RefreshFact::Unchanged { key, at } => self.tracker.unchanged(key, at),
            RefreshFact::Lingering { key, at, socket } => {
                // An unknown socket has no owner to report.
                let _known = self.lingering.seen(key, at, &socket, None);
            }
            RefreshFact::Gone { key, at } => self.gone(key, at),
        }
    }

    /// Whether a descriptor of a socket is the agent's own: the duplicate that it has while it peeks at the socket's unread request.
    fn is_own_duplicate(&self, pid: u32, key: SocketKey) -> bool {
        self.config.peek_pid == Some(pid) && self.host_context.is_duplicated(key)
    }

    /// Whether a process that has closed a socket is the agent, which was not its owner: the program has closed the socket, or has ended,
    /// while the agent had the last reference to it, by a duplicate, or in a scan of open files (`task_file_seq_get_next`,
    /// kernel/bpf/task_iter.c at v5.10).
    fn is_last_reference(&self, pid: u32, key: SocketKey) -> bool {
        let is_own = || self.tracker.get(key)?.owners().map(|owners| owners.iter().any(|owner| owner.task.pid == pid));
        [self.config.agent_pid, self.config.peek_pid].contains(&Some(pid)) && is_own() != Some(true)
    }

    /// Does what [`Self::is_own_duplicate`] does for a socket of which only the inode is known.
    fn is_own_duplicate_inode(&self, pid: u32, inode: u64) -> bool {
        self.config.peek_pid == Some(pid) && self.host_context.is_duplicated_inode(inode)
    }

    /// Reports an exit that the agent missed: the socket exited at an unknown time before `at`.
    pub(super) fn missed_exit(&mut self, at: BootTime, missed: Box<TrackedSocket>) {
        self.exits.left(at, ExitCause::Unknown, &missed.socket, None);
        if missed.reported || self.config.events == Events::All {
            let (socket, stuck, how) = (missed.socket, missed.reported, ExitCause::Unknown);
            let (dwell, closer, ended, fd_open, verdict) = (None, None, None, None, None);
            self.find(Finding::Leave { at, socket, dwell, how, closer, ended, fd_open, stuck, verdict });
        }
    }

    /// Tracks a socket that a scan found in CLOSE_WAIT.
    pub(super) fn present(&mut self, key: SocketKey, at: BootTime, since: Since, socket: Socket) {
        if let Some(missed) = self.tracker.take_another(key, since, &socket) {
            self.missed_exit(at, missed);
        }
        let flow_key = self.group_keys.flow(&socket);
        let untracked = self.tracker.untracked_total();
        let is_new = self.tracker.present(key, at, since, socket);
        if self.tracker.untracked_total() > untracked {
            // `health` counts it.
            self.something_happened(at);
        }
        if is_new {
            // Its address was free again, so the socket that had it before is closed.
            let replaced = self.lingering.remove(key);
            self.descriptors_closed(replaced, &BTreeSet::new());
            self.found_new(since);
        }
        if let Some(flows) = self.flows.as_mut().filter(|_| is_new) {
            flows.found(flow_key, at);
        }
    }

    fn found_lingering(&mut self, key: SocketKey, at: BootTime, socket: Socket, how: ExitCause, owner: Owner) {
        // An unknown socket exited before the agent started. It need not have been in CLOSE_WAIT, unless its error shows so.
        if !self.lingering.seen(key, at, &socket, Some(owner.clone())) && how != ExitCause::Unknown {
            if !self.config.watching {
                // An earlier part of this scan may have found it in CLOSE_WAIT. Where the agent watches, the record of its exit follows.
                self.tracker.remove_ended(key, at, &socket);
            }
            let gone = Exit { at, seen: false, how, closer: None, dwell: None };
            self.lingering.add(key, socket.clone(), gone, (None, None));
            self.lingering.seen(key, at, &socket, Some(owner));
        }
    }
}

/// Adds facts that do not change, from earlier findings about the socket, to the facts of its last record.
fn with_earlier_facts(socket: Socket, tracked: Option<&Departed>) -> Socket {
    let Some(tracked) = tracked else { return socket };
    Socket {
        role: socket.role.or(tracked.role),
        cgroup: socket.cgroup.or(tracked.cgroup),
        opener: socket.opener.clone().or_else(|| tracked.opener.clone()),
        ..socket
    }
}
