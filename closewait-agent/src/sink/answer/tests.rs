use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::sink::{
    Form,
    list::{ListShape, render},
};
use closewait_engine::{
    Config,
    model::{Certainty, Class, Dwell, Exit, ExitCause, SocketEvent, SocketKey},
    process::NextStep,
    snapshot::query::{Filter, GroupBy, ListContent, ReportContent},
    testing::{listener, owner, process, row, socket, socket_on_port, verdict, workload},
    text::is_harmful,
};

const NOW: BootTime = BootTime(100_000_000_000_000);

fn header(at: BootTime, total: u64) -> AnswerHeader {
    let (version, anchor) = ("0.1.0".to_owned(), TimeAnchor::booted_at(UNIX_EPOCH));
    AnswerHeader { version, at, anchor, total, untracked: 0, unseen: None }
}

/// Returns the items of an answer with this content of the rows of `view`, in one frame; `total` sockets in CLOSE_WAIT without a
/// filter.
fn encoded(view: &View<'_>, total: Option<usize>, content: ListContent) -> Vec<u8> {
    let mut frame = ItemFrame::default();
    let header = AnswerHeader {
        untracked: view.untracked,
        unseen: view.unseen.map(str::to_owned),
        ..header(view.now, total.unwrap_or_else(|| view.rows.iter().filter(|row| row.gone.is_none()).count()) as u64)
    };
    let mut add = |item: AnswerItem<'_>| frame.add(&item);
    add(AnswerItem::Header(header)).unwrap();
    let engine = Engine::new(Config::default(), BootTime(0));
    let everything = Filter::default();
    let summary = engine.summarize(&engine.select(view.now, &everything));
    list(view.rows.iter().cloned(), view.processes, content, summary, &mut add).unwrap();
    frame.bytes().to_vec()
}

/// Collects `view` as an agent encodes it; `total` sockets without a filter.
pub(in crate::sink) fn sent(view: &View<'_>, total: Option<usize>, shape: &ListShape) -> Listing<'static> {
    let mut collector = AnswerCollector::new(shape);
    collector.frame(&encoded(view, total, shape.content())).unwrap();
    collector.listing().unwrap()
}

/// Collects `view` for a list in JSON.
fn sent_sockets(view: &View<'_>, total: Option<usize>) -> Listing<'static> {
    sent(view, total, &ListShape { form: Form::Json, ..ListShape::default() })
}

/// Calls `with` with rows that have a value for every member.
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
            owners: Some(Cow::Borrowed(&owners)),
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
        let listing = sent_sockets(view, Some(7));
        let AnswerHeader { at, total, untracked, unseen, .. } = &listing.header;
        assert_eq!((*at, *total, *untracked, unseen.as_deref()), (NOW, 7, 3, Some("why")));
        assert_eq!(listing.view().rows, view.rows);
        assert_eq!(listing.shared.processes.keys().copied().collect::<Vec<_>>(), [812, 814], "no row refers to pid 9");
    });
}

