use std::time::UNIX_EPOCH;

use super::*;
use crate::{
    clock::TimeAnchor,
    sink::status::tests::{group, report as sorted_report},
};
use closewait_engine::model::{Certainty, Class, IncidentReport};

/// Returns a group of an own process that hangs.
pub(in crate::tui) fn hung(count: u64, port: u16) -> Pileup {
    group(Class::Hung, Certainty::High, count, port, ("python3", u32::from(port), "orders.py"))
}

pub(in crate::tui) fn report(pileups: Vec<Pileup>) -> IncidentReport {
    sorted_report(pileups)
}

fn snapshot(pileups: Vec<Pileup>, source: SourceState) -> TopEvent {
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    TopEvent::Snapshot(Box::new(TopSnapshot { report: report(pileups), anchor, source, notes: Vec::new() }))
}

fn from_agent(pileups: Vec<Pileup>) -> TopEvent {
    snapshot(pileups, SourceState::Agent)
}

/// Returns a view of groups with these counts and ports, the largest first.
fn model(groups: &[(u64, u16)]) -> TopModel {
    let mut model = TopModel::default();
    update(&mut model, groups);
    model
}

fn update(model: &mut TopModel, groups: &[(u64, u16)]) {
    let event = from_agent(groups.iter().map(|(count, port)| hung(*count, *port)).collect());
    assert_eq!(model.handle(event), None);
}

fn press(model: &mut TopModel, keys: &str) -> Option<TopEffect> {
    let mut last = None;
    for key in keys.chars() {
        last = model.handle(TopEvent::Key(match key {
            '\n' => TopKey::Enter,
            '\x1b' => TopKey::Escape,
            other => TopKey::Char(other),
        }));
    }
    last
}

fn ports(model: &TopModel) -> Vec<u16> {
    model.groups().iter().filter_map(|group| group.pileup.group.local_port).collect()
}

fn selected_port(model: &TopModel) -> Option<u16> {
    model.selected().and_then(|pileup| pileup.group.local_port)
}

#[test]
fn the_selection_stays_on_its_group_when_rows_move() {
    let mut model = model(&[(30, 1), (20, 2), (10, 3)]);
    assert_eq!((selected_port(&model), ports(&model)), (Some(1), vec![1, 2, 3]));
    press(&mut model, "j");
    assert_eq!(selected_port(&model), Some(2));
    update(&mut model, &[(30, 1), (20, 2), (50, 3)]);
    assert_eq!((selected_port(&model), ports(&model), model.position()), (Some(2), vec![3, 1, 2], Some(2)));
    press(&mut model, "s");
    assert_eq!(selected_port(&model), Some(2), "another order");
    press(&mut model, "k");
    assert_eq!(selected_port(&model), Some(1), "the row above in the new order");
}

#[test]
fn a_group_that_ends_leaves_the_selection_to_another_and_the_user_learns_of_it() {
    let mut model = model(&[(30, 1), (20, 2), (10, 3)]);
    press(&mut model, "j");
    update(&mut model, &[(30, 1), (10, 3)]);
    assert_eq!(selected_port(&model), Some(3));
    assert!(model.message.as_ref().is_some_and(|message| message.contains("has ended")), "{:?}", model.message);
    update(&mut model, &[]);
    assert_eq!(selected_port(&model), None);
    assert_eq!(press(&mut model, "y\nK"), None, "without a group there is nothing to do");
}

#[test]
fn a_filter_matches_class_owner_and_port() {
    let mut model = model(&[(30, 8080), (20, 8081), (10, 9090)]);
    press(&mut model, "/80");
    assert_eq!(ports(&model), [8080, 8081]);
    press(&mut model, "81\n");
    assert_eq!((ports(&model), model.input.clone()), (vec![8081], None));
    update(&mut model, &[(30, 8080), (20, 8081), (40, 9090)]);
    assert_eq!((ports(&model), selected_port(&model)), (vec![8081], Some(8081)), "it also filters later snapshots");
    press(&mut model, "\x1b/HUNG\n");
    assert_eq!(ports(&model).len(), 3);
    press(&mut model, "/leaky\n");
    assert_eq!((ports(&model).len(), selected_port(&model)), (0, None));
    press(&mut model, "\x1b");
    assert_eq!(ports(&model).len(), 3);
}

#[test]
fn a_filter_is_limited_and_harmless() {
    let mut model = model(&[(30, 8080)]);
    press(&mut model, &format!("/{}\u{7}\u{202e}", "x".repeat(1000)));
    assert_eq!(model.filter, "x".repeat(MAX_INPUT));
}

