//! Screens and pages of recorded incidents, at several sizes. `SNAPSHOTS=overwrite cargo test -p closewait-agent --lib screens`
//! writes them again.

use std::{fmt::Write as _, fs::File, path::Path, time::Duration};

use snapbox::{assert_data_eq, file};

use crate::{
    clock::TimeAnchor,
    recording::{Item, Player, Reader, Shown},
    sink::{
        Form, Numbering, Sink as _,
        answer::{AnswerCollector, Listing},
        kill,
        list::{self, ListShape, Style},
        status::{self, Screen, StatusPage},
        text::{FoldedText, TextStyle},
    },
    tui::{
        SourceState, TopEffect, TopEvent, TopKey, TopModel, TopRequest, TopSettings, TopSnapshot, TopTheme, draw,
        text_of,
    },
};
use closewait_engine::{
    kill::{Refusal, Selected, Target},
    model::IncidentReport,
    snapshot::query::{Filter, GroupBy, ListContent, Query},
    time::BootTime,
};
use ratatui::{buffer::Buffer, layout::Rect};

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 50)];
/// Recordings: a worker pool that hangs, a program that forgets to close, one that stops accepting, a proxy that waits for its
/// backend, a program with descriptors of ended connections.
const RECORDINGS: [&str; 5] = ["worker-pool", "tls-forgets", "stops-accepting", "haproxy", "zombies"];
/// Recordings with groups for `closewait top`.
const SHOWN_IN_TOP: [&str; 2] = ["worker-pool", "haproxy"];

/// Recording, played to its end.
struct Played {
    player: Player,
    end: BootTime,
    anchor: TimeAnchor,
}

