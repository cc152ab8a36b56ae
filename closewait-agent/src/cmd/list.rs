//! `closewait list`.

mod request;
mod watch;

use std::{
    borrow::BorrowMut,
    cell::LazyCell,
    env,
    io::{self, IsTerminal as _},
    mem::ManuallyDrop,
    panic,
    path::Path,
    thread,
    time::Duration,
};

use rustix::termios::{Winsize, tcgetwinsize};

pub(super) use self::request::ListError;
use self::request::ListRequest;
use crate::{
    cli,
    clock::{self, TimeAnchor},
    control,
    host::{
        error_text::with_hints,
        facts::HostFacts,
        limits::of_one_off_scan,
        memory_limit,
        plan::{HookChoice, check_procfs, plan, unseen_sockets},
    },
    recording::RecordingEngine,
    sink::{
        Form,
        answer::{AnswerCollector, AnswerHeader},
        list::{ListShape, missing},
    },
    source::{
        self,
        inspector::{Inspector, ProxyPeerReader},
        program::{KernelPrograms, Loader},
        scanner::Scanner,
    },
};
use closewait_engine::{
    Config, Engine,
    decode::Decoder,
    model::{AnswerNeeds, Output, QueryCommand, QueryEvent, QueryId, ScanEnd},
    snapshot::query::{Filter, Query},
};

/// Dwell time after which a socket counts as stuck in a one-off scan: the default of an agent.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Time between the two reads of a process.
const WINDOW: Duration = Duration::from_millis(20);

/// Lists the sockets that are in CLOSE_WAIT now; with `--watch`, again and again.
///
/// # Errors
///
/// If the options do not fit together, this kernel or these privileges do not allow it, or standard output cannot be written.
pub(super) fn list(args: &cli::ListArgs) -> anyhow::Result<()> {
    let request = ListRequest::new(args)?;
    match args.watch {
        None => request.show(&args.asked, &mut io::stdout()),
        Some(interval) => watch::watch(&request, args, interval),
    }
}

/// Logs which sockets may be in CLOSE_WAIT but are not listed.
pub(super) fn warn_of_missing(header: &AnswerHeader) {
    let missing: Vec<String> = missing(header.untracked, header.unseen.as_deref()).collect();
    if !missing.is_empty() {
        log::warn!("{}", missing.join("\n"));
    }
}

/// Hands the answer of an agent, or of a one-off scan, to `show`: as much of it as this shape of a list needs.
///
/// # Errors
///
/// If a running agent gives no answer, this kernel or these privileges do not allow a scan, or `show` fails.
pub(super) fn answer<T>(
    asked: &cli::AgentArgs,
    query: &Query,
    shape: ListShape,
    show: impl FnOnce(AnswerCollector<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    answer_noting(asked, query, shape, &mut |note| log::warn!("{}", note.into_text()), show)
}

/// As [`answer`], but hands each sentence about missing sockets, owners or agents to `note` instead of the log.
///
/// # Errors
///
/// As [`answer`].
pub(super) fn answer_noting<T>(
    asked: &cli::AgentArgs,
    query: &Query,
    shape: ListShape,
    note: &mut dyn FnMut(Note),
    show: impl FnOnce(AnswerCollector<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    answer_needing(asked, query, shape, ScanNeeds::Anything, note, show)
}

/// Sentence beside an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// No agent answers, so this is a scan.
    NoAgent(String),
    /// Sockets or owners are missing.
    Gap(String),
}

impl Note {
    /// Returns the sentence.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::NoAgent(text) | Self::Gap(text) => text,
        }
    }
}

/// Scan that a command accepts in place of an agent's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanNeeds {
    /// Any, as far as privileges go.
    Anything,
    /// Only one with kernel programs: without them, a program that is stuck can go unseen.
    KernelPrograms,
}