#[test]
fn every_order_sorts() {
    let mut groups = [hung(30, 1), hung(20, 2), hung(10, 3)];
    for (group, (growth, since)) in groups.iter_mut().zip([(1.0, 30), (3.0, 10), (2.0, 20)]) {
        group.slope.as_mut().unwrap().per_second = growth;
        group.onset.first_stuck = BootTime(since);
    }
    let mut model = TopModel::default();
    model.handle(from_agent(groups.to_vec()));
    let mut orders = Vec::new();
    for _ in 0..5 {
        press(&mut model, "s");
        orders.push((model.order.name(), ports(&model)));
    }
    let expected = [
        ("sockets", vec![1, 2, 3]),
        ("growth", vec![2, 3, 1]),
        ("age", vec![2, 3, 1]),
        ("name", vec![1, 2, 3]),
        ("urgency", vec![1, 2, 3]),
    ];
    assert_eq!(orders, expected);
}

#[test]
fn a_paused_screen_changes_when_it_continues() {
    let mut model = model(&[(30, 1), (20, 2)]);
    press(&mut model, "p");
    update(&mut model, &[(30, 1), (99, 2)]);
    assert_eq!((ports(&model), model.is_paused), (vec![1, 2], true));
    press(&mut model, "p");
    assert_eq!((ports(&model), selected_port(&model)), (vec![2, 1], Some(1)));
}

#[test]
fn sockets_are_those_of_the_selected_group() {
    let mut model = model(&[(30, 8080), (20, 9090)]);
    press(&mut model, "j");
    let Some(TopEffect::Ask(TopRequest::Sockets(filter))) = press(&mut model, "\n") else { panic!("no request") };
    assert_eq!((filter.pids.as_slice(), filter.ports.as_slice(), filter.older_than), (&[9090][..], &[9090][..], None));
    let stale = Filter { ports: vec![1], ..Filter::default() };
    model.handle(TopEvent::Sockets { filter: stale, lines: vec!["stale".to_owned()] });
    let lines = |model: &TopModel| match &model.page {
        TopPage::Text(text) => text.lines.clone(),
        TopPage::Groups | TopPage::Help { .. } => panic!("another page"),
    };
    assert_eq!(lines(&model), None, "the answer to another request");
    model.handle(TopEvent::Sockets { filter, lines: vec!["line".to_owned()] });
    assert_eq!(lines(&model), Some(vec!["line".to_owned()]));
    press(&mut model, "q");
    assert_eq!(model.page, TopPage::Groups);
}

/// Opens the plan of the selected group with this number of sockets.
fn planned(model: &mut TopModel, count: usize) -> Filter {
    let Some(TopEffect::Ask(TopRequest::Plan(filter))) = press(model, "K") else { panic!("no request") };
    model.handle(TopEvent::Plan { filter: filter.clone(), lines: vec!["plan".to_owned()], count, at: BootTime(7) });
    filter
}

#[test]
fn only_the_number_of_the_plan_destroys() {
    for typed in ["", "11", "1", "12x", "-12", "y", "yes"] {
        let mut model = model(&[(30, 8080)]);
        planned(&mut model, 12);
        let effect = press(&mut model, &format!("{typed}\n"));
        assert_eq!((effect, &model.page), (None, &TopPage::Groups), "{typed:?}");
    }
    let mut model = model(&[(30, 8080)]);
    let filter = planned(&mut model, 12);
    assert_eq!(filter.older_than, Some(Duration::from_secs(60)), "no young socket");
    assert_eq!(press(&mut model, "12"), None);
    // The rows of other groups move meanwhile.
    update(&mut model, &[(30, 8080), (99, 1)]);
    assert_eq!(press(&mut model, "\n"), Some(TopEffect::Kill { filter, count: 12, at: BootTime(7) }));
}

#[test]
fn a_new_plan_needs_its_own_number() {
    let mut model = model(&[(30, 8080)]);
    let filter = planned(&mut model, 12);
    press(&mut model, "12");
    model.handle(TopEvent::Plan { filter, lines: Vec::new(), count: 13, at: BootTime(8) });
    assert_eq!(press(&mut model, "\n"), None);
    planned(&mut model, 0);
    assert_eq!((press(&mut model, "0\n"), model.input), (None, None), "an empty plan has no number");
}

