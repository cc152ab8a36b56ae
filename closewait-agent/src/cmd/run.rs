//! `closewait run`.

use std::{collections::HashSet, env, io, ops::RangeInclusive, path::Path, process, time::Duration};

use anyhow::Context as _;
use closewait_common::record::SIZE;

use super::{
    color, list, reload,
    settings::{Configuration, unusable},
    sink,
};
use crate::{
    cli, clock,
    config::{ConfigEntry, ConfigError},
    control::{self, Control, EventLog},
    hooks::{self, Helper},
    host::{
        self,
        caps::Capability,
        confine::{Confined, Keep, confine},
        facts::HostFacts,
        journal::EntrySocket,
        limits::{RequestedLimits, limits, whole_pages},
        memory_limit,
        open_files::OpenFiles,
        plan::{Degraded, HookChoice, Tracepoint, plan, unseen_sockets},
    },
    logging,
    memory::{self, Peak},
    metrics::{AgentFacts, ListenAddress, MetricsServer},
    otlp::{ExportedEvents, OtlpExport, OtlpExporter, OtlpSettings},
    recording::{RecordTarget, RecordingEngine},
    runtime::{AgentService, MIN_DEFERRING, Pending, Runtime, Signals},
    sink::{Numbering, Sink, Start, Writer, journal::Journal, text::TextStyle},
    source::{
        self,
        inspector::Inspector,
        jvm::JvmHelper,
        pins::{self, Adoption, Pinned, Pins, Unpinned},
        program::{Choices, KernelPrograms, Loader},
        records::KernelSource,
        ring::RingReader,
        scanner::Scanner,
        unread::PeekHelper,
        worker::{FirstScan, Piece, Workers},
    },
};
use closewait_engine::{Config, Engine, decode::Decoder, model::Observation, snapshot::query::Query, time::BootTime};

/// Context of an error of a thread that could not start.
const NO_THREAD: &str = "starting a thread failed\nhint: check the limit on processes (ulimit -u, TasksMax=)";

/// Maximum size of the events that wait for the export over OTLP, bytes: 16,384 about sockets, of 1,600 bytes each.
const MAX_EXPORT_BYTES: usize = 25 << 20;

/// Runs the agent until a signal or the end of its time.
///
/// # Errors
///
/// If this kernel or these privileges do not allow it, or something fails later.
pub(super) fn run(
    args: &cli::RunArgs,
    configuration: Option<Configuration>,
    open_files: OpenFiles,
) -> anyhow::Result<()> {
    if args.unpin {
        return unpin(args.pin.as_deref().unwrap_or(Path::new(pins::DEFAULT)));
    }
    memory::share_one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop failed (epoll_create)\nhint: check the limit on open files (ulimit -n)")?;
    runtime.block_on(watch(args, configuration, open_files))
}

/// Removes the pins of an agent, which ends its program.
fn unpin(dir: &Path) -> anyhow::Result<()> {
    let unpinned = Pins::unpin(dir)?;
    let dir = dir.display();
    match unpinned {
        Unpinned::Nothing => log::info!("nothing is pinned in {dir}"),
        Unpinned::All => log::info!("removed the pins in {dir}"),
        Unpinned::Files => log::info!("removed the pins in {dir}; the directory stays, because it is in use"),
    }
    Ok(())
}

