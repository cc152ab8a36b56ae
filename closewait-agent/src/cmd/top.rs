//! `closewait top`.

mod live;
mod playback;

use std::{
    env,
    io::{self, IsTerminal as _},
};

use ratatui::{buffer::Buffer, layout::Rect};

use self::{live::Live, playback::RecordingView};
use super::{is_colored, kill, list, print};
use crate::{
    cli::{self, Color, OutputArgs, OutputFormat},
    host::error_text::with_hints,
    logging,
    sink::{
        answer::Listing,
        command,
        list::{ListShape, Style, render},
    },
    tui::{Hands, MAX_SIZE, TopEvent, TopModel, TopSettings, TopSnapshot, TopTheme, draw, drive, text_of},
};
use closewait_engine::snapshot::query::Filter;

/// Size of a screen that is printed without a terminal, columns and rows.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// Maximum number of lines of sockets; a list of more is for `closewait list`.
const MAX_LINES: usize = 10_000;

/// Shows all groups live, or those of a recording.
///
/// # Errors
///
/// If the recording cannot be read, the terminal fails, or, without a terminal, there is neither an agent nor the privilege for
/// a scan.
pub(super) fn top(args: &cli::TopArgs) -> anyhow::Result<()> {
    let settings =
        TopSettings { is_root: rustix::process::geteuid().is_root(), agent_options: agent_options(&args.asked) };
    let (model, theme) = (TopModel::new(settings), TopTheme { color: is_colored(args.color) });
    let has_terminal = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
    let asked = args.asked.clone();
    match args.replay.clone() {
        Some(file) if args.once || !has_terminal => {
            once(model, theme, RecordingView::open(&file, args.at.as_deref())?.snapshot()?)
        }
        None if args.once || !has_terminal => once(model, theme, Live::new(asked).snapshot()?),
        Some(file) => {
            let at = args.at.clone();
            drive(model, theme, move || RecordingView::open(&file, at.as_deref()), &mut KillHands(asked))
        }
        None => drive(
            model,
            theme,
            {
                let asked = asked.clone();
                move || Ok(Live::new(asked))
            },
            &mut KillHands(asked),
        ),
    }
}

/// Prints the screen once.
fn once(mut model: TopModel, theme: TopTheme, snapshot: TopSnapshot) -> anyhow::Result<()> {
    let (width, height) = (list::width().unwrap_or(DEFAULT_SIZE.0), list::height().unwrap_or(DEFAULT_SIZE.1));
    let (width, height) = (width.min(MAX_SIZE.0), height.min(MAX_SIZE.1));
    let _no_effect = model.handle(TopEvent::Snapshot(Box::new(snapshot)));
    // The last row has the keys, and is not printed.
    let mut cells = Buffer::empty(Rect::new(0, 0, width, height.max(2)));
    draw(&model, theme, cells.area, &mut cells);
    cells.resize(Rect { height: cells.area.height - 1, ..cells.area });
    print(text_of(&cells, theme.color).as_bytes())
}

/// Returns the options of a command that queries the same agent, each with a blank before it.
fn agent_options(asked: &cli::AgentArgs) -> String {
    let alone = if asked.alone { " --alone" } else { "" };
    command::flag(asked.socket.as_deref()) + alone
}

/// Returns the shape of the list of a group's sockets.
fn list_shape(width: u16) -> ListShape {
    ListShape { style: Style { width: Some(width), wide: false, color: false }, ..ListShape::default() }
}

/// Returns the lines of a list.
fn lines(listing: Listing<'_>, shape: &ListShape) -> anyhow::Result<Vec<String>> {
    let mut text = Vec::new();
    render(listing, shape, &mut text)?;
    Ok(text_lines(&String::from_utf8_lossy(&text)))
}

/// Splits text into lines, and drops what no user scrolls through.
fn text_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().take(MAX_LINES).map(str::to_owned).collect();
    let more = text.lines().count() - lines.len();
    if more > 0 {
        lines.push(format!("and {more} more lines: closewait list"));
    }
    lines
}

/// Destroys sockets as `closewait kill --yes` does: it selects and checks each socket again.
struct KillHands(cli::AgentArgs);

impl Hands for KillHands {
    fn kill(&mut self, filter: &Filter, count: u32) {
        let args = kill_args(filter, &self.0, Some(count));
        if let Err(error) = kill::kill(&args) {
            log::error!("{}", with_hints(&error));
        }
        logging::flush();
    }
}

/// Returns the arguments of `closewait kill`: for a dry run, or to destroy at most a number of sockets.
fn kill_args(filter: &Filter, asked: &cli::AgentArgs, max: Option<u32>) -> cli::KillArgs {
    let Filter { pids, ports, peers, cgroups, older_than, verdicts } = filter.clone();
    let filters = cli::Filters { pid: pids, port: ports, peer: peers, cgroup: cgroups, older_than, verdict: verdicts };
    cli::KillArgs {
        shape: OutputArgs { output: OutputFormat::Text, color: Color::Auto },
        filters,
        yes: max.is_some(),
        max: max.unwrap_or(u32::MAX),
        wide: false,
        asked: asked.clone(),
    }
}
