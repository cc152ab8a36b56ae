use closewait_engine::{
    model::{Certainty, Class, Forecast, Limit, Pileup, PileupGroup, Role, Shape, Slope, Task, Totals},
    testing,
    text::Comm,
    time::BootTime,
};

use super::*;

fn group(class: Class, certainty: Certainty, count: u64, stuck: u64) -> ReportedGroup {
    let owner = Task { pid: 7, comm: Comm::from_name(b"shop") };
    let bare = testing::pileup(class, certainty, count);
    let pileup = Pileup {
        group: PileupGroup { role: Some(Role::Server), local_port: Some(8080), ..bare.group },
        owners: Some(vec![(owner, 1)]),
        ..bare
    };
    ReportedGroup { piles_up_since: None, stuck, pileup, course: None }
}

fn growing(mut of: ReportedGroup, per_second: f64, left: Option<u64>) -> ReportedGroup {
    of.piles_up_since = Some(BootTime(0));
    of.pileup.shape = Some(Shape::Linear);
    of.pileup.slope = Some(Slope { per_second, error: 0.0 });
    of.pileup.forecast = left.map(Duration::from_secs).map(|left| Forecast {
        read_at: BootTime(0),
        limit: Limit::Descriptors,
        used: 900,
        most: 1024,
        left,
        at_least: left,
        at_most: None,
    });
    of
}

fn report(watched: bool, groups: Vec<ReportedGroup>) -> IncidentReport {
    IncidentReport {
        at: BootTime(0),
        host: Some("web-1".to_owned()),
        watched: watched.then_some(Duration::from_secs(60)),
        stuck_after: Duration::from_secs(60),
        totals: Totals::default(),
        untracked: 0,
        unseen: None,
        stack_frames: None,
        groups,
        more: 0,
        matching: None,
        resolved: Vec::new(),
    }
}

fn levels(warning: &str, critical: &str) -> ProbeThresholds {
    let parse = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
    ProbeThresholds { warning: parse(warning), critical: parse(critical) }
}

fn shown(report: &IncidentReport, levels: ProbeThresholds) -> String {
    Probe::of(report, levels, false).line()
}

#[test]
fn without_thresholds_severity_decides() {
    use Certainty::{High, Low, Medium};
    let state = |groups: Vec<ReportedGroup>| Probe::of(&report(true, groups), ProbeThresholds::default(), false).state;
    assert_eq!(state(Vec::new()), ProbeState::Ok);
    assert_eq!(state(vec![group(Class::Pool, High, 60, 60)]), ProbeState::Ok);
    assert_eq!(state(vec![group(Class::Transient, Low, 3, 0)]), ProbeState::Ok);
    for class in [Class::Hung, Class::Leak, Class::NeverAccepted] {
        assert_eq!(state(vec![group(Class::Pool, High, 60, 60), group(class, Medium, 3, 3)]), ProbeState::Warning);
    }
    assert_eq!(state(vec![growing(group(Class::Leak, High, 9, 9), 1.0, Some(400))]), ProbeState::Warning);
    assert_eq!(state(vec![growing(group(Class::Leak, High, 9, 9), 1.0, Some(299))]), ProbeState::Critical);
}

#[test]
fn the_line_has_the_worst_group_and_performance_data() {
    let hung = growing(group(Class::Hung, Certainty::Medium, 1016, 900), 20.0, Some(37));
    let leak = group(Class::Leak, Certainty::High, 5, 5);
    assert_eq!(
        shown(&report(true, vec![hung, leak]), ProbeThresholds::default()),
        "CLOSEWAIT CRITICAL - hung (medium): shop[7] on port 8080: 1016 sockets in CLOSE_WAIT, 900 stuck, grows by 20/s, \
         the limit of open descriptors is reached in 37s; and 1 more group | close_wait=1021;;;0 stuck=905;;;0 incidents=1;;;0 \
         growth=20.000;;;0 exhaustion=37s;;;0\n"
    );
    assert_eq!(
        shown(&report(true, Vec::new()), ProbeThresholds::default()),
        "CLOSEWAIT OK - no socket is in CLOSE_WAIT | close_wait=0;;;0 stuck=0;;;0 incidents=0;;;0 growth=0.000;;;0\n"
    );
}

#[test]
fn a_threshold_that_is_reached_decides_and_a_higher_one_does_not() {
    let one = || vec![growing(group(Class::Hung, Certainty::Medium, 60, 50), 0.5, Some(600))];
    let state = |warning: &str, critical: &str| Probe::of(&report(true, one()), levels(warning, critical), false).state;
    for (reached, other) in [
        ("stuck=50", "stuck=51"),
        ("growth=0.5", "growth=0.51"),
        ("exhaustion=10m", "exhaustion=9m59s"),
        ("stuck=50,growth=9", "stuck=51,growth=9"),
    ] {
        assert_eq!(state(reached, other), ProbeState::Warning, "{reached}");
        assert_eq!(state(other, reached), ProbeState::Critical, "{reached}");
        assert_eq!(state(other, ""), ProbeState::Ok, "{other}");
        assert_eq!(state("", reached), ProbeState::Critical, "{reached}");
    }
    let line = shown(&report(true, one()), levels("stuck=50,growth=0.1", "stuck=500,exhaustion=5m"));
    assert!(
        line.starts_with(
            "CLOSEWAIT WARNING - 50 sockets stuck (threshold 50), grows by 0.50/s (threshold 0.10/s); worst: hung (medium): shop[7]"
        ),
        "{line}"
    );
    assert!(
        line.ends_with("stuck=50;50;500;0 incidents=1;;;0 growth=0.500;0.1;;0 exhaustion=600s;;300:;0\n"),
        "{line}"
    );
}

