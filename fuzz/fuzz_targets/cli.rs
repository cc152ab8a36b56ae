//! Command lines of users, and queries or answers of other processes: one word per line, a query in JSON, or a frame
//! of an answer.
#![no_main]

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use clap::Parser as _;
use closewait::{
    cli::{Cli, Command, Speed},
    sink::{
        Form,
        answer::AnswerCollector,
        list::{self, ListShape},
    },
};
use closewait_engine::snapshot::query::{GroupBy, Peer, Query};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    match Cli::try_parse_from([OsStr::new("closewait")].into_iter().chain(words)).map(Cli::into_command) {
        Ok(Command::List(list)) => list.filters.peer.iter().for_each(again),
        Ok(Command::Kill(kill)) => {
            assert!(kill.max > 0 && kill.filters.cgroup.iter().all(|name| !name.is_empty()));
        }
        Ok(Command::Run(run)) => {
            assert!(!run.stuck_after.is_zero() && !run.histogram_every.is_zero());
            assert!(run.ring_buffer.is_none_or(u32::is_power_of_two) && run.max_sockets != Some(0));
            assert!(run.connection_limit.iter().all(|(port, most)| *port > 0 && *most > 0));
        }
        Ok(Command::Replay(replay)) => {
            assert!(match replay.speed {
                Speed::Max => true,
                Speed::Times(times) => times.is_finite() && times > 0.0,
            });
        }
        Ok(Command::Report(report)) => drop(report.file),
        Ok(Command::Hooks(hooks)) => assert!(!hooks.timeout.is_zero()),
        Ok(Command::Check(check)) => {
            let thresholds = [check.warn, check.crit].into_iter().flatten();
            assert!(thresholds.clone().all(|level| level.stuck != Some(0)));
            assert!(thresholds.filter_map(|level| level.growth).all(|growth| growth.is_finite() && growth > 0.0));
        }
        Ok(Command::Top(top)) => assert!(top.at.is_none() || top.replay.is_some()),
        Ok(
            Command::Status(_)
            | Command::Explain(_)
            | Command::Stacks(_)
            | Command::JvmDumps
            | Command::Peeks
            | Command::Completions(_)
            | Command::Doctor(_)
            | Command::Tail(_)
            | Command::Config(_),
        ) => {}
        Err(error) => assert!([0, 2].contains(&error.exit_code()), "{error}"),
    }
    if let Ok(peer) = str::from_utf8(bytes).unwrap_or_default().parse() {
        again(&peer);
    }
    show(bytes);
    if let Ok(query) = serde_json::from_slice::<Query>(bytes) {
        let line = serde_json::to_string(&query).expect("a question can be asked");
        assert!(!line.contains('\n'), "a question is one line");
        assert_eq!(serde_json::from_str::<Query>(&line).expect("and understood"), query);
    }
});

/// Renders a frame: no text in it may act on a terminal.
fn show(frame: &[u8]) {
    let mut shown = Vec::new();
    for form in [Form::Text, Form::Json] {
        for by in [None, Some(GroupBy::Process), Some(GroupBy::Listener), Some(GroupBy::Peer), Some(GroupBy::Cgroup)] {
            let shape = ListShape { form, by, ..ListShape::default() };
            let mut answer = AnswerCollector::new(&shape);
            if answer.frame(frame).is_ok()
                && let Ok(listing) = answer.listing()
            {
                list::render(listing, &shape, &mut shown).expect("a list is written");
            }
        }
    }
    let shown = str::from_utf8(&shown).expect("lines are UTF-8");
    assert!(!shown.chars().any(|shown| shown.is_control() && shown != '\n'), "{shown:?}");
}

/// Parses a peer again from its own text.
fn again(peer: &Peer) {
    assert_eq!(peer.to_string().parse::<Peer>().as_ref(), Ok(peer));
}
