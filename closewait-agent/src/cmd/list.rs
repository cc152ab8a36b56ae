//! `closewait list`.

use std::io::{self, Write as _};

use super::run::unseen;
use crate::{
    cli::{self, Output},
    clock::{self, TimeAnchor},
    engine::{
        decode::Decoder,
        listing::{Listed, Listing},
        time::Boot,
    },
    host::{
        facts::Facts,
        plan::{HookChoice, plan},
    },
    sink::{json, table},
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
    let mut to = Vec::new();
    match args.shape.output {
        Output::Json => objects(now, &listed, knows_owners, &mut to)?,
        Output::Text => table::write(now, &listed, knows_owners, &mut to),
    }
    io::stdout().write_all(&to)?;
    Ok(io::stdout().flush()?)
}

fn objects(now: Boot, listed: &[Listed], knows_owners: bool, to: &mut Vec<u8>) -> io::Result<()> {
    let anchor = TimeAnchor::now();
    for one in listed {
        let owners = knows_owners.then_some(one.holders.as_slice());
        json::listed(now, anchor, &one.socket, one.dwell(now), owners, to)?;
    }
    Ok(())
}

fn observe(decoder: Decoder, listing: &mut Listing, bytes: &[u8]) {
    match decoder.decode(bytes) {
        Ok(observation) => listing.handle(observation),
        Err(error) => log::warn!("a record was not understood: {error}"),
    }
}
