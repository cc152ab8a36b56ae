//! `closewait list`.

use std::{
    collections::BTreeMap,
    env,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use super::{colour, run::unseen};
use crate::{
    cli::{self, Output},
    clock::{self, TimeAnchor},
    engine::{
        decode::Decoder,
        diagnose,
        listing::{Listed, Listing},
        query::{By, Filter, Form, Query},
        time::Boot,
        view::{Row, View},
    },
    host::{
        facts::Facts,
        plan::{HookChoice, plan},
    },
    sink::list::render,
    source::{diag, program::Programs, snapshot},
};

/// Shows the sockets that are in CLOSE_WAIT now.
///
/// # Errors
///
/// If this kernel or these privileges do not allow it, or standard output cannot be written.
pub(super) fn list(args: &cli::List) -> anyhow::Result<()> {
    let facts = Facts::gather();
    let plan = plan(&facts, HookChoice::Auto)?;
    let decoder = Decoder { tick: facts.tick, suspended: clock::suspended() };
    let mut listing = Listing::default();
    let knows_owners = plan.iterate_files;
    let blind = if plan.iterate_tcp || plan.iterate_files {
        let mut programs = Programs::load(&plan, None, false)?;
        unseen(&snapshot::take(&mut programs, |bytes| observe(decoder, &mut listing, bytes))?)
    } else {
        diag::take(decoder, clock::now, |observation| listing.handle(observation)).reasons
    };
    for what in blind {
        log::warn!("{what}");
    }
    let (now, listed) = (clock::now(), listing.oldest_first());
    let processes = BTreeMap::new();
    let rows = listed.iter().map(|one| row(now, one, knows_owners)).collect();
    let view = View { now, watched: None, rows, processes: &processes };
    let mut to = Vec::new();
    render(&view, &query(args), TimeAnchor::now(), &mut to)?;
    io::stdout().write_all(&to)?;
    Ok(io::stdout().flush()?)
}

/// What the command line asks for.
fn query(args: &cli::List) -> Query {
    let cli::List { shape, pid, port, peer, cgroup, older_than, verdict, by, wide, socket: _, alone: _ } = args;
    Query {
        filter: Filter {
            pids: pid.clone(),
            ports: port.clone(),
            peers: peer.clone(),
            cgroups: cgroup.clone(),
            older_than: *older_than,
            verdicts: verdict.clone(),
        },
        by: by.map(Into::into),
        form: match shape.output {
            Output::Text => Form::Text,
            Output::Json => Form::Json,
        },
        width: if *wide { None } else { width() },
        wide: *wide,
        colour: colour(*shape),
    }
}

/// How wide the screen is; `None` if standard output is none. `COLUMNS` has the last word, as `watch` sets it.
fn width() -> Option<u16> {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    columns.or_else(|| {
        if !io::stdout().is_terminal() {
            return None;
        }
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes a `winsize`, and `size` is one that lives until the call returns.
        let failed = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
        (failed == 0 && size.ws_col > 0).then_some(size.ws_col)
    })
}

fn row(now: Boot, one: &Listed, knows_owners: bool) -> Row<'_> {
    let (socket, dwell) = (&one.socket, one.dwell(now));
    let holders = knows_owners.then_some(one.holders.as_slice());
    let (group, legs) = (diagnose::Group::default(), diagnose::Legs::default());
    let verdict = diagnose::verdict(&diagnose::Case {
        now,
        stuck_after: Duration::from_secs(60),
        socket,
        dwell,
        entered: now - dwell.at_least(),
        gone: None,
        holders,
        place: None,
        untouched: Duration::ZERO,
        group: &group,
        listener: None,
        legs: &legs,
        processes: &[],
        conntrack: None,
    });
    let dwell = Some(dwell);
    Row { socket, dwell, gone: None, holders, listener: None, workload: None, conntrack: None, leg: None, verdict }
}

fn observe(decoder: Decoder, listing: &mut Listing, bytes: &[u8]) {
    match decoder.decode(bytes) {
        Ok(observation) => listing.handle(observation),
        Err(error) => log::warn!("a record was not understood: {error}"),
    }
}

impl From<cli::By> for By {
    fn from(by: cli::By) -> Self {
        match by {
            cli::By::Process => Self::Process,
            cli::By::Listener => Self::Listener,
            cli::By::Peer => Self::Peer,
            cli::By::Cgroup => Self::Cgroup,
        }
    }
}
