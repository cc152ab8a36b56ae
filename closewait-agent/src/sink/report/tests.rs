//! Reports of some widths. `SNAPSHOTS=overwrite cargo test -p closewait-agent --lib report` writes them again.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use snapbox::{assert_data_eq, file};

use super::*;
use crate::sink::{
    status::tests::{report as report_of, scene},
    table,
};
use closewait_engine::{
    model::{IncidentCourse, Milestone, MilestoneKind, Owner, Pileup, Task},
    process::{NextStep, Process},
    stacks::{
        CodeLanguage, CodeStack, ProcessStacks,
        carriers::{PINNED, VIRTUAL},
    },
    testing::{course, owner, process, python_stack, resolved},
    text::{Comm, harmless, is_harmful},
};

/// Screens of the mock-ups.
const SCREENS: [(usize, usize); 3] = [(80, 24), (120, 40), (200, 50)];

/// Moves a course from second 1 of the clock to `seconds` later, without its end.
fn moved(course: IncidentCourse, seconds: u64) -> IncidentCourse {
    let later = |at: BootTime| at + Duration::from_secs(seconds);
    let milestones = course.milestones.into_iter().filter(|one| !matches!(one.kind, MilestoneKind::Resolved(_)));
    let milestones = milestones.map(|one| Milestone { at: later(one.at), ..one }).collect();
    let mut points = course.points;
    points.iter_mut().for_each(|point| point.at = later(point.at));
    let mut forecast = course.forecast;
    if let Some(forecast) = &mut forecast {
        forecast.made_at = later(forecast.made_at);
        forecast.exhausted_at = later(forecast.exhausted_at);
        forecast.earliest = later(forecast.earliest);
        forecast.latest = forecast.latest.map(later);
    }
    IncidentCourse { milestones, forecast, points, ..course }
}

/// Returns a report with a full group, other problems, normal groups and a resolved incident.
pub(super) fn report() -> IncidentReport {
    let mut report = report_of(scene());
    let (first, second) = (637, BootTime(635_000_000_000));
    let group = &mut report.groups[0];
    group.piles_up_since = Some(second);
    group.stuck = 900;
    group.pileup.evidence.oldest[0].owners = Some(vec![owner("java", 23_415, 5)]);
    group.pileup.evidence.backlog = Some((129, 128));
    group.pileup.evidence.unaccepted = 129;
    group.course = Some(moved(course(), first - 2));
    report.resolved = vec![resolved()];
    report
}

pub(super) fn page<'a>(report: &'a IncidentReport, notes: &'a [String]) -> ReportPage<'a> {
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    ReportPage { report, version: "0.1.0", anchor, source: ReportSource::Host, notes, socket: None }
}

pub(super) fn shown(page: &ReportPage<'_>, format: ReportFormat) -> String {
    let mut to = Vec::new();
    render(page, format, &mut to).unwrap();
    String::from_utf8(to).unwrap()
}

fn text(page: &ReportPage<'_>, (width, height): (usize, usize)) -> String {
    shown(page, ReportFormat::Text(Screen { width, height: Some(height), color: false }))
}

/// Returns the texts of all widths, and checks that only commands are wider.
fn all_screens(page: &ReportPage<'_>) -> String {
    let one = |(width, height)| {
        let text = text(page, (width, height));
        for line in text.lines().filter(|line| !line.starts_with("  ")) {
            assert!(table::width(line) <= width, "{line}");
        }
        format!("{width}x{height}\n{text}\n")
    };
    SCREENS.map(one).concat()
}

#[test]
fn the_text_fits_every_width() {
    let report = report();
    assert_data_eq!(all_screens(&page(&report, &[])), file!["screens/text.txt"].raw());
}

#[test]
fn the_markdown_has_the_same_content() {
    let report = report();
    assert_data_eq!(shown(&page(&report, &[]), ReportFormat::Markdown), file!["screens/ticket-md.txt"].raw());
}

#[test]
fn pinned_carriers_and_the_owner_of_their_lock_come_first() {
    let jvm = |tid, state: &str, lines: &[(&str, &str, u32)]| CodeStack {
        language: CodeLanguage::Jvm,
        state: Some(state.to_owned()),
        ..python_stack(tid, lines)
    };
    let lock = ("java.util.concurrent.locks.ReentrantLock.lock", "ReentrantLock.java", 322);
    let waits = [lock, ("shop.Orders.finish", "Orders.java", 146)];
    let sleeps = [("java.lang.Thread.sleep", "Thread.java", 509), ("shop.Orders.write", "Orders.java", 94)];
    let pinned = |tid| CodeStack { lock_owner: Some(3), ..jvm(tid, PINNED, &waits) };
    let owner = CodeStack { name: Some("audit".to_owned()), ..jvm(13, "TIMED_WAITING (sleeping)", &sleeps) };
    let stacks = [pinned(11), pinned(12), CodeStack { tid: None, ..jvm(1, VIRTUAL, &waits) }, owner];
    let mut report = report();
    let stacks = ProcessStacks::new(23_415, BootTime(1), &stacks, Vec::new());
    report.groups[0].pileup.evidence.stacks = Some(Arc::new(stacks));
    let place = "shop.Orders.finish (Orders.java:146)";
    let owner = "held by audit[13], which waits for a period of time in shop.Orders.write (Orders.java:94)";
    let carriers = format!(
        "all 2 carriers of virtual threads are pinned in {place}; 1 virtual thread without a carrier cannot run; {owner}"
    );
    let lines = [carriers.clone(), format!("2 threads wait for a lock in {place}, {owner}")];
    for format in [ReportFormat::Text(Screen { width: 300, height: None, color: false }), ReportFormat::Html] {
        let shown = shown(&page(&report, &[]), format);
        let places =
            lines.each_ref().map(|line| shown.find(line.as_str()).unwrap_or_else(|| panic!("{line}: {shown}")));
        assert!(places[0] < places[1], "{shown}");
    }
    let markdown = shown(&page(&report, &[]), ReportFormat::Markdown).replace('\\', "");
    assert!(markdown.contains("carriers of virtual threads are pinned in"), "{markdown}");
}

