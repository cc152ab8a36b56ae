//! `closewait run`.

use std::{io, ops::RangeInclusive, time::Duration};

use anyhow::Context as _;

use super::colour;
use crate::{
    cli::{self, Output},
    clock,
    engine::{self, Config, Engine, decode::Decoder},
    host::{
        facts::Facts,
        plan::{Degraded, HookChoice, Plan, plan},
    },
    runtime::{Runtime, Signals, observe},
    sink::{Sink, Start, Writer, json::Json, text::Text},
    source::{
        diag,
        program::{Choices, Programs},
        ring::RingReader,
        snapshot::{self, Blind},
    },
};

/// Bytes of lines that may wait for a slow reader.
const BACKLOG: usize = 16 << 20;

/// Watches until told to stop.
///
/// # Errors
///
/// If this kernel or these privileges do not allow it, or something failed meanwhile.
pub(super) fn run(args: &cli::Run) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop failed (epoll_create); is a limit on open files reached?")?;
    runtime.block_on(watch(args))
}

async fn watch(args: &cli::Run) -> anyhow::Result<()> {
    let signals = Signals::catch()?;
    let facts = Facts::gather();
    let plan = plan(&facts, args.hook.into())?;
    let healthy_below = match args.events {
        cli::Events::Stuck => args.stuck_after,
        cli::Events::All => Duration::ZERO,
    };
    let choices = Choices { max_sockets: args.max_sockets, ring_bytes: args.ring_buffer, healthy_below };
    let mut programs = Programs::load(&plan, Some(choices), args.kernel_log)?;
    let ring = programs.take_ring()?;
    let ring = RingReader::new(ring).context("epoll_ctl on the ring buffer failed; report this")?;
    let kernel_log =
        args.kernel_log.then(|| programs.take_logger()).transpose().context("no log of the kernel program")?;
    let config = Config {
        stuck_after: args.stuck_after,
        events: match args.events {
            cli::Events::Stuck => engine::Events::Stuck,
            cli::Events::All => engine::Events::All,
        },
        histogram_every: args.histogram_every,
        ephemeral_ports: ephemeral_ports(&facts),
    };
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let mut engine = Engine::new(config, clock::now());

    programs.attach()?;
    let at = clock::now();
    // What is there already goes in before the first record is read: see engine::tracker.
    let mut degraded: Vec<_> = plan.degraded.iter().map(sentence).collect();
    degraded.extend(older_sockets(&mut programs, &plan, decoder, &mut engine)?);
    for what in &degraded {
        log::warn!("{what}");
    }
    programs.forget_types();
    give_back_memory();

    let start = Start {
        at,
        version: env!("CARGO_PKG_VERSION"),
        kernel: facts.release.clone(),
        hook: plan.hook.as_str(),
        max_sockets: args.max_sockets,
        ring_buffer_bytes: args.ring_buffer,
        stuck_after: args.stuck_after,
        degraded,
    };
    let sink: Box<dyn Sink> = match args.shape.output {
        Output::Text => Box::new(Text::new(colour(args.shape))),
        Output::Json => Box::new(Json::default()),
    };
    let writer =
        Writer::new(io::stdout(), BACKLOG).context("starting the thread that writes standard output failed")?;
    let end = args.run_for.map(|run_for| clock::now() + run_for);
    Runtime { programs, ring, kernel_log, decoder, engine, sink, writer }.run(&start, signals, end).await
}

/// Hands the sockets that are in CLOSE_WAIT already to the engine. Returns what could not be seen.
fn older_sockets(
    programs: &mut Programs,
    plan: &Plan,
    decoder: Decoder,
    engine: &mut Engine,
) -> anyhow::Result<Vec<String>> {
    if !plan.iterate_tcp && !plan.iterate_files {
        let diag::Blind { reasons } = diag::take(decoder, clock::now, |observation| engine.handle(observation));
        return Ok(reasons);
    }
    let blind = snapshot::take(programs, |bytes| observe(decoder, engine, bytes))?;
    Ok(unseen(&blind))
}

fn sentence(degraded: &Degraded) -> String {
    let Degraded { what, why, fix } = degraded;
    let fix = fix.as_ref().map_or_else(String::new, |fix| format!("; {fix}"));
    format!("{what}: {why}{fix}")
}

/// Where the range is not known, Linux's own.
fn ephemeral_ports(facts: &Facts) -> RangeInclusive<u16> {
    let (first, last) = facts.port_range.unwrap_or((32_768, 60_999));
    first..=last
}

/// What a snapshot could not see, in words.
pub(super) fn unseen(blind: &Blind) -> Vec<String> {
    let Some((first, why)) = blind.namespaces.first() else { return Vec::new() };
    let count = blind.namespaces.len();
    vec![format!(
        "sockets that nobody has accepted yet cannot be listed in {count} network namespace(s), the first is {first}: {why}"
    )]
}

/// Reading the kernel's types takes some ten megabytes for a moment; the allocator keeps them unless told.
fn give_back_memory() {
    // SAFETY: `malloc_trim` takes any number and only gives unused pages back.
    let _anything_released = unsafe { libc::malloc_trim(0) };
}

impl From<cli::Hook> for HookChoice {
    fn from(hook: cli::Hook) -> Self {
        match hook {
            cli::Hook::Auto => Self::Auto,
            cli::Hook::Btf => Self::Btf,
            cli::Hook::Classic => Self::Classic,
        }
    }
}