async fn watch(args: &cli::RunArgs, configuration: Option<Configuration>, open_files: OpenFiles) -> anyhow::Result<()> {
    // Before this process uses much memory itself.
    let memory = memory_limit::find();
    let mut signals = Signals::catch()?;
    let hooks = hooks(&args.hooks, configuration.as_ref().map_or(&[], |configuration| &configuration.in_use))?;
    let service = AgentService::new(signals.hangups()?, configuration.map(reload::read_again));
    let journal = args.journal.then(journal).transpose()?;
    // Before anything is loaded, and before the privileges for the socket's folder are dropped.
    let listener = args.listen.as_ref().map(ListenAddress::bind).transpose()?;
    let otlp = OtlpSettings::read(args.otlp_endpoint.as_ref(), |name| env::var_os(name))?;
    let pins = args.pin.as_deref().map(Pins::open).transpose()?;
    let loader = Loader::begin();
    let mut facts = HostFacts::gather();
    if args.host_name.is_some() {
        facts.host.name.clone_from(&args.host_name);
    }
    let plan = plan(&facts, args.hook.into())?;
    let events = args.events.unwrap_or(cli::EventsArg::default_for(args.shape.output));
    let healthy_below = match events {
        cli::EventsArg::Incidents | cli::EventsArg::Stuck => args.stuck_after,
        cli::EventsArg::All => Duration::ZERO,
    };
    let asked = RequestedLimits {
        max_sockets: args.max_sockets,
        max_tracked: args.max_tracked,
        ring_buffer: args.ring_buffer.map(whole_pages),
    };
    let limits = limits(asked, memory.as_ref());
    // Under a memory limit, a part of what a queue of lines may use.
    let export_bytes = if limits.degraded.is_some() { limits.lines / 4 } else { MAX_EXPORT_BYTES };
    let otlp = otlp.map(|otlp| OtlpExport::prepare(otlp, events.into(), &facts.host, export_bytes));
    let choices = Choices {
        max_sockets: limits.max_sockets,
        ring_bytes: limits.ring_buffer,
        healthy_below,
        // Else each entry is an event, or a report soon.
        defers: events != cli::EventsArg::All && args.stuck_after >= MIN_DEFERRING,
        openers: args.openers,
        // Elsewhere, the numbers of processes are others than those of the kernel program.
        connects: args.stacks.is_on() && facts.initial_pid_namespace != Some(false),
    };
    let mut programs = KernelPrograms::load(loader, &plan, Some(choices), pins, args.kernel_log)?;
    let ring = programs.take_ring()?;
    let ring = RingReader::new(ring)
        .context("epoll_ctl on the ring buffer failed\nhint: report this with the output of `closewait doctor`")?;
    let kernel_log = args
        .kernel_log
        .then(|| programs.take_logger())
        .transpose()
        .context("opening the log of the kernel program failed\nhint: run without --kernel-log")?;
    let reads_requests = args.peek == cli::PeekArg::FirstLine && facts.initial_pid_namespace != Some(false);
    // No program can start after the confinement.
    let peeks = reads_requests.then(|| open_files.as_before(PeekHelper::start)).transpose()?;
    let config = Config {
        stuck_after: args.stuck_after,
        events: match events {
            cli::EventsArg::Incidents | cli::EventsArg::Stuck => closewait_engine::Events::Stuck,
            cli::EventsArg::All => closewait_engine::Events::All,
        },
        max_tracked: limits.max_tracked as usize,
        histogram_every: args.histogram_every,
        named: plan.hook == Tracepoint::Btf,
        watching: true,
        ephemeral_ports: ephemeral_ports(&facts),
        connection_limits: args.connection_limit.clone(),
        unseen_sockets: unseen_sockets(&facts),
        reads_progress: true,
        reads_stacks: args.stacks.is_on(),
        reads_requests,
        peek_pid: peeks.as_ref().map(PeekHelper::pid),
        agent_pid: (facts.initial_pid_namespace != Some(false)).then(process::id),
        host: facts.host.clone(),
        key_secret: source::key_secret(),
    };
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let began = clock::now();
    let recorder = args.record.as_deref();
    let limits_of_recording = (args.record_max, args.retention());
    let recorder = recorder.map(|path| RecordTarget::create(path, limits_of_recording, &config, began)).transpose()?;
    let mut engine = RecordingEngine::new(Engine::new(config, began), decoder, recorder);

    programs.attach()?;
    let at = clock::now();
    if let Some(Pinned { kept, adoption: Adoption::All | Adoption::Maps, .. }) = programs.pinned() {
        engine.handle(Observation::Resumed { reported: BootTime(kept.reported_ns), dwell: kept.reported.to_vec() });
    }
    // The engine gets present sockets before the first record: see engine::tracker.
    let mut degraded: Vec<_> = plan.degraded.iter().chain(&limits.degraded).map(sentence).collect();
    let (mut max_sockets, mut ring_buffer_bytes) = (limits.max_sockets, limits.ring_buffer);
    if let Some(pinned) = programs.pinned() {
        degraded.extend(pinned.sentences(max_sockets, ring_buffer_bytes));
        (max_sockets, ring_buffer_bytes) = (pinned.kept.max_sockets, pinned.kept.ring_bytes);
    }
    let (scanner, proxy_peers) = (programs.scanner()?, programs.proxy_peer_reader());
    let Some((scanner, unseen)) = first_scan(scanner, decoder, &mut engine, &mut signals).await? else {
        return Ok(());
    };
    degraded.extend(unseen);
    degraded.extend(args.stacks.jvm.then(|| unasked_jvms(&facts)).flatten());
    if args.peek == cli::PeekArg::FirstLine && !reads_requests {
        degraded.push("unread requests: --peek needs the pid namespace of the host".to_owned());
    }
    for what in &degraded {
        log::warn!("{what}");
    }
    programs.forget_types();
    // Reading the kernel's types takes some ten megabytes for a moment.
    memory::release_free_memory();

    // Without a control socket, the agent still watches.
    let control = control(&args.socket, limits.lines, &mut degraded);
    let mut inspector = Inspector::new(proxy_peers);
    if !args.enter_namespaces {
        inspector.open_ahead();
    }
    // No program can start after the confinement.
    let helper = open_files.as_before(|| Helper::start(hooks))?;
    let jvm_helper = args.stacks.jvm.then(|| open_files.as_before(JvmHelper::start)).transpose()?;
    if let Some(peeks) = peeks {
        inspector.peek_by(peeks);
    }
    // All files are open, and no thread of the start is left: later threads are confined with this one.
    let keep = Keep { enter_namespaces: args.enter_namespaces, seccomp: plan.seccomp };
    degraded.extend(drop_privileges(keep, &facts));
    if let Some(connects) = programs.connect_reader()? {
        inspector.read_connects(connects);
    }
    if let Some(helper) = jvm_helper {
        inspector.ask_jvms(helper.connect().context(NO_THREAD)?);
    }
    let workers = Workers::start(scanner, inspector);
    let workers = workers.context(NO_THREAD)?;
    let start = Start {
        at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: facts.release.clone(),
        hook: plan.hook.as_str().to_owned(),
        max_sockets,
        max_tracked: limits.max_tracked,
        ring_buffer_bytes,
        pinned: programs.pinned().map(|pinned| pinned.adoption.word().to_owned()),
        stuck_after: args.stuck_after,
        // The messages may contain names that other users chose.
        degraded: degraded.iter().map(|what| logging::harmless_lines(what)).collect(),
    };
    let is_pinned = start.pinned.is_some();
    let otlp = otlp.map(|otlp| otlp.start(AgentFacts::of(&start), is_pinned)).transpose()?;
    let losses = otlp.as_ref().and_then(OtlpExporter::losses);
    let metrics =
        listener.map(|listener| MetricsServer::start(listener, AgentFacts::of(&start), losses)).transpose()?;
    let numbering = Numbering::of_host(&facts.host);
    let sink: Box<dyn Sink> = match &journal {
        Some(_) => Box::new(Journal { incidents_only: events == cli::EventsArg::Incidents }),
        None => {
            // Commands without the flag ask the agent at the default path.
            let socket = (args.socket != Path::new(cli::SOCKET)).then(|| args.socket.clone());
            sink(args.shape, events, TextStyle::live(color(args.shape), list::width()).with_socket(socket))
        }
    };
    let journal_refused = journal.as_ref().map(EntrySocket::refused);
    let writer = match journal {
        Some(journal) => Writer::new(journal, limits.lines),
        None => Writer::new(io::stdout(), limits.lines),
    };
    let writer = writer.context(
        "starting the thread that writes events failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
    )?;
    let hooks = helper.map(Helper::connect).transpose().context(
        "starting the thread that requests hooks failed\nhint: check the limit on processes (ulimit -u, TasksMax=)",
    )?;
    let end = args.run_for.map(|run_for| clock::now() + run_for);
    let source = KernelSource {
        programs,
        ring,
        capacity: ring_buffer_bytes as usize / SIZE,
        announced: HashSet::new(),
        unread_refreshes: 0,
    };
    let (pending, peak) = (Pending::default(), Peak::default());
    // Under a memory limit, a part of what a queue of lines may use.
    let events = EventLog::new(control::MAX_EVENT_BYTES.min(limits.lines / 4));
    Runtime {
        source,
        kernel_log,
        engine,
        workers,
        pending,
        control,
        metrics,
        otlp,
        journal_refused,
        events,
        service,
        hooks,
        peak,
        numbering,
        sink,
        writer,
    }
    .run(&start, signals.any(), end)
    .await
}