/// As [`answer_noting`], but fails if a scan lacks what it `needs`.
///
/// # Errors
///
/// As [`answer`].
pub(super) fn answer_needing<T>(
    asked: &cli::AgentArgs,
    query: &Query,
    shape: ListShape,
    needs: ScanNeeds,
    note: &mut dyn FnMut(Note),
    show: impl FnOnce(AnswerCollector<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let socket = asked.shown_socket(shape.is_redacted).map(Path::to_owned);
    let shape = ListShape { socket, ..shape };
    if let Some(answer) = ask_agent(asked, query, &shape, &mut |text| note(Note::NoAgent(text)))? {
        return show(answer);
    }
    // The process ends after the answer, and freeing 10,000 sockets one by one would take milliseconds before that.
    let engine = ManuallyDrop::new(scan_once(shape.form, needs, &mut |text| note(Note::Gap(text)))?);
    show(AnswerCollector::new(&shape).scanned(engine.state(), query, clock::now(), TimeAnchor::now())?)
}

/// Queries a running agent, if there is one: it has exact dwell times, and sockets that entered and exited before.
pub(super) fn ask_agent(
    args: &cli::AgentArgs,
    query: &Query,
    shape: &ListShape,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<Option<AnswerCollector<'static>>> {
    if args.alone {
        return Ok(None);
    }
    let socket = args.socket.as_deref().unwrap_or(Path::new(cli::SOCKET));
    let mut answer = AnswerCollector::new(shape);
    match control::ask(socket, query, |frame| answer.frame(frame).map_err(|error| error.to_string())) {
        Ok(false) => {
            // Without an agent, the default path does not exist. At a path from the user, there should be an agent.
            if args.socket.is_some() {
                note(format!("no agent answers at {}; this is a one-off scan", socket.display()));
            }
            Ok(None)
        }
        Ok(true) => Ok(Some(answer)),
        // If an agent does not answer, or not this user, a scan is better than nothing.
        Err(error) if error.permits_scan() => {
            note(format!("{}; scanning without it", error.problem()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns an engine for one scan of this host: with the dwell time after which a socket counts as stuck, and a limit on the
/// sockets that it tracks.
pub(super) fn engine_of_scan(facts: &HostFacts, stuck_after: Duration, max_tracked: u32) -> RecordingEngine {
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let config = Config {
        stuck_after,
        histogram_every: stuck_after,
        watching: false,
        max_tracked: max_tracked as usize,
        ephemeral_ports: 0..=0,
        unseen_sockets: unseen_sockets(facts),
        reads_progress: true,
        key_secret: source::key_secret(),
        host: facts.host.clone(),
        ..Config::default()
    };
    RecordingEngine::new(Engine::new(config, clock::now()), decoder, None)
}

/// Scans once. Notes the gaps that a text of this `form` does not contain.
///
/// # Errors
///
/// If the scan needs kernel programs, and cannot have them.
pub(super) fn scan_once(form: Form, needs: ScanNeeds, note: &mut dyn FnMut(String)) -> anyhow::Result<RecordingEngine> {
    // Before this process uses much memory itself.
    let max_tracked = of_one_off_scan(memory_limit::find().as_ref());
    let loader = Loader::begin();
    let facts = HostFacts::gather();
    check_procfs(&facts)?;
    let mut engine = engine_of_scan(&facts, STUCK_AFTER, max_tracked);
    // The scanner needs the programs as long as it exists.
    let (mut programs, mut scanner) = scanner(loader, &facts, needs, note)?;
    let blind = thread::scope(|scope| {
        // The kernel verifies one program while another one scans.
        let load = || programs.as_mut().map(KernelPrograms::proxy_peer_reader).unwrap_or_default();
        let loading = thread::Builder::new().name("closewait-load".to_owned()).spawn_scoped(scope, load);
        find_out(&mut engine, &mut scanner, || {
            Inspector::new(match loading {
                Ok(loading) => loading.join().unwrap_or_else(|payload| panic::resume_unwind(payload)),
                Err(error) => {
                    log::warn!("the other connections of owners stay unknown: no thread could start ({error})");
                    ProxyPeerReader::default()
                }
            })
        })
    });
    blind.into_iter().chain(engine.state().blind().map(str::to_owned)).for_each(&mut *note);
    // For JSON, `list` logs it.
    unseen_sockets(&facts).filter(|_| form == Form::Text).into_iter().for_each(note);
    Ok(engine)
}

/// Executes the commands of an engine that prepares one answer; `inspector` is called before the first inspection.
/// Returns the gaps of the scan of all sockets, one sentence each.
pub(super) fn find_out<I: BorrowMut<Inspector>>(
    engine: &mut RecordingEngine,
    scanner: &mut Scanner,
    inspector: impl FnOnce() -> I,
) -> Vec<String> {
    let (decoder, mut blind) = (engine.decoder(), Vec::new());
    let mut inspector = LazyCell::new(inspector);
    engine.handle(QueryEvent::Asked {
        query: QueryId(1),
        at: clock::now(),
        owner_ended: false,
        needs: AnswerNeeds::Everything,
    });
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Query(QueryCommand::ScanAll { query }) => {
                blind = scanner.everything(decoder, clock::now, |found| engine.found(found));
                engine.handle(QueryEvent::ScannedAll { query });
            }
            Output::ScanOwners { known } => {
                // The engine records the gaps.
                let _failed = scanner.owners(&known, decoder, clock::now, |found| engine.found(found));
                engine.handle(ScanEnd::Owners);
            }
            Output::Query(QueryCommand::Inspect { query, request }) => {
                LazyCell::force_mut(&mut inspector).borrow_mut().inspect(&request, WINDOW, |found| engine.found(found));
                engine.handle(QueryEvent::Inspected { query });
            }
            Output::Query(QueryCommand::Answer { query: _ }) => break,
            // Only for an agent, which has a ring buffer and ports to watch.
            Output::Query(QueryCommand::Refresh { .. })
            | Output::StillStuck { .. }
            | Output::Finding(_)
            | Output::RefreshLingering(_)
            | Output::Refresh(_)
            | Output::InspectOwners(_)
            | Output::Audit { .. }
            | Output::RefreshSuspects(_)
            | Output::Forget(_)
            | Output::WatchPorts(_)
            | Output::ReadCounters => {}
        }
    }
    blind
}

/// Creates a scanner with kernel programs. If they fail, it uses only `sock_diag` and `/proc`, if that is enough.
///
/// # Errors
///
/// If the scan needs kernel programs, and they fail.
fn scanner(
    loader: Loader,
    facts: &HostFacts,
    needs: ScanNeeds,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<(Option<KernelPrograms>, Scanner)> {
    let plan = plan(facts, HookChoice::Auto).map_err(anyhow::Error::from);
    let loaded = plan.and_then(|plan| {
        if !plan.iterate_files {
            return Ok(None);
        }
        let mut programs = KernelPrograms::load(loader, &plan, None, None, false)?;
        let scanner = programs.scanner()?;
        Ok(Some((Some(programs), scanner)))
    });
    match (loaded, needs) {
        (Ok(loaded), _) => Ok(loaded.unwrap_or_default()),
        (Err(error), ScanNeeds::KernelPrograms) => Err(error),
        (Err(error), ScanNeeds::Anything) => {
            note(format!(
                "the list may lack other users' processes, open descriptors of ended connections and other namespaces, as \
                 kernel programs are unavailable: {}",
                with_hints(&error)
            ));
            Ok((None, Scanner::default()))
        }
    }
}

/// Returns the filter of the command line.
pub(super) fn filter(filters: &cli::Filters) -> Filter {
    let cli::Filters { pid, port, peer, cgroup, older_than, verdict } = filters;
    Filter {
        pids: pid.clone(),
        ports: port.clone(),
        peers: peer.clone(),
        cgroups: cgroup.clone(),
        older_than: *older_than,
        verdicts: verdict.clone(),
    }
}

/// Returns the height of the screen, rows; `None` if standard output is no terminal. `LINES` overrides it, as `watch` sets it.
pub(super) fn height() -> Option<u16> {
    size("LINES", |size| size.ws_row)
}

/// Returns the width of the screen; `None` if standard output is no terminal. `COLUMNS` overrides it, as `watch` sets
/// it.
pub(super) fn width() -> Option<u16> {
    size("COLUMNS", |size| size.ws_col)
}

/// Returns a size of the screen: from the environment, or else from the terminal.
fn size(variable: &str, of: impl Fn(Winsize) -> u16) -> Option<u16> {
    let given = env::var(variable).ok().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
    given.or_else(|| {
        if !io::stdout().is_terminal() {
            return None;
        }
        tcgetwinsize(io::stdout()).ok().map(of).filter(|size| *size > 0)
    })
}
