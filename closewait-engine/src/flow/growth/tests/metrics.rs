//! Metrics of incidents that are played through the whole engine: the same verdicts as in a report.

use super::*;
use crate::{
    model::Pileup,
    snapshot::metrics::{GroupLabels, MetricPlace, MetricsSnapshot},
};

fn at(millis: u64) -> BootTime {
    BootTime((1_000_000 + millis) * MILLI)
}

/// Returns the metrics at `millis`, and the only group of the report.
fn both(reports: &Reports, millis: u64) -> (MetricsSnapshot, Pileup) {
    let engine = reports.engine.as_ref().unwrap();
    let mut groups = engine.report(at(millis)).groups;
    assert_eq!(groups.len(), 1);
    (engine.metrics(at(millis)), groups.remove(0).pileup)
}

fn labels() -> GroupLabels {
    GroupLabels { service: Some("server".to_owned()), place: MetricPlace::Port(80) }
}

#[test]
fn an_incident_has_class_severity_and_forecast_of_a_report_at_the_same_moment() {
    for end in [45_000, 52_000, 70_000, 120_000] {
        let reports = play(&hang(end.min(80_200)), end);
        let (metrics, pileup) = both(&reports, end);
        let (class, severity) = (pileup.verdict.class, pileup.severity());
        assert_eq!(metrics.incidents.each, [((labels(), class, severity), 1)], "{end}");
        let forecast = pileup.forecast.unwrap();
        let [((of, limit), left)] = &metrics.exhaustion.each[..] else { panic!("{:?}", metrics.exhaustion) };
        assert_eq!((of, *limit, *left), (&labels(), forecast.limit, forecast.left), "{end}");
        assert_eq!((metrics.incidents.rest, metrics.exhaustion.rest), (None, None));
        assert_eq!(metrics.sockets, pileup.count, "{end}");
    }
}

#[test]
fn stuck_sockets_and_the_oldest_entry_are_those_of_the_last_count() {
    let reports = play(&hang(45_000), 100_000);
    let (metrics, pileup) = both(&reports, 100_000);
    let [(of, numbers)] = &metrics.stuck.each[..] else { panic!("{:?}", metrics.stuck) };
    assert_eq!((of, numbers.oldest), (&labels(), Some(pileup.onset.first_stuck)));
    let counted_before = 2 * 20 + 1;
    assert!(numbers.stuck >= 200 - counted_before && numbers.stuck <= 200 + counted_before, "{numbers:?}");
}

#[test]
fn an_incident_of_more_sockets_than_are_judged_has_the_verdict_of_its_last_inspection() {
    let lives = [steady(80, 0, 30_000, 50, 30), steady(80, 30_000, 41_000, 1, NEVER)].concat();
    let reports = play(&lives, 60_000);
    let (metrics, _) = both(&reports, 60_000);
    assert_eq!(metrics.sockets, 11_000);
    let told = &reports.pileups.last().unwrap().1;
    assert_eq!(metrics.incidents.each, [((labels(), told.verdict.class, told.severity()), 1)]);
    // An inspection a minute later finds that the number no longer grows.
    let reports = play(&lives, 250_000);
    let (metrics, pileup) = both(&reports, 250_000);
    assert_eq!(metrics.incidents.each, [((labels(), pileup.verdict.class, pileup.severity()), 1)]);
    assert_ne!(pileup.severity(), told.severity());
}

#[test]
fn without_an_incident_there_is_no_forecast() {
    let reports = play(&steady(80, 0, 60_000, 50, 30), 60_000);
    let metrics = reports.engine.as_ref().unwrap().metrics(at(60_000));
    assert_eq!((metrics.incidents.each, metrics.exhaustion.each), (vec![], vec![]));
    assert_eq!((metrics.sockets, metrics.stuck.each), (0, vec![]));
    let closed = metrics.exits.iter().find(|(how, _)| *how == ExitCause::Closed).unwrap();
    assert_eq!(closed.1, 1200);
    // 30 ms lie in the bucket up to 100 ms.
    assert!(metrics.dwell.exemplars[2].is_some_and(|one| one.dwell == Duration::from_millis(30)));
}