/// Scans all present sockets. Returns the gaps, or `None` if a signal has arrived meanwhile.
async fn first_scan(
    scanner: Scanner,
    decoder: Decoder,
    engine: &mut RecordingEngine,
    signals: &mut Signals,
) -> anyhow::Result<Option<(Scanner, Vec<String>)>> {
    let scan = FirstScan::begin(scanner, decoder);
    let mut scan = scan.context(NO_THREAD)?;
    let mut unseen = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = signals.any() => return Ok(None),
            piece = scan.piece() => match piece {
                Some(Piece::Ended(report)) => unseen = report.unseen,
                Some(piece) => engine.piece(piece),
                None => return Ok(Some((scan.finish(), unseen))),
            }
        }
    }
}

/// Opens the control socket for `list`, `report` and `kill`. Reports a problem with it; the agent watches all the
/// same.
fn control(path: &Path, lines: usize, degraded: &mut Vec<String>) -> Option<Control<Query>> {
    // Under a memory limit, answers may use as much of it as two queues of lines.
    let listening = Control::listen(path, control::MAX_BYTES_IN_FLIGHT.min(2 * lines));
    let (control, warnings) = match listening {
        Ok(control) => {
            let warnings = control.warnings().to_vec();
            (Some(control), warnings)
        }
        Err(error) => {
            (None, vec![format!("this agent runs without a control socket: {}; {}", error.problem(), error.hint())])
        }
    };
    for what in &warnings {
        log::warn!("{what}");
    }
    degraded.extend(warnings);
    control
}

