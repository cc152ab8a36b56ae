//! Screens of some sizes. `SNAPSHOTS=overwrite cargo test -p closewait-agent --lib status` writes them again.

use std::{
    net::Ipv4Addr,
    time::{Duration, UNIX_EPOCH},
};

use snapbox::{assert_data_eq, file};

use super::*;
use closewait_engine::{
    model::{
        Certainty, Class, Dwell, Endpoint, Forecast, Limit, Oldest, Onset, PileupGroup, ReportedGroup, Role, Shape,
        Slope, Totals,
    },
    process::{NextStep, Process},
    testing::{owner, pileup, process, workload},
    time::BootTime,
};

const NOW: BootTime = BootTime(1_000_000_000_000);
const SCREENS: [(usize, usize); 4] = [(60, 16), (80, 24), (120, 40), (200, 50)];

fn seconds_ago(seconds: u64) -> BootTime {
    NOW - Duration::from_secs(seconds)
}

/// Returns a group of a process without growth.
pub(crate) fn group(
    class: Class,
    certainty: Certainty,
    count: u64,
    port: u16,
    (comm, pid, script): (&str, u32, &str),
) -> Pileup {
    let mut group = pileup(class, certainty, count);
    group.group.local_port = Some(port);
    group.owners = Some(vec![(owner(comm, pid, 3).task, u32::try_from(count).unwrap())]);
    let script = (!script.is_empty()).then(|| script.to_owned());
    group.evidence.process = Some(Box::new(Process { script, ..process(comm, pid, Some((count + 15, 20_000))) }));
    let remote = Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 40_000 };
    let dwell = Dwell::Exact(Duration::from_secs(363));
    group.evidence.oldest = vec![Oldest { remote, cookie: None, dwell, read: None, owners: None }];
    group.onset = Onset { first_stuck: seconds_ago(363), last_closed: Some(seconds_ago(365)), unaccepted_since: None };
    (group.shape, group.slope) = (Some(Shape::Plateau), Some(Slope::default()));
    group
}

fn growing(group: Pileup, per_second: f64, left: u64) -> Pileup {
    let slope = Some(Slope { per_second, error: 0.0 });
    let (used, most) = group.evidence.process.as_ref().and_then(|process| process.descriptors()).unwrap_or_default();
    let left = Duration::from_secs(left);
    let forecast = Some(Forecast {
        limit: Limit::Descriptors,
        used,
        most,
        read_at: BootTime(0),
        left,
        at_least: left,
        at_most: None,
    });
    Pileup { shape: Some(Shape::Linear), slope, forecast, ..group }
}

fn because(mut group: Pileup, text: &str, command: Option<&str>) -> Pileup {
    group.verdict.text = text.to_owned();
    group.verdict.next = NextStep { text: "see where its threads are".to_owned(), command: command.map(str::to_owned) };
    group
}

/// Returns the groups of a host with two hangs, a leak, a pool and an upload.
pub(crate) fn scene() -> Vec<Pileup> {
    let why = "since the oldest of 3002 sockets entered 6m3s ago, python3[12782] has served no other connection of port \
               25010, while 3010 arrived; 8 of 9 threads wait without a timeout, and most of the sockets were never read";
    let orders = group(Class::Hung, Certainty::Medium, 3002, 25_010, ("python3", 12_782, "orders.py"));
    let orders = because(growing(orders, 4.1, 4020), why, Some("closewait stacks 12782"));
    let mut shop = group(Class::Hung, Certainty::High, 1009, 25_140, ("java", 23_415, "ShopApi"));
    shop.evidence.process = Some(Box::new(process("java", 23_415, Some((1024, 1024)))));
    let shop = because(growing(shop, 20.0, 0), "8 of 27 threads wait without a timeout", Some("kill -QUIT 23415"));
    let leak = group(Class::Leak, Certainty::High, 420, 25_020, ("python3", 12_784, "leaky.py"));
    let leak = because(growing(leak, 0.9, 21_000), "it serves other connections, and does not close these", None);
    let guess = group(Class::Leak, Certainty::Low, 5, 25_040, ("java", 12_788, "Shop"));
    let mut pool = group(Class::Pool, Certainty::High, 6, 0, ("python3", 12_787, "pool.py"));
    let remote = Some(Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 25_030 });
    pool.group = PileupGroup { role: Some(Role::Client), local_port: None, remote, ..pool.group };
    let upload = group(Class::HalfClose, Certainty::Fact, 1, 25_060, ("python3", 12_790, "upload.py"));
    let young = group(Class::Unknown, Certainty::Low, 3, 25_070, ("nginx", 900, ""));
    vec![shop, orders, leak, guess, young, pool, upload]
}

