use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::{items::FirstUses, *};
use crate::sink::{
    Form,
    list::{ListShape, render},
};
use closewait_engine::{
    Config,
    model::{Certainty, Class, Dwell, Exit, ExitCause, SocketEvent, SocketKey},
    snapshot::query::{Filter, VerdictTexts},
    testing::{listener, owner, process, row, socket, socket_on_port, verdict, workload},
    text::is_harmful,
};

const NOW: BootTime = BootTime(100_000_000_000_000);

fn header(at: BootTime, total: u64) -> AnswerHeader {
    let (version, anchor) = ("0.1.0".to_owned(), TimeAnchor::booted_at(UNIX_EPOCH));
    AnswerHeader { version, at, anchor, total, untracked: 0, unseen: None }
}

/// The items of an answer with the rows of `view`, in one frame; `total` sockets without a filter.
fn encoded(view: &View<'_>, total: Option<usize>, texts: VerdictTexts) -> Vec<u8> {
    let mut frame = ItemFrame::default();
    let header = AnswerHeader {
        untracked: view.untracked,
        unseen: view.unseen.map(str::to_owned),
        ..header(view.now, total.unwrap_or(view.rows.len()) as u64)
    };
    frame.add(&AnswerItem::Header(header)).unwrap();
    let mut shared = FirstUses::new(texts);
    for row in &view.rows {
        shared.row(row.clone(), view.processes, &mut |item: AnswerItem<'_>| frame.add(&item)).unwrap();
    }
    frame.bytes().to_vec()
}

/// As an agent encodes `view` and a client collects it; `total` sockets without a filter.
pub(in crate::sink) fn sent(view: &View<'_>, total: Option<usize>, texts: VerdictTexts) -> Listing<'static> {
    let mut collector = AnswerCollector::default();
    collector.frame(&encoded(view, total, texts)).unwrap();
    collector.listing().unwrap()
}

/// Rows with everything that a row can have.
fn with_full_view<T>(with: impl FnOnce(&View<'_>) -> T) -> T {
    let (sockets, workload) = ([socket(), socket_on_port(81), socket_on_port(82)], workload());
    let owners = [owner("nginx", 812, 7), owner("nginx", 813, 7)];
    let gone = Exit { at: NOW, seen: true, how: ExitCause::Reset, closer: Some(owners[0].task.clone()), dwell: None };
    let seen = Seen { what: listener(81, 3, 128), at: NOW, owners: vec![owner("nginx", 814, 6)] };
    let processes: BTreeMap<u32, Process> =
        [812, 814, 9].into_iter().map(|pid| (pid, process("nginx", pid, Some((5, 1024))))).collect();
    let [first, second, third] = &sockets;
    let rows = vec![
        Row {
            owners: Some(&owners),
            workload: Some(&workload),
            conntrack: Some(Duration::from_secs(60)),
            process: processes.get(&812),
            ..row(first)
        },
        Row {
            listener: Some(&seen),
            workload: Some(&workload),
            process: processes.get(&814),
            dwell: Some(Dwell::Between { at_least: Duration::from_secs(1), at_most: None }),
            verdict: verdict(Class::NeverAccepted, Certainty::Fact),
            ..row(second)
        },
        Row { listener: Some(&seen), gone: Some(&gone), dwell: None, ..row(third) },
    ];
    with(&View { now: NOW, rows, untracked: 3, unseen: Some("why"), processes: &processes })
}

#[test]
fn rows_arrive_as_they_were_sent_with_the_processes_they_refer_to() {
    with_full_view(|view| {
        let listing = sent(view, Some(7), VerdictTexts::All);
        let AnswerHeader { at, total, untracked, unseen, .. } = &listing.header;
        assert_eq!((*at, *total, *untracked, unseen.as_deref()), (NOW, 7, 3, Some("why")));
        assert_eq!(listing.view().rows, view.rows);
        assert_eq!(listing.processes.keys().copied().collect::<Vec<_>>(), [812, 814], "no row refers to pid 9");
    });
}

#[test]
fn a_table_gets_the_texts_that_its_hints_show() {
    let socket = socket();
    let owners = [7, 8].map(|pid| [owner("app", pid, 3)]);
    let row = |number: usize, certainty| Row {
        owners: owners.get(number).map(<[_; 1]>::as_slice),
        verdict: verdict(Class::Leak, certainty),
        ..row(&socket)
    };
    let rows = vec![
        row(0, Certainty::High),
        row(0, Certainty::Low),
        row(1, Certainty::High),
        row(1, Certainty::High),
        row(2, Certainty::High),
    ];
    let processes = BTreeMap::new();
    let view = View { now: NOW, rows, untracked: 0, unseen: None, processes: &processes };
    let has_texts: Vec<bool> = sent(&view, None, VerdictTexts::FirstOfEach)
        .rows()
        .map(|row| !row.verdict.text.is_empty() && !row.verdict.next.is_empty())
        .collect();
    assert_eq!(has_texts, [true, false, true, false, true]);
}

#[test]
fn what_rows_have_in_common_is_sent_once_before_the_first_of_them() {
    let bytes = with_full_view(|view| encoded(view, None, VerdictTexts::All));
    let mut kinds = Vec::new();
    ItemFrame::decode(&bytes, |item| {
        kinds.push(match item {
            AnswerItem::Header(_) => "header",
            AnswerItem::Listener(_) => "listener",
            AnswerItem::Workload(_) => "workload",
            AnswerItem::Process(_) => "process",
            AnswerItem::Row(_) => "row",
            AnswerItem::Report(_) | AnswerItem::Group(_) => "report",
        });
        Ok::<(), AnswerError>(())
    })
    .unwrap();
    assert_eq!(kinds, ["header", "process", "workload", "row", "process", "listener", "row", "row"]);
}

/// An engine with sockets on these ports, each with an owner.
fn engine(ports: &[u16]) -> Engine {
    let mut engine = Engine::new(Config::default(), BootTime(0));
    for port in ports {
        let key = SocketKey((1 << 63) + u64::from(*port));
        let socket = socket_on_port(*port);
        engine.handle(SocketEvent::Enter { key, at: BootTime(1_000_000_000), socket });
    }
    engine
}

#[test]
fn an_agent_and_a_scan_give_the_same_answer_in_bounded_frames() {
    let ports: Vec<u16> = (1..=500).collect();
    let engine = engine(&ports);
    let filter = Filter { ports: (10..500).collect(), ..Filter::default() };
    let query = Query::List { filter: filter.clone(), texts: VerdictTexts::All };
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    let (mut asked, mut frames) = (AnswerCollector::default(), 0);
    let collect = |frame: &[u8]| {
        assert!(frame.len() < FRAME + 4096, "{}", frame.len());
        frames += 1;
        asked.frame(frame).map_err(io::Error::other)
    };
    answer(&engine, &query, NOW, anchor, collect).unwrap();
    assert!(frames > 2, "{frames}");
    let (asked, alone) =
        (asked.listing().unwrap(), AnswerCollector::of(&engine, &query, NOW, anchor).unwrap().listing().unwrap());
    assert_eq!((asked.len(), asked.header.total), (490, 500));
    assert_eq!(asked.header, alone.header);
    assert_eq!(asked.view(), alone.view());
    let all: Vec<_> = engine.view(NOW).rows;
    assert!(asked.rows().eq(all.into_iter().filter(|row| filter.matches(row, NOW))));
}

#[test]
fn a_report_arrives_as_it_was_made() {
    let engine = engine(&[80, 81]);
    let (mut asked, anchor) = (AnswerCollector::default(), TimeAnchor::booted_at(UNIX_EPOCH));
    answer(&engine, &Query::Report, NOW, anchor, |frame| asked.frame(frame).map_err(io::Error::other)).unwrap();
    let (header, report) = asked.report().unwrap();
    assert_eq!((header.at, header.version.as_str()), (NOW, env!("CARGO_PKG_VERSION")));
    assert_eq!(report, engine.report(NOW));
    assert_eq!(report.groups.len(), 2);
}

#[test]
fn items_that_do_not_belong_together_are_refused() {
    fn add(items: Vec<AnswerItem<'static>>) -> Result<AnswerCollector<'static>, AnswerError> {
        let mut collector = AnswerCollector::default();
        items.into_iter().try_for_each(|item| collector.add(item)).map(|()| collector)
    }
    let begin = || AnswerItem::Header(header(NOW, 0));
    let plain = AnswerRow {
        socket: Cow::Owned(socket()),
        dwell: None,
        gone: None,
        owners: None,
        listener: None,
        workload: None,
        conntrack: None,
        proxy_peer: None,
        process: None,
        verdict: verdict(Class::Leak, Certainty::High),
    };
    let row = |row: AnswerRow<'static>| AnswerItem::Row(Box::new(row));
    assert!(add(vec![begin(), row(plain.clone())]).is_ok());
    assert!(matches!(add(vec![row(plain.clone())]), Err(AnswerError::Header)), "nothing comes before the header");
    assert!(matches!(add(vec![begin(), begin()]), Err(AnswerError::Header)));
    assert!(matches!(AnswerCollector::default().listing(), Err(AnswerError::Header)));
    assert!(matches!(add(vec![begin()]).unwrap().report(), Err(AnswerError::Report)));
    for (refers, what) in [
        (AnswerRow { listener: Some(0), ..plain.clone() }, SharedItem::Listener),
        (AnswerRow { workload: Some(u32::MAX), ..plain.clone() }, SharedItem::Workload),
        (AnswerRow { process: Some(1), ..plain }, SharedItem::Process),
    ] {
        assert!(matches!(add(vec![begin(), row(refers)]), Err(AnswerError::Reference(missing)) if missing == what));
    }
}

#[test]
fn a_verdict_of_no_rule_is_refused() {
    let bytes = with_full_view(|view| encoded(view, None, VerdictTexts::All));
    let known = b"close_missing";
    let at = bytes.windows(known.len()).position(|window| window == known).unwrap();
    let mut other = bytes;
    other[at] = b'x';
    assert!(matches!(AnswerCollector::default().frame(&other), Err(AnswerError::Undecodable(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn text_that_arrives_acts_on_no_terminal(text in "\\PC*[\\x00-\\x1f\\x7f-\\x9f\u{202e}\u{200b}]\\PC*") {
        let (socket, mut workload) = (socket(), workload());
        workload.cgroup_path.clone_from(&text);
        workload.unit = Some(text.clone());
        let mut process = process("x", 7, None);
        (process.exe, process.unseen) = (Some(text.clone()), vec![text.clone()]);
        let processes = BTreeMap::from([(7, process)]);
        let owners = [owner("x", 7, 1)];
        let mut row = Row {
            workload: Some(&workload),
            owners: Some(&owners),
            process: processes.get(&7),
            ..row(&socket)
        };
        (row.verdict.text, row.verdict.next) = (text.clone(), text.clone());
        let view = View { now: NOW, rows: vec![row], untracked: 0, unseen: Some(&text), processes: &processes };
        let listing = sent(&view, None, VerdictTexts::All);
        let mut shown = Vec::new();
        for form in [Form::Text, Form::Json] {
            let shape = ListShape { form, ..Default::default() };
            render(&listing, shape, &mut shown).unwrap();
        }
        let shown = String::from_utf8(shown).unwrap();
        prop_assert!(!shown.chars().any(|shown| is_harmful(shown) && shown != '\n'), "{shown:?}");
    }

    #[test]
    fn a_damaged_answer_is_survived(at in 0_usize..4000, with: u8) {
        let mut bytes = with_full_view(|view| encoded(view, None, VerdictTexts::All));
        let at = at % bytes.len();
        bytes[at] = with;
        let mut collector = AnswerCollector::default();
        if collector.frame(&bytes).is_ok() && let Ok(listing) = collector.listing() {
            let mut shown = Vec::new();
            render(&listing, Default::default(), &mut shown).unwrap();
            prop_assert!(String::from_utf8(shown).is_ok());
        }
    }
}