/// Connects to the journal before anything is loaded.
fn journal() -> anyhow::Result<EntrySocket> {
    EntrySocket::connect(Path::new(host::journal::SOCKET)).with_context(|| {
        format!(
            "connecting to the journal at {} failed\nhint: run without --journal, or start systemd-journald",
            host::journal::SOCKET
        )
    })
}

/// Returns the hooks of these settings. Checks the programs before anything is loaded.
pub(super) fn hooks(args: &cli::OnFindings, settings: &[ConfigEntry]) -> Result<hooks::HookConfig, ConfigError> {
    let cli::OnFindings { on_stuck, on_pileup, hook_timeout, hook_every, .. } = args;
    let programs = hooks::HookPrograms::find(on_stuck.as_deref(), on_pileup.as_deref());
    Ok(hooks::HookConfig {
        programs: programs.map_err(|errors| unusable(errors, settings))?,
        timeout: *hook_timeout,
        every: *hook_every,
        filter: hook_filter(args),
    })
}

/// Returns the selection of the events that run a hook.
pub(super) fn hook_filter(args: &cli::OnFindings) -> hooks::HookFilter {
    hooks::HookFilter { stuck_classes: args.on_stuck_class.clone(), min_certainty: args.min_certainty.into() }
}

/// Drops the privileges that only the start needed. Returns the failures, one sentence each.
fn drop_privileges(keep: Keep, facts: &HostFacts) -> Vec<String> {
    let Confined { kept, degraded } = confine(keep);
    let kept = match kept.as_deref() {
        None => "unknown".to_owned(),
        Some([]) => "none".to_owned(),
        Some(kept) => kept.join(", "),
    };
    let could_enter = facts.capabilities.is_some_and(|capabilities| capabilities.has(Capability::SysAdmin));
    let not_entered = "; network namespaces that come later are not entered (--enter-namespaces)";
    let not_entered = if could_enter && !keep.enter_namespaces { not_entered } else { "" };
    log::info!("retained capabilities: {kept}{not_entered}");
    let degraded: Vec<_> = degraded.iter().map(sentence).collect();
    for what in &degraded {
        log::warn!("{what}");
    }
    degraded
}

/// Returns a sentence about Java virtual machines that the agent cannot ask; `None` if it can ask all of them.
fn unasked_jvms(facts: &HostFacts) -> Option<String> {
    let granted = facts.capabilities?;
    let can_ask = [Capability::SetUid, Capability::SetGid].into_iter().all(|capability| granted.has(capability));
    (!can_ask).then(|| {
        sentence(&Degraded {
            what: "Java virtual machines",
            why: "only those of the agent's own user dump their threads".to_owned(),
            fix: Some("run it as root, or grant CAP_SETUID and CAP_SETGID".to_owned()),
        })
    })
}

fn sentence(degraded: &Degraded) -> String {
    let Degraded { what, why, fix } = degraded;
    let fix = fix.as_ref().map_or_else(String::new, |fix| format!("; {fix}"));
    format!("{what}: {why}{fix}")
}

/// Returns the local ports of connecting sockets; Linux's default if they are unknown.
fn ephemeral_ports(facts: &HostFacts) -> RangeInclusive<u16> {
    let (first, last) = facts.port_range.unwrap_or((32_768, 60_999));
    first..=last
}

impl From<cli::EventsArg> for ExportedEvents {
    fn from(events: cli::EventsArg) -> Self {
        match events {
            cli::EventsArg::Incidents => Self::Incidents,
            cli::EventsArg::Stuck => Self::Stuck,
            cli::EventsArg::All => Self::All,
        }
    }
}

impl From<cli::TracepointArg> for HookChoice {
    fn from(hook: cli::TracepointArg) -> Self {
        match hook {
            cli::TracepointArg::Auto => Self::Auto,
            cli::TracepointArg::Btf => Self::Btf,
            cli::TracepointArg::Classic => Self::Classic,
        }
    }
}