/// Returns all items of an answer.
fn items_of(view: &View<'_>, content: ListContent) -> Vec<AnswerItem<'static>> {
    let mut items = Vec::new();
    let add = |item| {
        items.push(item);
        Ok::<(), AnswerError>(())
    };
    ItemFrame::decode(&encoded(view, None, content), add).unwrap();
    items
}

#[test]
fn a_table_gets_hints_and_rows_without_what_it_does_not_show() {
    with_full_view(|view| {
        let (mut rows, mut hints) = (0, HintBuilder::default());
        view.rows.iter().for_each(|row| hints.add(row));
        let mut expected = hints.finish(view.processes).into_iter();
        for item in items_of(view, ListContent::Table) {
            match item {
                AnswerItem::Row(row) => {
                    assert!(
                        row.verdict.text.is_empty() && row.verdict.next == NextStep::default() && row.process.is_none()
                    );
                    assert!(row.socket.received_bytes.is_none() && row.socket.unread_bytes.is_some());
                    rows += 1;
                }
                AnswerItem::Hint(hint) => assert_eq!(Some(*hint), expected.next()),
                AnswerItem::Process(_) => panic!("a table shows no process by itself"),
                AnswerItem::Summary(summary) => assert_eq!((summary.sockets, summary.gone), (2, 1)),
                AnswerItem::Header(_) | AnswerItem::Listener(_) | AnswerItem::Workload(_) => {}
                AnswerItem::Report(_) | AnswerItem::Group(_) | AnswerItem::ListedGroup(_) => {
                    panic!("no part of a table")
                }
            }
        }
        assert_eq!((rows, expected.next()), (view.rows.len(), None));
    });
}

#[test]
fn groups_come_without_the_sockets_and_are_those_of_the_rows() {
    with_full_view(|view| {
        for by in [GroupBy::Process, GroupBy::Listener, GroupBy::Peer, GroupBy::Cgroup] {
            let mut groups = ListedGroupBuilder::new(by);
            view.rows.iter().for_each(|row| groups.add(row));
            let groups = groups.finish(view.processes);
            assert!(!groups.is_empty());
            let listing = sent(view, None, &ListShape { by: Some(by), ..ListShape::default() });
            assert_eq!((listing.len(), &listing.groups), (0, &groups), "{by:?}");
            let of_table = sent(view, None, &ListShape::default());
            assert!(!listing.hints.is_empty() && listing.hints == of_table.hints, "{by:?}");
        }
    });
}

#[test]
fn a_table_with_details_gets_all_facts_and_hints() {
    with_full_view(|view| {
        let shape = ListShape { columns: vec!["rule".to_owned(), "inode".to_owned()], ..ListShape::default() };
        assert_eq!(shape.content(), ListContent::WideTable);
        let listing = sent(view, None, &shape);
        assert_eq!(listing.table.map(|table| table.len()), Some(view.rows.len()));
        assert_eq!(listing.hints, sent(view, None, &ListShape::default()).hints);
    });
}

#[test]
fn what_rows_have_in_common_is_sent_once_before_the_first_of_them() {
    let bytes = with_full_view(|view| encoded(view, None, ListContent::Sockets));
    let mut kinds = Vec::new();
    ItemFrame::decode(&bytes, |item| {
        kinds.push(match item {
            AnswerItem::Header(_) => "header",
            AnswerItem::Listener(_) => "listener",
            AnswerItem::Workload(_) => "workload",
            AnswerItem::Process(_) => "process",
            AnswerItem::Row(_) => "row",
            AnswerItem::Report(_) | AnswerItem::Group(_) => "report",
            AnswerItem::ListedGroup(_) | AnswerItem::Hint(_) | AnswerItem::Summary(_) => "summary",
        });
        Ok::<(), AnswerError>(())
    })
    .unwrap();
    assert_eq!(kinds, ["header", "process", "workload", "row", "process", "listener", "row", "row"]);
}

/// Returns an engine with sockets on these ports, each with an owner.
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
    let query = Query::List { filter: filter.clone(), content: ListContent::Sockets };
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    let (mut asked, mut frames) = (AnswerCollector::default(), 0);
    let collect = |frame: &[u8]| {
        assert!(frame.len() < FRAME + 4096, "{}", frame.len());
        frames += 1;
        asked.frame(frame).map_err(io::Error::other)
    };
    answer(&engine, &query, NOW, anchor, collect).unwrap();
    assert!(frames > 2, "{frames}");
    let alone = AnswerCollector::default().scanned(&engine, &query, NOW, anchor).unwrap();
    let (asked, alone) = (asked.listing().unwrap(), alone.listing().unwrap());
    assert_eq!((asked.len(), asked.header.total), (490, 500));
    assert_eq!(asked.header, alone.header);
    assert_eq!(asked.view(), alone.view());
    let all: Vec<_> = engine.view(NOW).rows;
    assert!(asked.rows().eq(all.into_iter().filter(|row| filter.matches(row, NOW))));
}

