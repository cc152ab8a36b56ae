//! Order, columns, screens and suggested commands of lists.

use super::*;

/// Returns the cells of a column, without the heading.
fn cells(text: &str, heading: &str) -> Vec<String> {
    let mut lines = table(text).lines();
    let start = lines.next().unwrap().find(heading).unwrap();
    lines.map(|line| line.chars().skip(start).take_while(|character| *character != ' ').collect()).collect()
}

#[test]
fn the_answer_comes_first() {
    let world = TableFixture::new();
    let first = |query: &ListRequest| world.shown(query).lines().next().unwrap().to_owned();
    assert_eq!(first(&ListRequest::default()), "3 sockets in CLOSE_WAIT; 1 connection ended with an open descriptor");
    let filter = Filter { verdicts: vec![Class::Hung], ..Filter::default() };
    let filtered = ListRequest { filter, ..ListRequest::default() };
    assert_eq!(first(&filtered), "1 socket in CLOSE_WAIT (of 3 without the filters)");
    let filter = Filter { verdicts: vec![Class::Unknown], ..Filter::default() };
    let ended = ListRequest { filter, by: Some(GroupBy::Peer), ..ListRequest::default() };
    let expected = "no socket in CLOSE_WAIT (of 3 without the filters); 1 connection ended with an open descriptor";
    assert_eq!(first(&ended), expected);
}

#[test]
fn rows_are_sorted_by_any_property_in_both_directions_also_as_objects() {
    let world = TableFixture::new();
    // Rows by age: hung of shop-api (1 byte), pool of x (1234567 bytes), never_accepted of nginx (?), unknown of nginx (1).
    let sorted = |by, reverse| {
        let order = RowOrder { by, reverse };
        let text = world.shown(&ListRequest { order, columns: vec!["verdict", "recv-q"], ..ListRequest::default() });
        let objects = world.shown(&ListRequest { order, form: Form::Json, ..ListRequest::default() });
        let objects = objects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let classes: Vec<String> =
            objects.map(|object| object["verdict"]["class"].as_str().unwrap().to_owned()).collect();
        assert_eq!(cells(&text, "VERDICT"), classes, "{by:?}");
        classes
    };
    let by = |by| sorted(Some(by), false);
    assert_eq!(by(SortBy::Age), ["hung", "pool", "never_accepted", "unknown"]);
    assert_eq!(sorted(None, true), ["unknown", "never_accepted", "pool", "hung"]);
    assert_eq!(by(SortBy::RecvQ), ["pool", "hung", "unknown", "never_accepted"]);
    assert_eq!(sorted(Some(SortBy::RecvQ), true), ["never_accepted", "unknown", "hung", "pool"]);
    assert_eq!(by(SortBy::Verdict), ["hung", "never_accepted", "unknown", "pool"]);
    assert_eq!(by(SortBy::Owner), ["pool", "never_accepted", "unknown", "hung"]);
    assert_eq!(
        by(SortBy::Port),
        ["pool", "unknown", "hung", "never_accepted"],
        "5432 of the client's server, then 8080"
    );
}

#[test]
fn groups_are_sorted_too() {
    let world = TableFixture::new();
    let first = |by| {
        let order = RowOrder { by: Some(by), reverse: false };
        let query = ListRequest { by: Some(GroupBy::Process), order, ..ListRequest::default() };
        cells(&world.shown(&query), "VERDICT").swap_remove(0)
    };
    assert_eq!((first(SortBy::Age), first(SortBy::Verdict)), ("pool".to_owned(), "hung".to_owned()));
}

