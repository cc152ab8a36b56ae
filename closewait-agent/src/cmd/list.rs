//! `closewait list`.

use std::{
    io::{self, Write as _},
    thread,
    time::Duration,
};

use crate::{
    cli::{self, Output},
    clock::{self, TimeAnchor},
    engine::{Config, Engine, Events, decode::Decoder, model::Observation},
    host::{
        facts::Facts,
        plan::{HookChoice, plan},
    },
    intake::Intake,
    sink::{json, table},
    source::{inquiry::Inquirer, program::Programs, walk},
};

/// The time between two looks at what processes do.
const WINDOW: Duration = Duration::from_millis(20);

/// Shows the sockets that are in CLOSE_WAIT now.
///
/// # Errors
///
/// If this kernel or these privileges do not allow it, or standard output cannot be written.
pub(super) fn list(args: &cli::List) -> anyhow::Result<()> {
    let facts = Facts::gather();
    let plan = plan(&facts, HookChoice::Auto)?;
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let config = Config {
        stuck_after: Duration::from_secs(60),
        events: Events::Stuck,
        histogram_every: Duration::from_secs(60),
        watching: false,
        ephemeral_ports: 0..=0,
    };
    let mut intake = Intake::new(Engine::new(config, clock::now()), decoder, None);
    let needs_programs = plan.iterate_tcp || plan.iterate_files;
    let mut programs = needs_programs.then(|| Programs::load(&plan, None, false)).transpose()?;
    let blind = walk::everything(programs.as_mut(), decoder, clock::now, |found| intake.found(found))?;
    for what in blind {
        log::warn!("{what}");
    }
    let inquiry = intake.engine.inquiry(clock::now());
    let began = clock::now();
    let sampling = Inquirer::default().begin(programs.as_mut(), &inquiry, |found| intake.found(found));
    if !inquiry.processes.is_empty() {
        thread::sleep(WINDOW.saturating_sub(clock::now().since(began)));
    }
    let at = clock::now();
    for process in sampling.finish(at) {
        intake.fact(Observation::Process { at, process: Box::new(process) });
    }
    let view = intake.engine.view(clock::now());
    let mut to = Vec::new();
    match args.shape.output {
        Output::Json => {
            let anchor = TimeAnchor::now();
            for row in &view.rows {
                json::listed(view.now, anchor, row, &mut to)?;
            }
        }
        Output::Text => table::write(&view, &mut to),
    }
    io::stdout().write_all(&to)?;
    Ok(io::stdout().flush()?)
}
