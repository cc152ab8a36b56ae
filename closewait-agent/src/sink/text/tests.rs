use std::time::{Duration, UNIX_EPOCH};

use super::*;
use closewait_engine::{
    histogram::Histogram,
    model::{Certainty, Class, PileupGroup, Task, Verdict},
    process::NextStep,
    testing::socket,
    text::{Comm, rate},
};

fn lines(color: bool, finding: &Finding) -> String {
    let mut to = Vec::new();
    Text::new(TextStyle::dated(color)).finding(finding, TimeAnchor::booted_at(UNIX_EPOCH), &mut to);
    String::from_utf8(to).unwrap()
}

fn left_by(comm: &[u8; 16]) -> Finding {
    Finding::Leave {
        at: BootTime(1_500_000_000),
        socket: socket(),
        dwell: Some(Dwell::Exact(Duration::from_millis(72_003))),
        how: ExitCause::Closed,
        closer: Some(Task { pid: 42, comm: Comm::from_kernel(comm) }),
        ended: Some(false),
        fd_open: Some(false),
        stuck: true,
        verdict: None,
    }
}

#[test]
fn an_exit_reads_as_a_sentence() {
    let expected = "1970-01-01T00:00:01.500Z left   10.0.0.5:8080 <- 10.0.0.9:51234 after 1m12s, closed by nginx[42]\n";
    let mut left = left_by(b"nginx\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(lines(false, &left), expected);
    let Finding::Leave { ended, .. } = &mut left else { unreachable!() };
    *ended = Some(true);
    assert_eq!(lines(false, &left), expected.replace("by nginx[42]", "by the kernel at the end of nginx[42]"));
}

#[test]
fn a_hostile_name_cannot_reach_the_terminal() {
    for name in [
        b"\x1b]0;owned\x07\x1b[2J\0\0",
        b"a\nstuck  forged\0",
        "\u{202e}gnp.exe\0\0\0\0\0\0".as_bytes().try_into().unwrap(),
    ] {
        let text = lines(false, &left_by(name));
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
    }
}

#[test]
fn color_is_only_where_it_is_asked_for() {
    let (socket, dwell) = (socket(), Dwell::Exact(Duration::from_secs(60)));
    let verdict = Verdict {
        class: Class::Unknown,
        rule: "none",
        certainty: Certainty::Low,
        text: "why".to_owned(),
        next: NextStep::command("what", "do it"),
    };
    let stuck = Finding::Stuck {
        at: BootTime(0),
        socket,
        dwell,
        owners: None,
        verdict: Box::new(verdict),
        workload: None,
        process: None,
        group: Box::new(PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None }),
        incident: None,
    };
    assert!(!lines(false, &stuck).contains('\x1b'));
    assert!(lines(true, &stuck).contains("\x1b[1;31mstuck"));
}

#[test]
fn bounds_are_never_shown_as_one_number() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    assert_eq!(dwell(Dwell::Between { at_least: minutes(12), at_most: Some(minutes(180)) }), "12m to 3h");
    let seconds = Duration::from_secs(136);
    let close = Dwell::Between { at_least: seconds, at_most: Some(seconds + Duration::from_millis(3)) };
    assert_eq!(dwell(close), "2m16s", "both ends read the same");
    assert_eq!(dwell(Dwell::Between { at_least: minutes(12), at_most: None }), "at least 12m");
}

#[test]
fn durations_have_two_units_at_most() {
    let shown: Vec<_> = [0, 5, 1_290, 9_000, 12_300, 999_900, 1_000_000, 4_290_000, 59_999_999]
        .into_iter()
        .chain([60_000_000, 192_000_000, 3_600_000_000, 14_820_000_000, 86_400_000_000, 788_400_000_000])
        .map(|micros| duration(Duration::from_micros(micros)))
        .collect();
    let below_a_minute = ["0us", "5us", "1.2ms", "9ms", "12ms", "999ms", "1s", "4.2s", "59s"];
    let above = ["1m", "3m12s", "1h", "4h7m", "1d", "9d3h"];
    assert_eq!(shown, [&below_a_minute[..], &above].concat());
}

#[test]
fn rates_have_two_digits_or_more() {
    assert_eq!([0.05, 1.24, 9.96, 19.6, 1234.5].map(rate), ["0.05/s", "1.2/s", "10/s", "20/s", "1234/s"]);
}

#[test]
fn every_loss_is_named() {
    let totals = Totals {
        lost_ring_full: 1,
        lost_map_full: 2,
        replaced: 3,
        skipped_by_kernel: Some(4),
        undecodable: 5,
        unwritten: 6,
        repaired: 11,
        phantom: 12,
        untracked: 7,
        ungrouped: 8,
        unkept: 9,
        fd_open_unwatched: 10,
        log_lines_dropped: 13,
        recordings_failed: 14,
        unexported: 15,
        unrecorded: 16,
        ..Totals::default()
    };
    let text = losses(totals);
    for count in 1..=16 {
        assert!(text.contains(&format!("{count} ")), "{text}");
    }
    assert_eq!(losses(Totals::default()), "nothing lost");
}

#[test]
fn a_histogram_is_one_line_of_the_log() {
    let mut histogram = Histogram::default();
    histogram.record(Duration::from_millis(20));
    let (finished, unfinished) = (histogram.summary(), Summary::default());
    let window = Duration::from_secs(60);
    let finding = Finding::Histogram { at: BootTime(0), scope: Scope::LocalPort(80), window, finished, unfinished };
    let line = "dwell, last 1m, port 80: 1 (p50 20ms, p90 20ms, p99 20ms, max 20ms) exited, 0 still in CLOSE_WAIT";
    assert_eq!(histogram_line(&finding), Some((log::Level::Debug, line.to_owned())));
    assert_eq!(histogram_line(&left_by(&[0; 16])), None);
}