#[test]
fn chosen_columns_come_in_the_given_order_and_details_only_on_request() {
    let world = TableFixture::new();
    let columns = vec!["rule", "owner", "role", "waits-for", "cause"];
    let text = world.shown(&ListRequest { columns: columns.clone(), ..ListRequest::default() });
    let words: Vec<_> = table(&text).lines().next().unwrap().split_whitespace().collect();
    assert_eq!(words, ["RULE", "OWNER", "ROLE", "WAITS-FOR", "CAUSE"]);
    assert_eq!(cells(&text, "ROLE"), ["server", "client", "server", "server"]);
    assert!(text.contains("[2001:db8:ffff:5678:9abc:def0:1234:5678]:5432  this is why"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains('\u{202e}'));
    // Every column that can be chosen is there, and narrow screens keep them as long as they can.
    for heading in headings(None) {
        let shape = ListShape { columns: vec![heading.clone()], ..ListShape::default() };
        assert_eq!(
            shape.content() == ListContent::WideTable,
            !rows::HEADINGS.contains(&heading.to_ascii_uppercase().as_str())
        );
    }
    let narrow = ListRequest { columns: vec!["age", "recv-q", "send-q", "owner"], ..at_width(50) };
    assert!(table(&world.shown(&narrow)).lines().next().unwrap().contains("SEND-Q"));
    for by in [GroupBy::Process, GroupBy::Listener, GroupBy::Peer, GroupBy::Cgroup] {
        let columns = vec!["fds", "count"];
        let text = world.shown(&ListRequest { by: Some(by), columns, ..ListRequest::default() });
        let words: Vec<_> = table(&text).lines().next().unwrap().split_whitespace().collect();
        assert_eq!(words, ["FDS", "COUNT"]);
    }
}

#[test]
fn a_list_fits_the_screen_with_the_prompt_and_says_what_it_omits() {
    let world = TableFixture::new();
    let mut view = world.view();
    let rows = view.rows.clone();
    view.rows = rows.iter().cycle().take(400).cloned().collect();
    for by in [None, Some(GroupBy::Process)] {
        for (width, height) in [(80, 24), (80, 12), (120, 40), (200, 50)] {
            let text = shown(&view, &ListRequest { by, height: Some(height), ..at_width(width) });
            let rows: usize =
                text.lines().map(|line| crate::sink::table::width(line).div_ceil(width.into()).max(1)).sum();
            assert!(rows < height, "{rows} of {height}:\n{text}");
            if by.is_none() {
                let shown = table(&text).lines().count() - 2;
                assert!(
                    shown >= 2 && text.contains(&format!("and {} more sockets (--all shows them)", 400 - shown)),
                    "{text}"
                );
            }
        }
    }
    let all = shown(&view, &at_width(80));
    assert!(all.lines().count() > 400 && !all.contains("--all"));
    let few = world.shown(&ListRequest { height: Some(60), ..at_width(80) });
    assert!(!few.contains("--all"));
}

#[test]
fn causes_without_room_are_counted() {
    let world = TableFixture::new();
    let text = world.shown(&ListRequest { height: Some(14), ..at_width(80) });
    assert!(text.lines().any(|line| line.starts_with("and ") && line.contains(" more cause")), "{text}");
    assert!(text.contains("this --now"), "the first cause has its command: {text}");
}

#[test]
fn suggested_commands_of_closewait_ask_the_same_agent() {
    let socket = socket();
    let mut row = row(&socket);
    row.verdict.next = closewait_engine::process::NextStep::command("look", "closewait list --port 80".to_owned());
    let processes = BTreeMap::new();
    let view = View { now: NOW, untracked: 0, unseen: None, rows: vec![row], processes: &processes };
    for form in [Form::Text, Form::Json] {
        let query = |socket| ListRequest { socket, form, ..ListRequest::default() };
        assert!(shown(&view, &query(Some("/tmp/a.sock"))).contains("closewait list --port 80 --socket /tmp/a.sock"));
        assert!(!shown(&view, &query(None)).contains("--socket"));
    }
}

#[test]
fn a_cgroup_without_a_path_has_the_name_that_the_filter_takes() {
    let (workload, root) = (workload(), Socket { cgroup: Some(1), ..socket() });
    let processes = BTreeMap::new();
    let of_owner = Row { workload: Some(&workload), ..row(&root) };
    let rows = vec![row(&root), of_owner, row(&root)];
    let view = View { now: NOW, untracked: 0, unseen: None, rows, processes: &processes };
    let by = |filter| shown(&view, &ListRequest { filter, by: Some(GroupBy::Cgroup), ..ListRequest::default() });
    assert_eq!(cells(&by(Filter::default()), "CGROUP"), ["id:1", "shop/shop-api-7d9f/api"]);
    for (name, count) in [("id:1", "2"), ("shop/shop-api-7d9f", "1")] {
        let filtered = by(Filter { cgroups: vec![name.to_owned()], ..Filter::default() });
        let of = |heading| cells(&filtered, heading).len();
        assert!(of("CGROUP") == 1 && table(&filtered).lines().nth(1).unwrap().trim().starts_with(count), "{filtered}");
    }
}