#[test]
fn thresholds_ignore_groups_with_a_benign_cause() {
    let pool = report(true, vec![growing(group(Class::Pool, Certainty::Medium, 60, 60), 2.0, None)]);
    let levels = levels("stuck=1,growth=0.1", "");
    assert_eq!(Probe::of(&pool, levels, false).state, ProbeState::Ok);
    let unsure = report(true, vec![group(Class::Unknown, Certainty::Low, 60, 60)]);
    assert_eq!(Probe::of(&unsure, levels, false).state, ProbeState::Warning);
}

#[test]
fn growth_that_no_agent_watches_is_unknown_and_never_ok() {
    let hung = || report(false, vec![group(Class::Hung, Certainty::Medium, 60, 60)]);
    let state = |warning: &str, critical: &str| Probe::of(&hung(), levels(warning, critical), false).state;
    assert_eq!(state("stuck=61", ""), ProbeState::Ok);
    assert_eq!(state("growth=1", ""), ProbeState::Unknown);
    assert_eq!(state("", "exhaustion=1h"), ProbeState::Unknown);
    assert_eq!(state("growth=1,stuck=60", ""), ProbeState::Warning);
    assert!(shown(&hung(), ProbeThresholds::default()).contains("growth=U;;;0\n"));
}

#[test]
fn what_was_not_checked_is_on_the_line() {
    let mut part = report(true, Vec::new());
    (part.more, part.unseen) = (3, Some("sockets of other namespaces are hidden\nhint: x".to_owned()));
    let line = shown(&part, ProbeThresholds::default());
    assert!(
        line.contains("; 3 less urgent groups were not checked; sockets of other namespaces are hidden |"),
        "{line}"
    );
}

#[test]
fn an_empty_answer_to_a_filter_is_no_claim_about_other_sockets() {
    let text = |filtered| Probe::of(&report(true, Vec::new()), ProbeThresholds::default(), filtered).text;
    assert_eq!(text(true), "no matching socket is in CLOSE_WAIT");
    assert_eq!(text(false), "no socket is in CLOSE_WAIT");
    let part = IncidentReport { untracked: 5, ..report(true, Vec::new()) };
    let text = Probe::of(&part, ProbeThresholds::default(), false).text;
    assert_eq!(text, "no tracked socket is in CLOSE_WAIT; 5 more sockets are not tracked");
}

#[test]
fn a_hostile_name_adds_no_line_and_no_performance_data() {
    let mut hostile = group(Class::Hung, Certainty::Medium, 1, 1);
    hostile.pileup.owners = Some(vec![(Task { pid: 7, comm: Comm::from_name(b"x|stuck=0\n\x1b[2J") }, 1)]);
    let line = shown(&report(true, vec![hostile]), ProbeThresholds::default());
    assert_eq!((line.matches('|').count(), line.lines().count()), (1, 1), "{line}");
    assert!(!line.contains('\x1b'), "{line}");
    assert_eq!(Probe::unknown("a\nb | c").line(), "CLOSEWAIT UNKNOWN - a b \\u{7c} c\n");
}

#[test]
fn json_has_the_numbers_and_null_for_unknown_ones() {
    let mut json = Vec::new();
    let hung = report(false, vec![group(Class::Hung, Certainty::Medium, 60, 50)]);
    Probe::of(&hung, levels("stuck=5", ""), false).render(Form::Json, &mut json).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
    tests_support::schema::conforms("check", &object);
    assert_eq!((&object["state"], &object["exit_code"], &object["stuck"]), (&"warning".into(), &1.into(), &50.into()));
    assert_eq!(object["growth_per_second"], serde_json::Value::Null);
    assert_eq!((&object["warning"]["stuck"], &object["critical"]), (&5.into(), &serde_json::Value::Null));
    let group = &object["groups"][0];
    assert_eq!((&group["service"], &group["severity"]), (&"shop".into(), &"error".into()));
    json.clear();
    Probe::unknown("why").render(Form::Json, &mut json).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
    tests_support::schema::conforms("check", &object);
    assert_eq!((&object["state"], &object["text"]), (&"unknown".into(), &"why".into()));
    assert_eq!((&object["exit_code"], &object["stuck"]), (&3.into(), &serde_json::Value::Null));
}

/// The line has no width: a monitoring system reads it.
#[test]
fn the_result_for_a_host_is_one_line() {
    let report = crate::sink::status::tests::report(crate::sink::status::tests::scene());
    let shown = [ProbeThresholds::default(), levels("stuck=1", "growth=100"), levels("growth=50,exhaustion=1h", "")]
        .map(|levels| Probe::of(&report, levels, false).line())
        .concat();
    snapbox::assert_data_eq!(shown, snapbox::file!["scene.txt"].raw());
}