#[test]
fn the_object_has_course_and_resolved_incidents() {
    let report = report();
    let object: serde_json::Value = serde_json::from_str(&shown(&page(&report, &[]), ReportFormat::Json)).unwrap();
    tests_support::schema::check_reported(&object);
    let course = &object["groups"][0]["course"];
    let kinds: Vec<_> = course["milestones"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    let expected =
        ["last_closed", "first_stuck", "detected", "doubled", "limit_near", "first_unaccepted", "limit_reached"];
    assert_eq!(kinds, expected);
    assert_eq!(course["points"].as_array().unwrap().len(), 50);
    assert_eq!(course["forecast"]["limit"], "descriptors");
    assert_eq!(object["groups"][1]["course"], serde_json::Value::Null);
    assert_eq!(object["host"], "web-1");
    let resolved = &object["resolved"][0];
    assert_eq!((&resolved["how"], &resolved["most"]), (&"drained".into(), &1000.into()));
    let last = resolved["course"]["milestones"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["kind"], &last["how"], &last["time"]),
        (&"resolved".into(), &"drained".into(), &resolved["time"])
    );
    for member in ["schema_version", "closewait", "watched_seconds", "totals", "unseen", "more_groups"] {
        assert!(object.get(member).is_some(), "{member}");
    }
}

#[test]
fn a_forecast_is_compared_with_what_came_about() {
    let mut report = report();
    let at = |report: &IncidentReport| {
        let text = text(&page(report, &[]), (200, 50));
        text.lines().find(|line| line.contains("descriptors run out, ")).unwrap().to_owned()
    };
    assert!(at(&report).contains("descriptors run out, as forecast at 14:24:10 for 14:24:47"), "{}", at(&report));
    let reached = |report: &mut IncidentReport, seconds: u64| {
        for milestone in &mut report.groups[0].course.as_mut().unwrap().milestones {
            if matches!(milestone.kind, MilestoneKind::LimitReached(_)) {
                milestone.at = BootTime(seconds * 1_000_000_000);
            }
        }
    };
    reached(&mut report, 660);
    assert!(at(&report).contains("earlier than forecast at "), "{}", at(&report));
    reached(&mut report, 760);
    assert!(at(&report).contains("later than forecast at "), "{}", at(&report));
}

#[test]
fn a_resolved_incident_alone_is_a_report_with_a_chart() {
    let mut report = report_of(Vec::new());
    report.resolved = vec![resolved()];
    let text = text(&page(&report, &[]), (80, 24));
    assert!(text.contains("no socket is in CLOSE_WAIT (watched 3h12m; 81 entered, 81 exited)"), "{text}");
    assert!(text.contains("ENDED   java[23415] ShopApi :80: drained after 1m15s, 0 of 1000 remain"), "{text}");
    assert!(text.contains("resolved: nearly all sockets have exited") && text.contains('█'), "{text}");
    assert!(text.ends_with("\nnothing lost\n"), "{text}");
}

/// Numbers that no filter restricts are named as those of the host.
#[test]
fn a_filtered_report_names_the_numbers_of_the_host() {
    let mut report = report();
    report.matching = Some(7);
    report.untracked = 3;
    let filtered = text(&page(&report, &[]), (200, 50));
    let all = report.totals.tracked + 3;
    assert!(filtered.contains(&format!("7 sockets in CLOSE_WAIT (of {all} without the filters)")), "{filtered}");
    for of_host in ["all of this host: nothing lost", "all of this host: 3 more sockets are in CLOSE_WAIT"] {
        assert!(filtered.lines().any(|line| line.starts_with(of_host)), "{filtered}");
    }
    let html = shown(&page(&report, &[]), ReportFormat::Html);
    assert!(html.contains("exited, all of this host") && html.contains(" without the filters"), "{html}");
    (report.groups, report.untracked) = (Vec::new(), 0);
    let nothing = text(&page(&report, &[]), (200, 50));
    let tracked = report.totals.tracked;
    assert!(
        nothing.contains(&format!("no matching socket is in CLOSE_WAIT (all of this host: {tracked};")),
        "{nothing}"
    );
    report.matching = None;
    let unfiltered = text(&page(&report, &[]), (200, 50));
    assert!(!unfiltered.contains("of this host"), "{unfiltered}");
}

