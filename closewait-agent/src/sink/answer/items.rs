//! Items of an answer, and their encoding.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt, ptr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::clock::TimeAnchor;
use closewait_engine::{
    diagnose::Seen,
    model::{Dwell, Exit, IncidentReport, Listener, Owner, ProxyPeer, ReportedGroup, Socket, Verdict},
    process::{NextStep, Process},
    snapshot::groups::ListedGroup,
    snapshot::hints::Hint,
    snapshot::redact::Redactor,
    snapshot::summary::ListSummary,
    snapshot::view::Row,
    text::{harmless_field, harmless_lines},
    time::BootTime,
    workload::Workload,
};

/// One item of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AnswerItem<'a> {
    /// Header of every answer.
    Header(AnswerHeader),
    /// A listener. Rows refer to it by the number of listeners before it.
    Listener(Cow<'a, Seen<Listener>>),
    /// The workload of a cgroup. Rows refer to it by the number of workloads before it.
    Workload(Cow<'a, Workload>),
    /// A process. Rows refer to it by its pid.
    Process(Cow<'a, Process>),
    /// A socket.
    Row(Box<AnswerRow<'a>>),
    /// An incident report, without its groups.
    Report(Box<IncidentReport>),
    /// A group of the incident report before it.
    Group(Box<ReportedGroup>),
    /// A group of sockets.
    ListedGroup(Box<ListedGroup>),
    /// A hint to show below a table.
    Hint(Box<Hint>),
    /// Numbers of sockets and groups, to show above a table.
    Summary(ListSummary),
}

impl AnswerItem<'_> {
    /// Puts labels in place of addresses and names.
    pub(super) fn redact(&mut self, redactor: &mut Redactor) {
        match self {
            Self::Header(header) => redactor.unseen(&mut header.unseen),
            Self::Listener(listener) => {
                let Seen { what, owners, .. } = listener.to_mut();
                redactor.listener(what);
                redactor.owners(owners);
            }
            Self::Workload(workload) => redactor.workload(workload.to_mut()),
            Self::Process(process) => redactor.process(process.to_mut()),
            Self::Row(row) => {
                redactor.socket(row.socket.to_mut());
                row.gone.iter_mut().for_each(|gone| redactor.exit(gone.to_mut()));
                row.owners.iter_mut().for_each(|owners| redactor.owners(owners.to_mut()));
                row.proxy_peer.iter_mut().for_each(|peer| redactor.proxy_peer(peer.to_mut()));
                redactor.verdict(&mut row.verdict);
            }
            Self::Report(report) => redactor.report(report),
            Self::Group(group) => redactor.reported_group(group),
            Self::ListedGroup(group) => redactor.listed_group(group),
            Self::Hint(hint) => redactor.hint(hint),
            Self::Summary(_) => {}
        }
    }
}

/// Header of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerHeader {
    /// Version of the program that answers.
    #[serde(deserialize_with = "harmless_field")]
    pub version: String,
    /// Time of the answer.
    pub at: BootTime,
    /// Relation of the kernel's clock and the wall clock at that time.
    pub anchor: TimeAnchor,
    /// Number of tracked sockets, including those that the filter excludes; 0 in an incident report.
    pub total: u64,
    /// Number of further sockets in CLOSE_WAIT that are not tracked; 0 in an incident report, which has its own.
    pub untracked: u64,
    /// Reason why the answer may lack sockets, if it may; `None` in an incident report, which has its own.
    #[serde(deserialize_with = "harmless_lines")]
    pub unseen: Option<String>,
}

/// Listed socket: a [`Row`] that refers to shared items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow<'a> {
    /// Facts about the socket.
    pub socket: Cow<'a, Socket>,
    /// Dwell time so far, or in total if the socket has exited.
    pub dwell: Option<Dwell>,
    /// Exit of a socket that only has its descriptor left.
    pub gone: Option<Box<Cow<'a, Exit>>>,
    /// All descriptors of the socket, sorted by process; `None` if the search was not possible.
    pub owners: Option<Cow<'a, [Owner]>>,
    /// Number of the listener that will accept, or has accepted, the socket.
    pub listener: Option<u32>,
    /// Number of the workload of its cgroup.
    pub workload: Option<u32>,
    /// Timeout of connections in CLOSE_WAIT in the connection tracking of its namespace.
    pub conntrack: Option<Duration>,
    /// Other connection of a proxy that this one waits for.
    pub proxy_peer: Option<Box<Cow<'a, ProxyPeer>>>,
    /// Pid of the first owner of the socket, or of its listener while no program has accepted the socket, if it was
    /// inspected.
    pub process: Option<u32>,
    /// Verdict. In an answer for a table its texts are empty, and `conntrack`, `proxy_peer`, `process`, and the
    /// members of the socket that tables do not show, are `None`.
    pub verdict: Verdict,
}

/// Items in a frame, one after the other, in the format of postcard. It has no names or types, so the version of the
/// protocol defines the encoding. Reading it takes half the time of MessagePack, which recordings use.
#[derive(Debug, Default)]
pub struct ItemFrame(Vec<u8>);