pub(crate) fn report(mut pileups: Vec<Pileup>) -> IncidentReport {
    pileups.sort_by_key(Pileup::urgency);
    let tracked = pileups.iter().map(|pileup| pileup.count).sum();
    IncidentReport {
        at: NOW,
        host: Some("web-1".to_owned()),
        watched: Some(Duration::from_secs(11_520)),
        stuck_after: Duration::from_secs(60),
        totals: Totals { tracked, entered: tracked + 81, left: 81, ..Totals::default() },
        untracked: 0,
        unseen: None,
        stack_frames: None,
        groups: pileups
            .into_iter()
            .map(|pileup| ReportedGroup { piles_up_since: None, stuck: 0, pileup, course: None })
            .collect(),
        more: 0,
        matching: None,
        resolved: Vec::new(),
    }
}

fn shown_to(report: &IncidentReport, is_root: bool, notes: &[String], screen: Screen) -> String {
    let page = StatusPage { report, anchor: TimeAnchor::booted_at(UNIX_EPOCH), is_root, notes, socket: None };
    let mut to = Vec::new();
    render(&page, Form::Text, screen, &mut to).unwrap();
    String::from_utf8(to).unwrap()
}

/// Returns the page, and checks that it fits the screen with the prompt of the shell below it.
fn shown(report: &IncidentReport, (width, height): (usize, usize)) -> String {
    let text = shown_to(report, true, &[], Screen { width, height: Some(height), color: false });
    let rows: usize = text.lines().map(|line| rows_of(line, width)).sum();
    assert!(rows < height, "{rows} rows on a screen of {height}:\n{text}");
    for line in text.lines().filter(|line| !line.starts_with("     ")) {
        assert!(table::width(line) <= width, "{line}");
    }
    text
}

fn all_screens(report: &IncidentReport) -> String {
    let one = |(width, height)| format!("{width}x{height}\n{}\n", shown(report, (width, height)));
    SCREENS.map(one).concat()
}

#[test]
fn a_scene_fits_every_screen() {
    assert_data_eq!(all_screens(&report(scene())), file!["screens/scene.txt"].raw());
}

#[test]
fn severity_is_color_and_takes_no_place() {
    let screen = Screen { width: 80, height: Some(24), color: true };
    let colored = shown_to(&report(scene()), true, &[], screen);
    assert_data_eq!(colored.replace('\x1b', "ESC"), file!["screens/color.txt"].raw());
    let mut plain = String::new();
    for (at, part) in colored.split("\x1b[").enumerate() {
        plain.push_str(if at == 0 { part } else { part.split_once('m').unwrap().1 });
    }
    assert_eq!(plain, shown(&report(scene()), (80, 24)));
}

