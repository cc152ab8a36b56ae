//! `closewait list`.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use rustix::termios::tcgetwinsize;

use super::{colour, print};
use crate::{
    cli,
    clock::{self, TimeAnchor},
    control::{self, harmless_json, harmless_text},
    host::{
        facts::HostFacts,
        limits::of_one_off_scan,
        memory_limit,
        plan::{HookChoice, plan, unseen_sockets},
    },
    recording::RecordingEngine,
    sink::answer,
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
    query::{Filter, Form, GroupBy, Query},
};

/// Age at which a socket counts as stuck for a one-off scan, as for an agent that is told nothing else.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The time between two looks at what processes do.
const WINDOW: Duration = Duration::from_millis(20);

/// Shows the sockets that are in CLOSE_WAIT now.
///
/// # Errors
///
/// If this kernel or these privileges do not allow it, or standard output cannot be written.
pub(super) fn list(args: &cli::ListArgs) -> anyhow::Result<()> {
    let query = query(args);
    print(&answer(&args.asked, &query)?)
}

/// What an agent says, or what a one-off scan shows.
///
/// # Errors
///
/// If an agent runs that gives no answer, or this kernel or these privileges do not allow a look.
pub(super) fn answer(asked: &cli::AgentArgs, query: &Query) -> anyhow::Result<Vec<u8>> {
    match ask_agent(asked, query)? {
        Some(answer) => Ok(answer),
        None => scan_once(query),
    }
}

/// What a running agent says, if there is one: it knows exact ages, and what came and went. Nothing in it acts on a terminal.
fn ask_agent(args: &cli::AgentArgs, query: &Query) -> anyhow::Result<Option<Vec<u8>>> {
    if args.alone {
        return Ok(None);
    }
    let socket = args.socket.as_deref().unwrap_or(Path::new(cli::SOCKET));
    match control::ask(socket, query) {
        Ok(None) => {
            // Without an agent, the default path is absent. A path that the user gave is expected to have one.
            if args.socket.is_some() {
                log::warn!("no agent answers at {}; this is a one-off scan", socket.display());
            }
            Ok(None)
        }
        Ok(answer) => Ok(answer.map(match query.form {
            Form::Text => harmless_text,
            Form::Json => harmless_json,
        })),
        // An agent that this user may not ask, or that does not answer, is no reason to say nothing.
        Err(error) if error.permits_scan() => {
            log::warn!("{}; looking without it", error.problem());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the answer to `query` from a one-off scan.
fn scan_once(query: &Query) -> anyhow::Result<Vec<u8>> {
    // Before this process uses much itself.
    let max_tracked = of_one_off_scan(memory_limit::find().as_ref());
    let loader = Loader::begin();
    let facts = HostFacts::gather();
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let config = Config {
        stuck_after: STUCK_AFTER,
        histogram_every: STUCK_AFTER,
        watching: false,
        max_tracked: max_tracked as usize,
        ephemeral_ports: 0..=0,
        unseen_sockets: unseen_sockets(&facts),
        key_secret: source::key_secret(),
        ..Config::default()
    };
    let mut engine = RecordingEngine::new(Engine::new(config, clock::now()), decoder, None);
    // The programs are needed for as long as the scanner uses them.
    let (_programs, mut scanner, proxy_peers) = scanner(loader, &facts);
    let blind = scanner.everything(decoder, clock::now, |found| engine.found(found));
    if engine.state().has_unheld() {
        let known = engine.scan_began();
        scanner.owners(&known, decoder, clock::now, |found| engine.found(found));
    }
    for what in blind.iter().map(String::as_str).chain(engine.state().blind()) {
        log::warn!("{what}");
    }
    // For JSON, `answer::answer` returns it.
    if let Some(unseen) = unseen_sockets(&facts).filter(|_| query.form == Form::Text) {
        log::warn!("{unseen}");
    }
    let request = engine.inspection_request(clock::now());
    Inspector::new(proxy_peers).inspect(&request, WINDOW, |found| engine.found(found));
    let mut answer = Vec::new();
    if let Some(missing) = answer::answer(engine.state(), query, clock::now(), TimeAnchor::now(), &mut answer)? {
        log::warn!("{missing}");
    }
    Ok(answer)
}

/// Scans with kernel programs. Without them, `sock_diag` and `/proc` tell what they can.
fn scanner(loader: Loader, facts: &HostFacts) -> (Option<KernelPrograms>, Scanner, ProxyPeerReader) {
    let plan = plan(facts, HookChoice::Auto).map_err(anyhow::Error::from);
    let loaded = plan.and_then(|plan| {
        if !plan.iterate_files {
            return Ok(None);
        }
        let mut programs = KernelPrograms::load(loader, &plan, None, None, false)?;
        let (scanner, proxy_peers) = programs.scanner()?;
        Ok(Some((Some(programs), scanner, proxy_peers)))
    });
    let loaded = loaded.unwrap_or_else(|error| {
        log::warn!(
            "{error:#}; so this shows what sock_diag and /proc tell: of other users' processes, of descriptors that were \
             left behind and of other namespaces it may show nothing"
        );
        None
    });
    loaded.unwrap_or_default()
}

/// What the command line asks for.
fn query(args: &cli::ListArgs) -> Query {
    let cli::ListArgs { shape, filters, by, wide, asked: _ } = args;
    Query {
        filter: filter(filters),
        by: by.map(Into::into),
        form: shape.output.into(),
        width: if *wide { None } else { width() },
        wide: *wide,
        colour: colour(*shape),
        report: false,
    }
}

/// Which sockets are meant.
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

/// How wide the screen is; `None` if standard output is none. `COLUMNS` has the last word, as `watch` sets it.
pub(super) fn width() -> Option<u16> {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    columns.or_else(|| {
        if !io::stdout().is_terminal() {
            return None;
        }
        tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
    })
}

impl From<cli::GroupByArg> for GroupBy {
    fn from(by: cli::GroupByArg) -> Self {
        match by {
            cli::GroupByArg::Process => Self::Process,
            cli::GroupByArg::Listener => Self::Listener,
            cli::GroupByArg::Peer => Self::Peer,
            cli::GroupByArg::Cgroup => Self::Cgroup,
        }
    }
}