#[test]
fn an_agent_and_a_scan_show_the_same_in_every_shape() {
    let engine = engine(&(1..=500).collect::<Vec<_>>());
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH);
    for form in [Form::Text, Form::Json] {
        for by in [None, Some(GroupBy::Process), Some(GroupBy::Listener), Some(GroupBy::Peer), Some(GroupBy::Cgroup)] {
            let shape = ListShape { form, by, ..ListShape::default() };
            let query = Query::List { filter: Filter::default(), content: shape.content() };
            let mut asked = AnswerCollector::new(&shape);
            answer(&engine, &query, NOW, anchor, |frame| asked.frame(frame).map_err(io::Error::other)).unwrap();
            let alone = AnswerCollector::new(&shape).scanned(&engine, &query, NOW, anchor).unwrap();
            let shown = |answer: AnswerCollector<'_>| {
                let mut shown = Vec::new();
                render(answer.listing().unwrap(), &shape, &mut shown).unwrap();
                String::from_utf8(shown).unwrap()
            };
            let (asked, alone) = (shown(asked), shown(alone));
            assert!(asked == alone, "{shape:?}");
            let least = match (form, by) {
                (Form::Text, None) => 501,
                (Form::Json, None) | (_, Some(GroupBy::Listener)) => 500,
                (_, Some(_)) => 1,
            };
            assert!(asked.lines().count() >= least, "{shape:?}: {} lines", asked.lines().count());
        }
    }
}

#[test]
fn a_report_arrives_as_it_was_made() {
    let engine = engine(&[80, 81]);
    let (mut asked, anchor) = (AnswerCollector::default(), TimeAnchor::booted_at(UNIX_EPOCH));
    answer(
        &engine,
        &Query::Report { filter: Filter::default(), content: ReportContent::Courses },
        NOW,
        anchor,
        |frame| asked.frame(frame).map_err(io::Error::other),
    )
    .unwrap();
    let (header, report) = asked.report().unwrap();
    assert_eq!((header.at, header.version.as_str()), (NOW, env!("CARGO_PKG_VERSION")));
    assert_eq!(report, engine.report_of(NOW, &Filter::default(), ReportContent::Courses));
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
    let bytes = with_full_view(|view| encoded(view, None, ListContent::Sockets));
    let known = b"slow";
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
            owners: Some(Cow::Borrowed(&owners)),
            process: processes.get(&7),
            ..row(&socket)
        };
        (row.verdict.text, row.verdict.next) = (text.clone(), NextStep::command(text.clone(), text.clone()));
        let view = View { now: NOW, rows: vec![row], untracked: 0, unseen: Some(&text), processes: &processes };
        let mut shown = Vec::new();
        for form in [Form::Text, Form::Json] {
            for by in [None, Some(GroupBy::Process), Some(GroupBy::Cgroup)] {
                let shape = ListShape { form, by, ..Default::default() };
                render(sent(&view, None, &shape), &shape, &mut shown).unwrap();
            }
        }
        let shown = String::from_utf8(shown).unwrap();
        prop_assert!(!shown.chars().any(|shown| is_harmful(shown) && shown != '\n'), "{shown:?}");
    }

    #[test]
    fn a_damaged_answer_is_survived(at in 0_usize..4000, with: u8) {
        for content in [ListContent::Sockets, ListContent::Table, ListContent::Groups(GroupBy::Cgroup)] {
            let mut bytes = with_full_view(|view| encoded(view, None, content));
            let at = at % bytes.len();
            bytes[at] = with;
            for form in [Form::Text, Form::Json] {
                let shape = ListShape { form, ..Default::default() };
                let mut collector = AnswerCollector::new(&shape);
                if collector.frame(&bytes).is_ok() && let Ok(listing) = collector.listing() {
                    let mut shown = Vec::new();
                    render(listing, &shape, &mut shown).unwrap();
                    prop_assert!(String::from_utf8(shown).is_ok());
                }
            }
        }
    }
}