#[test]
fn the_page_names_its_origin_and_its_gaps() {
    let mut report = report_of(Vec::new());
    let of_agent = page(&report, &[]);
    let first = |page: &ReportPage<'_>| text(page, (200, 50)).lines().next().unwrap().to_owned();
    let begin = "CLOSE_WAIT on web-1 at 2026-09-21 14:30:00 UTC, by closewait 0.1.0";
    assert_eq!(first(&of_agent), format!("{begin} (agent, watched 3h12m)"));
    let of_recording = ReportPage { source: ReportSource::Recording("x.rec"), ..of_agent };
    assert!(first(&of_recording).ends_with("(recording x.rec, watched 3h12m)"));
    report.watched = None;
    report.unseen = Some("other users' processes\nhint: sudo closewait report".to_owned());
    report.untracked = 3;
    let notes = ["a note".to_owned()];
    let of_scan = page(&report, &notes);
    assert!(first(&of_scan).ends_with("(one scan: growth and history are unknown)"));
    let text = text(&of_scan, (80, 24));
    for gap in ["3 more sockets are in CLOSE_WAIT", "other users' processes", "hint: sudo closewait report", "a note"] {
        assert!(text.lines().any(|line| line.starts_with(gap)), "{text}");
    }
    assert!(!text.contains("nothing lost"), "a scan cannot know");
    let markdown = shown(&of_scan, ReportFormat::Markdown);
    assert!(markdown.contains("- a note\n") && markdown.contains("- other users' processes  \n  hint"), "{markdown}");
}

#[test]
fn color_is_severity_and_adds_no_width() {
    let report = report();
    let page = page(&report, &[]);
    let colored = shown(&page, ReportFormat::Text(Screen { width: 80, height: None, color: true }));
    assert!(colored.contains("\x1b[1;37;41mFULL"), "{colored}");
    let mut plain = colored;
    for sgr in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;37;41m"] {
        plain = plain.replace(sgr, "");
    }
    assert_eq!(plain, text(&page, (80, 24)));
}

/// Returns a report in which every string that others choose is hostile.
fn hostile() -> IncidentReport {
    let name = "a|`b`<img src=x onerror=y>@team [l](http://e.example) www.e.example #1\n**x**\x1b[2J";
    let harmless_name = harmless(name.as_bytes());
    let comm = Comm::from_name(b"|`<b>@x#1\n*_[");
    let mut report = report();
    report.host = Some(harmless_name.clone());
    report.unseen = Some(harmless_name.clone());
    for group in &mut report.groups {
        let Pileup { owners, verdict, evidence, .. } = &mut group.pileup;
        *owners = Some(vec![(Task { pid: 7, comm: comm.clone() }, 1), (Task { pid: 8, comm: comm.clone() }, 1)]);
        verdict.text = harmless_name.clone();
        verdict.next = NextStep::command(harmless_name.clone(), format!("echo '{harmless_name}'\u{60}\u{60}\u{60}"));
        let script = Some(harmless_name.clone());
        evidence.process = Some(Box::new(Process { script, comm: comm.clone(), ..process("x", 7, Some((5, 10))) }));
        let owners = vec![Owner { task: Task { pid: 7, comm: comm.clone() }, fd: 3 }; 2];
        evidence.oldest.iter_mut().for_each(|oldest| oldest.owners = Some(owners.clone()));
    }
    report.resolved.iter_mut().for_each(|one| one.end.service = Some(harmless_name.clone()));
    report
}

#[test]
fn hostile_names_act_on_no_terminal_and_add_no_line_to_a_table() {
    let report = hostile();
    let notes = [harmless(b"`@all`\n|x|")];
    let page = page(&report, &notes);
    for format in [
        ReportFormat::Text(Screen { width: 80, height: None, color: false }),
        ReportFormat::Markdown,
        ReportFormat::Json,
    ] {
        let shown = shown(&page, format);
        assert!(!shown.chars().any(|shown| is_harmful(shown) && shown != '\n'), "{format:?}: {shown}");
    }
    assert_data_eq!(shown(&page, ReportFormat::Markdown), file!["screens/hostile-md.txt"].raw());
}

#[test]
fn hostile_names_make_no_markup() {
    let report = hostile();
    let markdown = shown(&page(&report, &[]), ReportFormat::Markdown);
    let mut in_code = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if in_code {
            continue;
        }
        let free = line.replace("<!-- -->", "\0").replace("\\]", "");
        let markup = ["<", "](", "://", "www.", "@t", "@x", "#1"];
        assert!(markup.iter().all(|markup| !free.contains(markup)), "{line}");
        // A cell ends only where the table says.
        if line.starts_with("| ") {
            let cells = line.replace("\\|", "").matches('|').count();
            assert!((3..=4).contains(&cells), "{line}");
        }
        let unescaped = line.replace("\\`", "").replace("\\\\", "");
        assert!(!unescaped.contains('`'), "{line}");
    }
    assert!(!in_code, "every block ends");
}