#[test]
fn the_command_selects_the_same_sockets() {
    let older_than = Some(Duration::from_secs(90));
    let server = filter_of(&hung(30, 8080), older_than);
    let command = kill_command(&server, " --alone");
    assert_eq!(command, "closewait kill --pid 8080 --port 8080 --older-than 1m30s --alone");
    let mut client = hung(30, 1);
    client.owners = None;
    client.evidence.process = None;
    client.group.local_port = None;
    client.group.remote = Some(closewait_engine::model::Endpoint { address: [10, 0, 0, 7].into(), port: 443 });
    assert_eq!(kill_command(&filter_of(&client, None), ""), "closewait kill --peer 10.0.0.7:443");
    let address = std::net::Ipv6Addr::LOCALHOST.into();
    client.group.remote = Some(closewait_engine::model::Endpoint { address, port: 443 });
    assert_eq!(kill_command(&filter_of(&client, None), ""), "closewait kill --peer '[::1]:443'");
    client.group.remote = None;
    let mut model = TopModel::default();
    model.handle(from_agent(vec![client]));
    assert_eq!((press(&mut model, "K"), &model.page), (None, &TopPage::Groups), "no filter is left");
}

#[test]
fn the_command_of_the_selected_group_is_copied() {
    let mut model = model(&[(30, 8080)]);
    let command = model.selected().unwrap().command().into_owned();
    assert_eq!(press(&mut model, "y"), Some(TopEffect::Copy(command.clone())));
    assert_eq!(model.message, Some(format!("sent to the clipboard: {command}")));
    let mut asks = hung(30, 8080);
    asks.verdict.next.command = Some("closewait list".to_owned());
    let mut model = TopModel::default();
    model.settings.agent_options = " --socket /run/x.sock".to_owned();
    model.handle(from_agent(vec![asks]));
    assert_eq!(press(&mut model, "y"), Some(TopEffect::Copy("closewait list --socket /run/x.sock".to_owned())));
}

#[test]
fn a_recording_plays_steps_and_jumps() {
    let (begin, end) = (BootTime(990_000_000_000), BootTime(1_001_000_000_000));
    let source = SourceState::Recording { name: "x".to_owned(), begin, end };
    let mut model = TopModel::default();
    let arrived = |model: &mut TopModel, seconds: u64| {
        let TopEvent::Snapshot(mut snapshot) = snapshot(vec![hung(3, 80)], source.clone()) else {
            panic!("another event")
        };
        snapshot.report.at = BootTime(seconds * 1_000_000_000);
        model.handle(TopEvent::Snapshot(snapshot))
    };
    arrived(&mut model, 1000);
    let seek = |seconds: u64| Some(TopEffect::Ask(TopRequest::Seek(BootTime(seconds * 1_000_000_000))));
    assert_eq!(model.handle(TopEvent::Tick), None, "it does not play by itself");
    press(&mut model, " ");
    assert_eq!(model.handle(TopEvent::Tick), seek(1001));
    assert_eq!(model.handle(TopEvent::Tick), None, "one jump at a time");
    arrived(&mut model, 1001);
    assert_eq!((model.handle(TopEvent::Tick), model.is_playing), (None, false), "it stops at the end");
    assert_eq!(press(&mut model, " "), seek(990), "and begins again");
    arrived(&mut model, 990);
    assert_eq!(model.handle(TopEvent::Key(TopKey::Right)), seek(991));
    assert_eq!(model.handle(TopEvent::Key(TopKey::Right)), seek(992), "before the answer");
    assert_eq!(model.handle(TopEvent::Key(TopKey::Left)), seek(991));
    arrived(&mut model, 991);
    assert_eq!((press(&mut model, "["), press(&mut model, "]")), (seek(990), seek(1001)), "within the recording");
    assert_eq!(press(&mut model, "t5s\n"), seek(995));
    assert_eq!(press(&mut model, "t00:16:35\n"), seek(995), "of the day that began at boot");
    assert_eq!(press(&mut model, "tsoon\n"), None);
    assert!(model.message.is_some());
    assert_eq!((press(&mut model, "K"), &model.page), (None, &TopPage::Groups), "nothing to destroy in a recording");
}

#[test]
fn an_error_stays_until_the_next_answer() {
    let mut model = model(&[(30, 1)]);
    model.handle(TopEvent::Failed("the agent does not answer".to_owned()));
    assert_eq!((model.error.as_deref(), ports(&model)), (Some("the agent does not answer"), vec![1]));
    update(&mut model, &[(31, 1)]);
    assert_eq!(model.error, None);
}