#[test]
fn many_groups_are_counted() {
    let many = (0_u16..40).map(|number| {
        let owner = ("worker", 1000 + u32::from(number), "job.py");
        let group = group(Class::Hung, Certainty::High, 400 - u64::from(number), 9000 + number, owner);
        because(group, "its threads wait for a lock", Some("gdb -p 1000 -batch"))
    });
    let mut report = report(many.collect());
    report.more = 25;
    assert_data_eq!(all_screens(&report), file!["screens/many.txt"].raw());
    for size in SCREENS {
        let page = shown(&report, size);
        let rows = page.lines().filter(|line| line.starts_with("HUNG  worker")).count();
        let causes = page.lines().filter(|line| line.contains("  HUNG  worker")).count();
        let counted = |what: &str| {
            let line = page.lines().find(|line| line.contains(what)).unwrap();
            line.trim_start_matches("and ").split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(rows + counted("more group"), 40, "{page}");
        assert_eq!(causes + counted("more cause"), 40, "{page}");
    }
}

#[test]
fn calm_groups_are_one_line() {
    let mut groups = vec![group(Class::Hung, Certainty::High, 9, 80, ("app", 7, ""))];
    let pool = |number: u16| group(Class::Pool, Certainty::High, 30, 9000 + number, ("worker", 1000, "job.py"));
    for number in 0..20 {
        groups.push(pool(number));
        let page = shown(&report(groups.clone()), (80, 24));
        let line = page.lines().find_map(|line| line.strip_prefix("also: ")).unwrap_or_else(|| panic!("{page}"));
        let named = line.matches("30 pool").count();
        let more = line.split_once(" and ").map_or(0, |(_, more)| more.split(' ').next().unwrap().parse().unwrap());
        assert_eq!(named + more, usize::from(number) + 1, "{line}");
    }
    let (page, all_calm) = (shown(&report(groups[1..].to_vec()), (80, 24)), 20);
    let rows = page.lines().filter(|line| line.starts_with("pool  worker")).count();
    assert!(rows < all_calm && page.contains(&format!("and {} more groups", all_calm - rows)), "{page}");
}

#[test]
fn a_count_that_clearly_grows_is_not_shown_as_level() {
    let grows = |per_second, error| {
        let mut leak = group(Class::Leak, Certainty::Low, 50, 80, ("app", 7, ""));
        leak.slope = Some(Slope { per_second, error });
        let page = shown(&report(vec![leak]), (80, 24));
        let row = page.lines().find(|line| line.starts_with("LEAK?")).unwrap_or_else(|| panic!("{page}"));
        row.split_whitespace().nth(4).unwrap().to_owned()
    };
    assert_eq!([grows(1.0, 0.3), grows(-1.0, 0.3), grows(1.0, 0.6), grows(0.0, 0.0)], ["+1.0/s", "-1.0/s", "0", "0"]);
}

#[test]
fn hostile_and_wide_names_stay_in_their_cells() {
    let escaped = closewait_engine::text::harmless(b"\x1b]0;x\x07\n\xe2\x80\xae");
    let hostile = group(Class::Hung, Certainty::High, 9, 1, ("python3", 4_194_304, &escaped));
    let wide = group(Class::Leak, Certainty::High, 8, 2, ("日本語サーバ", 7, "注文処理注文処理注文処理注文処理.py"));
    let mut pod = group(Class::Leak, Certainty::High, 7, 3, ("java", 8, ""));
    pod.evidence.workload = Some(Box::new(workload()));
    let mut long = workload();
    long.pod.as_mut().unwrap().name = Some("x".repeat(253));
    let mut long_pod = group(Class::Leak, Certainty::High, 6, 4, ("java", 9, ""));
    long_pod.evidence.workload = Some(Box::new(long));
    let long_command = because(
        group(Class::Hung, Certainty::High, 5, 5, ("gdb", 10, "")),
        &"y".repeat(300),
        Some(&"command ".repeat(20)),
    );
    let all = all_screens(&report(vec![hostile, wide, pod, long_pod, long_command]));
    assert_data_eq!(all, file!["screens/names.txt"].raw());
}

#[test]
fn without_sockets_there_is_one_line() {
    let mut empty = report(Vec::new());
    let size = (80, 24);
    let line = "no socket is in CLOSE_WAIT (watched 3h12m; 81 entered, 81 exited)\n";
    assert_eq!(shown(&empty, size), line);
    empty.watched = None;
    assert_eq!(shown(&empty, size), "no socket is in CLOSE_WAIT\n");
}

#[test]
fn without_privileges_the_first_line_has_the_command() {
    let mut alone = scene();
    for group in &mut alone {
        (group.shape, group.slope, group.forecast) = (None, None, None);
    }
    let mut report = report(alone);
    report.watched = None;
    let screen = Screen { width: 80, height: None, color: false };
    let notes = ["owners of 3 sockets cannot be read".to_owned()];
    let text = shown_to(&report, false, &notes, screen);
    assert!(text.starts_with("not root: owners of other users are not seen; sudo closewait\n"), "{text}");
    assert!(!text.contains("cannot be read"), "one reason is enough: {text}");
    assert!(shown_to(&report, true, &notes, screen).contains("\nowners of 3 sockets cannot be read\n"));
    assert!(!shown_to(&report, false, &[], screen).contains("not root"), "nothing is missing");
    assert_data_eq!(text, file!["screens/alone.txt"].raw());
}

#[test]
fn a_command_stands_alone_on_its_line() {
    let text = shown(&report(scene()), (120, 40));
    for command in ["kill -QUIT 23415", "closewait stacks 12782"] {
        assert!(text.lines().any(|line| line.trim_start() == command), "{text}");
    }
}

#[test]
fn json_has_every_group() {
    let (report, anchor) = (report(scene()), TimeAnchor::booted_at(UNIX_EPOCH));
    let page = StatusPage { report: &report, anchor, is_root: true, notes: &[], socket: None };
    let mut to = Vec::new();
    render(&page, Form::Json, Screen { width: 80, height: Some(24), color: true }, &mut to).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&to).unwrap();
    tests_support::schema::check_status(&object);
    to.clear();
    group_objects(&report.groups.iter().collect::<Vec<_>>(), &report, anchor, &mut to).unwrap();
    let lines = str::from_utf8(&to).unwrap().lines();
    let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(tests_support::schema::check_grouped);
    let groups = object["groups"].as_array().unwrap();
    assert_eq!(lines.len(), groups.len());
    let severities: Vec<_> = groups.iter().map(|group| group["severity"].as_str().unwrap()).collect();
    assert_eq!(severities, ["critical", "error", "warning", "warning", "info", "info", "info"]);
    assert_eq!(groups[0]["limit_reached"], "descriptors");
    assert_eq!((&groups[1]["service"], &groups[1]["script"]), (&"python3 orders.py".into(), &"orders.py".into()));
    assert_eq!(groups[1]["command"], "closewait stacks 12782");
    assert_eq!(groups[1]["exhaustion_seconds"], 4020.0);
    assert!(groups[3]["exhaustion_seconds"].is_null());
    let pretty = serde_json::to_string_pretty(&object).unwrap();
    assert_data_eq!(pretty, file!["screens/status.json"].raw());
}
