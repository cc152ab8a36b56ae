//! Screens of some sizes. `SNAPSHOTS=overwrite cargo test -p closewait-agent --lib tui` writes them again.

use std::time::UNIX_EPOCH;

use ratatui::{Terminal, backend::TestBackend};
use snapbox::{assert_data_eq, file};

use super::*;
use crate::{
    clock::TimeAnchor,
    sink::status::tests::{group, report, scene},
    tui::{
        ansi::text_of,
        messages::{TopEvent, TopKey, TopSettings},
    },
};
use closewait_engine::model::{Certainty, Class, IncidentReport, Moment};

const SIZES: [(u16, u16); 4] = [(40, 10), (80, 24), (120, 40), (200, 50)];
const PLAIN: TopTheme = TopTheme { color: false };

/// Returns the scene with counts of the last 16 minutes.
fn scene_report() -> IncidentReport {
    let mut report = report(scene());
    for group in &mut report.groups {
        let (at, count, grows) = (report.at, group.pileup.count, group.pileup.grows());
        let moment = |ago: u64| {
            let count = if grows { count - count * ago / 16 } else { count };
            Moment { at: at - Duration::from_secs(60 * ago), count, entered: 0, left: 0 }
        };
        group.pileup.evidence.history = (1..=16).rev().map(moment).collect();
    }
    report
}

fn model_of(report: IncidentReport, source: SourceState) -> TopModel {
    let mut model = TopModel::new(TopSettings { is_root: true, ..TopSettings::default() });
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    let snapshot = TopSnapshot { report, anchor, source, notes: Vec::new() };
    model.handle(TopEvent::Snapshot(Box::new(snapshot)));
    model
}

fn agent_model() -> TopModel {
    model_of(scene_report(), SourceState::Agent)
}

fn screen_in(model: &TopModel, theme: TopTheme, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, theme, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn screen(model: &TopModel, size: (u16, u16)) -> String {
    text_of(&screen_in(model, PLAIN, size), false)
}

fn all_screens(model: &TopModel) -> String {
    SIZES.map(|(width, height)| format!("{width}x{height}\n{}\n", screen(model, (width, height)))).concat()
}

fn press(model: &mut TopModel, key: TopKey) {
    let _effect = model.handle(TopEvent::Key(key));
}

#[test]
fn groups_and_the_details_of_one() {
    let mut model = agent_model();
    assert_data_eq!(all_screens(&model), file!["screens/groups.txt"].raw());
    press(&mut model, TopKey::Down);
    press(&mut model, TopKey::Char('p'));
    assert_data_eq!(screen(&model, (100, 30)), file!["screens/paused.txt"].raw());
}

#[test]
fn severity_is_color_and_a_word() {
    let model = agent_model();
    let colored = text_of(&screen_in(&model, TopTheme { color: true }, (80, 24)), true);
    assert_data_eq!(colored.replace('\x1b', "ESC"), file!["screens/color.txt"].raw());
    let plain = screen_in(&model, PLAIN, (80, 24));
    for cell in plain.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "no color where none is wanted");
    }
    let reversed = plain.content().iter().filter(|cell| cell.modifier.contains(Modifier::REVERSED)).count();
    assert!(reversed > 20, "the selection is visible without color");
}

#[test]
fn sockets_help_and_a_plan() {
    let mut model = agent_model();
    press(&mut model, TopKey::Enter);
    let filter = match &model.page {
        TopPage::Text(text) => text.filter.clone(),
        TopPage::Groups | TopPage::Help { .. } => panic!("another page"),
    };
    let lines: Vec<String> = (1..=40).map(|number| format!("socket {number}")).collect();
    let _no_effect = model.handle(TopEvent::Sockets { filter, lines: lines.clone() });
    press(&mut model, TopKey::PageDown);
    let sockets = screen(&model, (80, 24));
    press(&mut model, TopKey::Escape);
    press(&mut model, TopKey::Char('K'));
    let filter = match &model.page {
        TopPage::Text(text) => text.filter.clone(),
        TopPage::Groups | TopPage::Help { .. } => panic!("another page"),
    };
    let _no_effect = model.handle(TopEvent::Plan { filter, lines, count: 37, at: BootTime(1) });
    press(&mut model, TopKey::Char('3'));
    let plan = screen(&model, (80, 24));
    press(&mut model, TopKey::Escape);
    press(&mut model, TopKey::Char('?'));
    let help = screen(&model, (80, 24));
    assert_data_eq!(format!("{sockets}\n{plan}\n{help}"), file!["screens/pages.txt"].raw());
}

