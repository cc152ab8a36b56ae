//! `closewait run`.

use std::{io, ops::RangeInclusive, time::Duration};

use anyhow::Context as _;

use super::colour;
use crate::{
    cli::{self, Output},
    clock,
    control::Control,
    engine::{self, Config, Engine, decode::Decoder},
    host::{
        facts::Facts,
        plan::{Degraded, HookChoice, plan},
    },
    intake::Intake,
    memory::{self, Peak},
    recording::Recorder,
    runtime::{Runtime, Signals},
    sink::{Sink, Start, Writer, json::Json, text::Text},
    source::{
        inquiry::Inquirer,
        program::{Choices, Loader, Programs},
        ring::RingReader,
        walk,
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
    let loader = Loader::begin();
    let facts = Facts::gather();
    let plan = plan(&facts, args.hook.into())?;
    let healthy_below = match args.events {
        cli::Events::Stuck => args.stuck_after,
        cli::Events::All => Duration::ZERO,
    };
    let choices =
        Choices { max_sockets: args.max_sockets, ring_bytes: args.ring_buffer, healthy_below, openers: args.openers };
    let mut programs = Programs::load(loader, &plan, Some(choices), args.kernel_log)?;
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
        max_tracked: args.max_tracked as usize,
        histogram_every: args.histogram_every,
        watching: true,
        ephemeral_ports: ephemeral_ports(&facts),
    };
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let began = clock::now();
    let recorder = args.record.as_deref().map(|path| Recorder::begin(path, &config, began)).transpose()?;
    let mut intake = Intake::new(Engine::new(config, began), decoder, recorder);

    programs.attach()?;
    let at = clock::now();
    // What is there already goes in before the first record is read: see engine::tracker.
    let mut degraded: Vec<_> = plan.degraded.iter().map(sentence).collect();
    degraded.extend(walk::everything(Some(&mut programs), decoder, clock::now, |found| intake.found(found))?);
    programs.load_iterators()?;
    for what in &degraded {
        log::warn!("{what}");
    }
    programs.forget_types();
    // Reading the kernel's types takes some ten megabytes for a moment.
    memory::give_back();

    // An agent that cannot be asked watches all the same.
    let control = Control::listen(&args.socket).map_err(anyhow::Error::from);
    let control = control.inspect_err(|error| log::warn!("nobody can ask this agent: {error:#}")).ok();
    let start = Start {
        at,
        version: env!("CARGO_PKG_VERSION"),
        kernel: facts.release.clone(),
        hook: plan.hook.as_str(),
        max_sockets: args.max_sockets,
        max_tracked: args.max_tracked,
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
    let (inquirer, worked) = (Inquirer::default(), Duration::ZERO);
    let (sampling, peak) = (None, Peak::default());
    Runtime { programs, ring, kernel_log, intake, inquirer, sampling, worked, control, peak, sink, writer }
        .run(&start, signals, end)
        .await
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

impl From<cli::Hook> for HookChoice {
    fn from(hook: cli::Hook) -> Self {
        match hook {
            cli::Hook::Auto => Self::Auto,
            cli::Hook::Btf => Self::Btf,
            cli::Hook::Classic => Self::Classic,
        }
    }
}