impl ItemFrame {
    /// Returns the number of bytes so far.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no item.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// If it has no form in this format. The frame is empty then.
    pub fn add(&mut self, item: &AnswerItem<'_>) -> Result<(), postcard::Error> {
        self.0 = postcard::to_extend(item, std::mem::take(&mut self.0))?;
        Ok(())
    }

    /// Returns the bytes of the frame.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Removes all items.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives each item of a frame to `take`.
    ///
    /// # Errors
    ///
    /// If the bytes have other content, or `take` fails.
    pub fn decode<E: From<postcard::Error>>(
        mut bytes: &[u8],
        mut take: impl FnMut(AnswerItem<'static>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let (item, rest) = postcard::take_from_bytes(bytes)?;
            take(item)?;
            bytes = rest;
        }
        Ok(())
    }
}

/// Type of item that rows refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedItem {
    /// A listener.
    Listener,
    /// A workload.
    Workload,
    /// A process.
    Process,
}

impl fmt::Display for SharedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Workload => "workload",
            Self::Process => "process",
        })
    }
}

/// Shared items that were sent so far: each is sent before the first row that refers to it. Their addresses identify
/// them, which are the same in all rows of an answer.
#[derive(Debug, Default)]
pub(super) struct FirstUses {
    listeners: BTreeMap<usize, u32>,
    workloads: BTreeMap<usize, u32>,
    processes: BTreeSet<u32>,
}

impl FirstUses {
    /// Gives the part of `row` that tables show to `take`, after shared items that no row has referred to before.
    pub(super) fn table_row<'e, E>(
        &mut self,
        row: Row<'e>,
        take: &mut impl FnMut(AnswerItem<'e>) -> Result<(), E>,
    ) -> Result<(), E> {
        let verdict = Verdict { text: String::new(), next: NextStep::default(), ..row.verdict };
        let mut take_row = |mut item| {
            if let AnswerItem::Row(row) = &mut item {
                row.socket = Cow::Owned(shown_in_table(&row.socket));
            }
            take(item)
        };
        self.row(Row { conntrack: None, proxy_peer: None, process: None, verdict, ..row }, None, &mut take_row)
    }

    /// Gives `row` to `take`, after shared items that no row has referred to before.
    pub(super) fn row<'e, E>(
        &mut self,
        row: Row<'e>,
        processes: Option<&'e BTreeMap<u32, Process>>,
        take: &mut impl FnMut(AnswerItem<'e>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Row { socket, dwell, gone, owners, listener, workload, conntrack, proxy_peer, process, verdict } = row;
        let of_listener = listener.map(|listener| listener.owners.as_slice()).unwrap_or_default();
        let pids = owners.as_deref().unwrap_or_default().iter().chain(of_listener).map(|owner| owner.task.pid);
        for pid in pids {
            if let Some(process) = processes.and_then(|processes| processes.get(&pid))
                && self.processes.insert(pid)
            {
                take(AnswerItem::Process(Cow::Borrowed(process)))?;
            }
        }
        let listener = listener
            .map(|one| number_of(one, &mut self.listeners, || take(AnswerItem::Listener(Cow::Borrowed(one)))))
            .transpose()?;
        let workload = workload
            .map(|one| number_of(one, &mut self.workloads, || take(AnswerItem::Workload(Cow::Borrowed(one)))))
            .transpose()?;
        take(AnswerItem::Row(Box::new(AnswerRow {
            socket,
            dwell,
            gone: gone.map(|gone| Box::new(Cow::Borrowed(gone))),
            owners,
            listener,
            workload,
            conntrack,
            proxy_peer: proxy_peer.map(|peer| Box::new(Cow::Borrowed(peer))),
            process: process.map(|process| process.pid),
            verdict,
        })))
    }
}

/// Returns the part of a socket that tables show: half of it to encode and to read.
fn shown_in_table(socket: &Socket) -> Socket {
    let Socket { netns, protocol, role, local, remote, accepted, unread_bytes, send_queue_bytes, timer, .. } = *socket;
    Socket {
        netns,
        protocol,
        local,
        remote,
        accepted,
        unread_bytes,
        send_queue_bytes,
        timer,
        role,
        cookie: None,
        inode: None,
        cgroup: None,
        received_bytes: None,
        sent_bytes: None,
        keepalive: None,
        acked_bytes: None,
        last_received: None,
        last_ack: None,
        last_sent: None,
        opener: None,
    }
}

/// Returns the number of `one` among the sent items; `send` sends it if it is new.
fn number_of<T, E>(
    one: &T,
    numbers: &mut BTreeMap<usize, u32>,
    send: impl FnOnce() -> Result<(), E>,
) -> Result<u32, E> {
    let place = ptr::from_ref(one).addr();
    if let Some(number) = numbers.get(&place) {
        return Ok(*number);
    }
    send()?;
    let number = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    numbers.insert(place, number);
    Ok(number)
}