impl Played {
    /// Plays a recording, and shows its events to `show`.
    fn new(name: &str, mut show: impl FnMut(Shown<'_>, TimeAnchor, &mut Numbering)) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/{name}.recording"));
        let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
        let (mut player, mut numbering) = (Player::default(), Numbering::default());
        let mut end = BootTime::default();
        for item in &mut reader {
            let item = item.unwrap();
            if let Item::Time(at) | Item::Began { at, .. } = &item {
                end = end.max(*at);
            }
            player
                .play(item, |shown, anchor| {
                    show(shown, anchor, &mut numbering);
                    Ok(())
                })
                .unwrap();
        }
        let anchor = player.anchor();
        Self { player, end, anchor }
    }

    fn silent(name: &str) -> Self {
        Self::new(name, |_, _, _| {})
    }

    fn report(&self) -> IncidentReport {
        self.player.engine().unwrap().report(self.end)
    }

    /// Hands the answer to a query to `show`.
    fn answer<T>(&self, query: &Query, shape: &ListShape, show: impl FnOnce(AnswerCollector<'_>) -> T) -> T {
        let engine = self.player.engine().unwrap();
        show(AnswerCollector::new(shape).scanned(engine, query, self.end, self.anchor).unwrap())
    }

    fn list(&self, filter: &Filter, shape: &ListShape) -> String {
        let query = Query::List { filter: filter.clone(), content: shape.content() };
        let mut to = Vec::new();
        self.answer(&query, shape, |answer| list::render(answer.listing().unwrap(), shape, &mut to)).unwrap();
        String::from_utf8(to).unwrap()
    }

    /// Returns the plan of `closewait kill`, in which every third socket is refused, and the number of the others.
    fn plan(&self, filter: &Filter, width: u16) -> (String, usize) {
        let shape = ListShape { form: Form::Json, ..ListShape::default() };
        let query = Query::List { filter: filter.clone(), content: ListContent::Sockets };
        let (mut to, mut count) = (Vec::new(), 0);
        let mut plan = |listing: Listing<'_>| {
            let selected: Vec<Selected> = listing.rows().map(|row| Selected::new(&row, self.end)).collect();
            let plans: Vec<_> = selected.iter().enumerate().map(|(at, one)| planned(at, one)).collect();
            count = plans.iter().flatten().count();
            kill::plan(self.end, &selected, &plans, style(width), &mut to);
        };
        self.answer(&query, &shape, |answer| plan(answer.listing().unwrap()));
        (String::from_utf8(to).unwrap(), count)
    }
}

fn planned(at: usize, one: &Selected) -> Result<Target, Refusal> {
    let (local, remote) = (one.socket.local, one.socket.remote);
    let target =
        Target { netns: 1, local, remote, cookie: 7, inode: 99, interface: 0, entered: None, peer_reads: false };
    if at % 3 == 2 { Err(Refusal::InUse(Duration::from_secs(3))) } else { Ok(target) }
}

fn style(width: u16) -> Style {
    Style { width: Some(width), wide: false, color: false }
}

/// Returns the shape of a list on a screen.
fn shape((width, height): (u16, u16), by: Option<GroupBy>) -> ListShape {
    ListShape { by, style: style(width), height: Some(height.into()), ..ListShape::default() }
}

/// Returns one page for each recording and size, and checks that its lines fit the width.
fn pages(recordings: &[&str], page: impl Fn(&Played, (u16, u16)) -> String) -> String {
    let mut all = String::new();
    for name in recordings {
        let played = Played::silent(name);
        for size in SIZES {
            let text = page(&played, size);
            check_width(&text, size.0);
            writeln!(all, "== {name}, {}x{}\n{text}", size.0, size.1).unwrap();
        }
    }
    all
}

/// Checks that every line fits, except a command, which is copied as a whole.
fn check_width(text: &str, width: u16) {
    for line in text.lines().filter(|line| !line.starts_with("    ")) {
        assert!(status::live::columns(line) <= width.into(), "{width} columns: {line}");
    }
}

#[test]
fn the_page_of_status() {
    let page = |played: &Played, (width, height): (u16, u16)| {
        let page =
            StatusPage { report: &played.report(), anchor: played.anchor, is_root: true, notes: &[], socket: None };
        let mut to = Vec::new();
        let screen = Screen { width: width.into(), height: Some(height.into()), color: false };
        status::render(&page, Form::Text, screen, &mut to).unwrap();
        String::from_utf8(to).unwrap()
    };
    assert_data_eq!(pages(&RECORDINGS, page), file!["screens/status.txt"].raw());
}

#[test]
fn the_list_of_sockets() {
    let all = pages(&RECORDINGS, |played, size| played.list(&Filter::default(), &shape(size, None)));
    assert_data_eq!(all, file!["screens/list.txt"].raw());
}

#[test]
fn the_lists_of_groups() {
    let of_report = pages(&RECORDINGS, |played, size| {
        let mut to = Vec::new();
        list::groups_of_report(&played.report(), played.anchor, &shape(size, None), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    });
    assert_data_eq!(of_report, file!["screens/list-by-group.txt"].raw());
    let of = |by| pages(&RECORDINGS, |played, size| played.list(&Filter::default(), &shape(size, Some(by))));
    assert_data_eq!(of(GroupBy::Process), file!["screens/list-by-process.txt"].raw());
    assert_data_eq!(of(GroupBy::Listener), file!["screens/list-by-listener.txt"].raw());
    assert_data_eq!(of(GroupBy::Peer), file!["screens/list-by-peer.txt"].raw());
    assert_data_eq!(of(GroupBy::Cgroup), file!["screens/list-by-cgroup.txt"].raw());
}

#[test]
fn the_text_of_run() {
    let mut all = String::new();
    for name in RECORDINGS {
        for (width, _) in SIZES {
            let (mut sink, mut to) = (FoldedText::new(TextStyle::of_terminal(width)), Vec::new());
            Played::new(name, |shown, anchor, numbering| match shown {
                Shown::Start(start) => sink.event(&numbering.start(start, anchor), &mut to).unwrap(),
                Shown::Finding(finding) if sink.shows(finding) => {
                    sink.event(&numbering.finding(finding, anchor), &mut to).unwrap();
                }
                Shown::StillStuck(at, counts) => sink.still_stuck(at, counts, anchor, &mut to),
                Shown::Finding(_) | Shown::HandedOut | Shown::Unwritten => {}
            });
            let text = String::from_utf8(to).unwrap();
            check_width(&text, width);
            writeln!(all, "== {name}, {width} columns\n{text}").unwrap();
        }
    }
    assert_data_eq!(all, file!["screens/run.txt"].raw());
}

fn screen(model: &TopModel, (width, height): (u16, u16)) -> String {
    let mut cells = Buffer::empty(Rect::new(0, 0, width, height));
    draw(model, TopTheme { color: false }, cells.area, &mut cells);
    text_of(&cells, false)
}

/// Returns the screen after a key, and after the answer to the request of that key.
fn screen_after(key: TopKey, played: &Played, size: (u16, u16)) -> String {
    let snapshot =
        TopSnapshot { report: played.report(), anchor: played.anchor, source: SourceState::Agent, notes: Vec::new() };
    let mut model = TopModel::new(TopSettings { is_root: true, ..TopSettings::default() });
    let _no_effect = model.handle(TopEvent::Snapshot(Box::new(snapshot)));
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    let answer = match model.handle(TopEvent::Key(key)) {
        Some(TopEffect::Ask(TopRequest::Sockets(filter))) => {
            let shape = ListShape { style: style(size.0), ..ListShape::default() };
            let lines = lines(played.list(&filter, &shape));
            Some(TopEvent::Sockets { filter, lines })
        }
        Some(TopEffect::Ask(TopRequest::Plan(filter))) => {
            let (plan, count) = played.plan(&filter, size.0);
            check_width(&plan, size.0);
            Some(TopEvent::Plan { filter, lines: lines(plan), count, at: played.end })
        }
        _ => None,
    };
    if let Some(answer) = answer {
        let _no_effect = model.handle(answer);
    }
    screen(&model, size)
}

#[test]
fn the_screens_of_top() {
    let after = |recordings, key| pages(recordings, |played, size| screen_after(key, played, size));
    assert_data_eq!(after(&SHOWN_IN_TOP, TopKey::Home), file!["screens/top.txt"].raw());
    assert_data_eq!(after(&SHOWN_IN_TOP, TopKey::Enter), file!["screens/top-sockets.txt"].raw());
    assert_data_eq!(after(&SHOWN_IN_TOP, TopKey::Char('K')), file!["screens/top-plan.txt"].raw());
    assert_data_eq!(after(&SHOWN_IN_TOP[..1], TopKey::Char('?')), file!["screens/top-help.txt"].raw());
}