#[test]
fn without_an_agent_growth_is_that_of_the_session() {
    let scans = SourceState::Scans(Duration::from_secs(3));
    let mut alone = report(scene());
    alone.watched = None;
    for group in &mut alone.groups {
        (group.pileup.shape, group.pileup.slope, group.pileup.forecast) = (None, None, None);
    }
    let mut model = model_of(alone.clone(), scans.clone());
    for second in 1..=10 {
        alone.at = alone.at + Duration::from_secs(3);
        alone.groups[0].pileup.count += second;
        let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
        let snapshot = TopSnapshot { report: alone.clone(), anchor, source: scans.clone(), notes: Vec::new() };
        let _no_effect = model.handle(TopEvent::Snapshot(Box::new(snapshot)));
    }
    model.settings.is_root = false;
    model.shown.as_mut().unwrap().notes.push("owners of 3 sockets cannot be read".to_owned());
    assert_data_eq!(screen(&model, (120, 24)), file!["screens/alone.txt"].raw());
}

#[test]
fn a_recording_shows_its_time() {
    let source = SourceState::Recording {
        name: "shop.recording".to_owned(),
        begin: BootTime(900_000_000_000),
        end: BootTime(1_200_000_000_000),
    };
    let text = screen(&model_of(scene_report(), source), (80, 24));
    let first = text.lines().next().unwrap();
    assert_eq!(first, "closewait top  1m40s of 5m  shop.recording                    stopped  00:16:40Z");
    assert!(text.contains("space play"), "{text}");
}

#[test]
fn every_size_is_valid_and_shows_the_selected_group() {
    let many =
        (0_u16..40).map(|number| group(Class::Hung, Certainty::High, 400, 9000 + number, ("worker", 7, "job.py")));
    let mut model = model_of(report(many.collect()), SourceState::Agent);
    for key in [TopKey::Home, TopKey::PageDown, TopKey::End] {
        press(&mut model, key);
        for (width, height) in [(0, 0), (1, 1), (3, 2), (10, 3), (39, 9), (40, 10), (79, 13), (80, 14), (300, 100)] {
            let text = screen(&model, (width, height));
            if width >= 40 && height >= 6 {
                assert_eq!(text.lines().filter(|line| line.starts_with('▶')).count(), 1, "{width}x{height}\n{text}");
            }
        }
        for page in [TopKey::Char('?'), TopKey::Enter, TopKey::Char('K')] {
            press(&mut model, page);
            for (width, height) in [(0, 0), (1, 1), (10, 3), (300, 100)] {
                screen(&model, (width, height));
            }
            press(&mut model, TopKey::Escape);
        }
    }
}

#[test]
fn hostile_names_stay_in_their_cells() {
    let escaped = closewait_engine::text::harmless(b"\x1b]0;x\x07\n\xe2\x80\xae");
    let hostile = group(Class::Hung, Certainty::High, 9, 1, ("python3", 4_194_304, &escaped));
    let wide = group(Class::Leak, Certainty::High, 8, 2, ("日本語サーバ", 7, "注文処理注文処理注文処理注文処理.py"));
    let mut raw = group(Class::Leak, Certainty::High, 7, 3, ("app", 9, "x.py"));
    // The texts of the engine are harmless. The cells do not depend on that.
    raw.verdict.text = "a\x1b[2Jb\nc\td\u{202e}e".to_owned();
    let mut model = model_of(report(vec![hostile, wide, raw]), SourceState::Agent);
    press(&mut model, TopKey::End);
    assert_data_eq!(all_screens(&model), file!["screens/names.txt"].raw());
    for size in SIZES {
        let text = screen(&model, size);
        assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
        for line in text.lines() {
            assert!(columns(line) <= size.0.into(), "{line}");
        }
    }
}

#[test]
fn the_first_answer_and_errors_are_awaited_on_the_screen() {
    let mut model = TopModel::default();
    assert_eq!(screen(&model, (40, 5)).lines().nth(1), Some("waiting for the first answer"));
    let _no_effect = model.handle(TopEvent::Failed("no privilege".to_owned()));
    assert_eq!(screen(&model, (40, 5)).lines().nth(1), Some("no privilege"));
    let mut model = agent_model();
    let _no_effect = model.handle(TopEvent::Failed("the agent at /run/x does not answer\nhint: restart it".to_owned()));
    assert_eq!(screen(&model, (80, 24)).lines().nth(3), Some("the agent at /run/x does not answer; hint: restart it"));
}
