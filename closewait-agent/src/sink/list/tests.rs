mod options;
mod screens;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::sink::answer::tests::sent;
use closewait_engine::{
    diagnose::Seen,
    model::{
        Certainty, Class, Connection, Dwell, Endpoint, Exit, ExitCause, Listener, Opener, Owner, ProxyPeer, Role,
        Socket, Timer, TimerKind,
    },
    process::Process,
    snapshot::query::Filter,
    snapshot::view::{Row, View},
    testing::{listener, owner, process, row, socket, verdict, workload},
    time::BootTime,
};
use std::{borrow::Cow, path::PathBuf, time::Duration};
use tests_support::schema::{check_grouped, check_listed};

const NOW: BootTime = BootTime(100_000_000_000_000);

fn ago(seconds: u64) -> BootTime {
    NOW - Duration::from_secs(seconds)
}

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint { address: address.ip(), port: address.port() }
}

/// Owner of everything that a view borrows.
struct TableFixture {
    sockets: Vec<Socket>,
    owners: Vec<Vec<Owner>>,
    listener: Seen<Listener>,
    gone: Exit,
    proxy_peer: ProxyPeer,
    workload: Workload,
    processes: BTreeMap<u32, Process>,
}

impl TableFixture {
    fn new() -> Self {
        let server = Socket {
            send_queue_bytes: Some(0),
            timer: Some(Timer { kind: TimerKind::Keepalive, expires: NOW + Duration::from_secs(72), retries: 0 }),
            ..socket()
        };
        let client = Socket {
            role: Some(Role::Client),
            local: end("[2001:db8:1234:5678::a1]:41234"),
            remote: end("[2001:db8:ffff:5678:9abc:def0:1234:5678]:5432"),
            unread_bytes: Some(1_234_567),
            timer: None,
            ..server.clone()
        };
        let waits = Socket { accepted: Some(false), inode: None, unread_bytes: None, ..server.clone() };
        let over = Socket { remote: end("10.0.0.9:40000"), timer: None, ..server.clone() };
        let proxy_peer = ProxyPeer { state: Connection::Established, socket: client.clone() };
        Self {
            proxy_peer,
            sockets: vec![server, client, waits, over],
            owners: vec![
                vec![owner("shop-api-worker1", 1234567, 153), owner("java", 77, 3), owner("java", 78, 3)],
                vec![owner("\x1b[2J\u{202e}x", 9, 12)],
                vec![],
                vec![owner("nginx", 812, 7)],
            ],
            listener: Seen { what: listener(8080, 65, 64), at: NOW, owners: vec![owner("nginx", 812, 6)] },
            gone: Exit { at: ago(192), seen: true, how: ExitCause::Reset, closer: None, dwell: None },
            workload: workload(),
            processes: BTreeMap::from([(812, process("nginx", 812, Some((812, 1024))))]),
        }
    }

    fn view(&self) -> View<'_> {
        let rows = self.sockets.iter().zip(&self.owners);
        let mut rows: Vec<_> =
            rows.map(|(socket, owners)| Row { owners: Some(Cow::Borrowed(owners)), ..row(socket) }).collect();
        let [server, client, waits, over] = &mut rows[..] else { unreachable!() };
        server.workload = Some(&self.workload);
        server.proxy_peer = Some(&self.proxy_peer);
        server.conntrack = Some(Duration::from_secs(60));
        let (at_least, at_most) = (Duration::from_secs(720), Some(Duration::from_secs(10_800)));
        client.dwell = Some(Dwell::Between { at_least, at_most });
        client.verdict = verdict(Class::Pool, Certainty::Medium);
        waits.listener = Some(&self.listener);
        waits.verdict = verdict(Class::NeverAccepted, Certainty::Fact);
        over.gone = Some(&self.gone);
        over.verdict = verdict(Class::Unknown, Certainty::Low);
        View { now: NOW, untracked: 0, unseen: None, rows, processes: &self.processes }
    }

    fn shown(&self, query: &ListRequest) -> String {
        shown(&self.view(), query)
    }

    fn objects(&self, by: Option<GroupBy>) -> Vec<Value> {
        let text = self.shown(&ListRequest { by, form: Form::Json, ..ListRequest::default() });
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        objects.iter().for_each(if by.is_some() { check_grouped } else { check_listed });
        objects
    }
}

/// Query, and the shape of its output.
#[derive(Default)]
struct ListRequest {
    filter: Filter,
    by: Option<GroupBy>,
    form: Form,
    width: Option<u16>,
    wide: bool,
    color: bool,
    order: RowOrder,
    columns: Vec<&'static str>,
    height: Option<usize>,
    socket: Option<&'static str>,
}

/// Returns the client's output for an agent's answer.
fn shown(view: &View<'_>, query: &ListRequest) -> String {
    let ListRequest { filter, by, form, width, wide, color, order, columns, height, socket } = query;
    let selected = view.rows.iter().filter(|row| filter.matches(row, view.now));
    let style = Style { width: *width, wide: *wide, color: *color };
    let shape = ListShape {
        form: *form,
        by: *by,
        style,
        order: *order,
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        height: *height,
        socket: socket.map(PathBuf::from),
        is_redacted: false,
    };
    let total = view.rows.iter().filter(|row| row.gone.is_none()).count();
    let listing = sent(&View { rows: selected.cloned().collect(), ..*view }, Some(total), &shape);
    let mut to = Vec::new();
    render(listing, &shape, &mut to).unwrap();
    String::from_utf8(to).unwrap()
}

/// Returns the text after the first line, which needs an engine, and the empty line behind it.
fn body(text: &str) -> &str {
    text.split_once("\n\n").unwrap().1
}

fn at_width(width: u16) -> ListRequest {
    ListRequest { width: Some(width), ..ListRequest::default() }
}

/// Returns the table without the first line and the hints.
fn table(text: &str) -> &str {
    text.split("\n\n").nth(1).unwrap()
}

#[test]
fn a_pipe_gets_everything() {
    let expected = r"AGE                     RECV-Q  SEND-Q  TIMER                  LOCAL                           REMOTE                                         OWNER                                                           WHERE                   VERDICT
1m30s                        1       0  keepalive,1min12sec,0  10.0.0.5:8080                   10.0.0.9:51234                                 shop-api-worker1[1234567] fd 153, java[77] fd 3, java[78] fd 3  shop/shop-api-7d9f/api  hung high
≥12m ≤3h               1234567       0                         [2001:db8:1234:5678::a1]:41234  [2001:db8:ffff:5678:9abc:def0:1234:5678]:5432  \u{1b}(2J\u{202e}x[9] fd 12                                                             pool medium
1m30s                        ?       0  keepalive,1min12sec,0  10.0.0.5:8080                   10.0.0.9:51234                                 never accepted by nginx[812] (backlog 65/64)                                            never_accepted fact
gone: reset 3m12s ago        1       0                         10.0.0.5:8080                   10.0.0.9:40000                                 nginx[812] fd 7                                                                         unknown";
    assert_eq!(table(&TableFixture::new().shown(&ListRequest::default())), expected);
}

#[test]
fn a_screen_of_120_columns_loses_what_matters_least() {
    let expected = r"AGE                    REMOTE                                    OWNER                               VERDICT
1m30s                  10.0.0.9:51234                            shop-api-worker1[1234567] fd 153…   hung high
≥12m ≤3h               [2001:db8:ffff:5678:9a…0:1234:5678]:5432  \u{1b}(2J\u{202e}x[9] fd 12         pool medium
1m30s                  10.0.0.9:51234                            never accepted by nginx[812]…       never_accepted fact
gone: reset 3m12s ago  10.0.0.9:40000                            nginx[812] fd 7                     unknown";
    assert_eq!(table(&TableFixture::new().shown(&at_width(120))), expected);
}

#[test]
fn a_screen_of_80_columns_shortens_names_and_addresses_but_no_port() {
    let expected = r"AGE           REMOTE                 OWNER                       VERDICT
1m30s         10.0.0.9:51234         shop-a…er1[1234567] fd 153  hung high
≥12m ≤3h      [2001:db8:…5678]:5432  \u{1b}(2J\u…02e}x[9] fd 12  pool medium
1m30s         10.0.0.9:51234         never accepted… nginx[812]  never_accepted…
gone: reset…  10.0.0.9:40000         nginx[812] fd 7             unknown";
    assert_eq!(table(&TableFixture::new().shown(&at_width(80))), expected);
}

#[test]
fn no_line_of_a_table_is_longer_than_the_screen() {
    let world = TableFixture::new();
    for width in 50..=260 {
        for by in [None, Some(GroupBy::Process), Some(GroupBy::Listener), Some(GroupBy::Peer), Some(GroupBy::Cgroup)] {
            let text = world.shown(&ListRequest { by, ..at_width(width) });
            for line in table(&text).lines() {
                assert!(super::super::table::width(line) <= width.into(), "{width}: {line}");
            }
        }
    }
}

#[test]
fn a_hostile_name_stays_in_its_cell() {
    for query in
        [ListRequest::default(), at_width(80), ListRequest { by: Some(GroupBy::Process), ..ListRequest::default() }]
    {
        let text = TableFixture::new().shown(&query);
        assert_eq!(table(&text).lines().count(), if query.by.is_some() { 6 } else { 5 });
        assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{text:?}");
    }
}

#[test]
fn columns_that_say_nothing_are_not_there_unless_all_are_asked_for() {
    let socket = socket();
    let processes = BTreeMap::new();
    let view = View { now: NOW, untracked: 0, unseen: None, rows: vec![row(&socket)], processes: &processes };
    let header = |query: &ListRequest| table(&shown(&view, query)).lines().next().unwrap().to_owned();
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let plain = ["AGE", "RECV-Q", "SEND-Q", "LOCAL", "REMOTE", "OWNER", "VERDICT"];
    assert_eq!(words(header(&ListRequest::default())), plain);
    let wide = words(header(&ListRequest { wide: true, ..ListRequest::default() }));
    assert!(["TIMER", "WHERE", "NETNS"].iter().all(|name| wide.iter().any(|word| word == name)), "{wide:?}");
}

#[test]
fn several_namespaces_are_shown() {
    let sockets = [socket(), Socket { netns: Some(5), ..socket() }];
    let processes = BTreeMap::new();
    let view =
        View { now: NOW, untracked: 0, unseen: None, rows: sockets.iter().map(row).collect(), processes: &processes };
    assert!(shown(&view, &ListRequest::default()).contains("NETNS"));
}

#[test]
fn no_owner_differs_from_unknown_owners() {
    let (socket, processes) = (socket(), BTreeMap::new());
    let owner = |owners, accepted| {
        let socket = Socket { accepted, ..socket.clone() };
        let view = View {
            now: NOW,
            untracked: 0,
            unseen: None,
            rows: vec![Row { owners, ..row(&socket) }],
            processes: &processes,
        };
        shown(&view, &ListRequest::default())
    };
    assert!(owner(Some(Cow::Borrowed(&[])), Some(true)).contains("no process"));
    assert!(owner(None, Some(true)).contains(" ? "));
    assert!(owner(Some(Cow::Borrowed(&[])), Some(false)).contains("never accepted"));
    assert!(owner(None, Some(false)).contains("never accepted"));
}

#[test]
fn bounds_are_one_number_only_where_they_read_the_same() {
    let (socket, processes) = (socket(), BTreeMap::new());
    let age = |at_least, at_most: Option<u64>| {
        let (at_least, at_most) = (Duration::from_millis(at_least), at_most.map(Duration::from_millis));
        let rows = vec![Row { dwell: Some(Dwell::Between { at_least, at_most }), ..row(&socket) }];
        let text =
            shown(&View { now: NOW, untracked: 0, unseen: None, rows, processes: &processes }, &ListRequest::default());
        table(&text).lines().nth(1).unwrap().split("  ").next().unwrap().to_owned()
    };
    assert_eq!(age(720_001, Some(720_009)), "12m");
    assert_eq!(age(720_999, Some(721_000)), "≥12m ≤12m1s");
    assert_eq!(age(720_000, None), "≥12m");
}

#[test]
fn color_follows_the_verdict_and_is_only_where_it_is_asked_for() {
    let world = TableFixture::new();
    assert!(!world.shown(&at_width(120)).contains('\x1b'));
    let colored = world.shown(&ListRequest { color: true, ..at_width(120) });
    assert!(colored.contains("\x1b[1;31mhung high\x1b[0m") && colored.contains("\x1b[33mpool medium\x1b[0m"));
}

#[test]
fn an_empty_list_says_so_and_why() {
    let processes = BTreeMap::new();
    let view = View { now: NOW, untracked: 0, unseen: None, rows: Vec::new(), processes: &processes };
    assert_eq!(shown(&view, &ListRequest::default()), "no socket is in CLOSE_WAIT\n");
    let full = View { untracked: 3, ..view.clone() };
    assert!(
        shown(&full, &ListRequest::default()).starts_with("no tracked socket is in CLOSE_WAIT\n\n3 more sockets are")
    );
    let contained = View { unseen: Some("others are not seen: why"), ..view };
    assert_eq!(
        shown(&contained, &ListRequest::default()),
        "no socket that can be seen from here is in CLOSE_WAIT\n\nothers are not seen: why\n"
    );
    let query = ListRequest { filter: Filter { pids: vec![5], ..Filter::default() }, ..ListRequest::default() };
    assert_eq!(TableFixture::new().shown(&query), "no socket matches; 3 without the filters\n");
    assert_eq!(TableFixture::new().shown(&ListRequest { form: Form::Json, ..query }), "");
}

#[test]
fn untracked_sockets_are_reported() {
    let world = TableFixture::new();
    let view = View { untracked: 1234, ..world.view() };
    let text = shown(&view, &ListRequest::default());
    assert!(text.ends_with(
        "\n\n1234 more sockets are in CLOSE_WAIT and not shown: the agent tracks no more\nhint: raise --max-tracked of \
         closewait run, or the memory limit that lowers it\n"
    ));
    // If every line is an object, the caller prints them.
    let objects = shown(&view, &ListRequest { form: Form::Json, ..ListRequest::default() });
    assert_eq!(objects.lines().count(), world.sockets.len());
    assert!(missing(view.untracked, view.unseen).all(|words| text.contains(&words)));
    assert_eq!(missing(0, None).count(), 0);
    let by = ListRequest { by: Some(GroupBy::Process), ..ListRequest::default() };
    assert!(shown(&view, &by).contains("1234 more sockets"));
    // They are shown with a filter, too: untracked sockets may match it.
    let filter = Filter { pids: vec![5], ..Filter::default() };
    assert!(shown(&view, &ListRequest { filter, ..ListRequest::default() }).contains("1234 more sockets"));
}

#[test]
fn groups_have_their_counts_shares_and_descriptors() {
    let expected = r"COUNT  OLDEST  MEDIAN  VERDICT             OWNER                      FDS
    1  12m     12m     pool                \u{1b}(2J\u{202e}x[9]
    1  1m30s   1m30s   never_accepted 50%  nginx[812]                 812 of 1024, 1 gone
    1  1m30s   1m30s   hung                java[77]
    1  1m30s   1m30s   hung                java[78]
    1  1m30s   1m30s   hung                shop-api-worker1[1234567]

1 socket waits to be accepted by nginx[812] on *:8080 (backlog 65 of 64), oldest 1m30s
1 socket of shop-api-worker1[1234567] waits for upstream [2001:db8:ffff:5678:9abc:def0:1234:5678]:5432, oldest 1m30s
1 socket of \u{1b}(2J\u{202e}x[9], pool (medium): this is why
  next: do this
    this --now
1 connection has ended but its descriptor is still open, in nginx[812]
past conntrack's timeout of 1m: a FIN may no longer reach the peer of 1 socket
1 socket of nginx[812], never_accepted (fact): this is why
  next: do this
    this --now
and 2 more causes with 2 sockets
";
    assert_eq!(
        body(&TableFixture::new().shown(&ListRequest { by: Some(GroupBy::Process), ..ListRequest::default() })),
        expected
    );
}

#[test]
fn listeners_peers_and_cgroups_are_groups_too() {
    let world = TableFixture::new();
    let by = |by| world.shown(&ListRequest { by: Some(by), ..ListRequest::default() });
    let all = [GroupBy::Listener, GroupBy::Peer, GroupBy::Cgroup].map(|kind| table(&by(kind)).to_owned()).join("\n");
    let expected = r"COUNT  OLDEST  MEDIAN  VERDICT         LISTENER       OWNERS                         FDS
    1  12m     12m     pool            no listener    \u{1b}(2J\u{202e}x[9]
    1  1m30s   1m30s   hung 50%        10.0.0.5:8080  java[77], java[78] and 2 more  1 gone
    1  1m30s   1m30s   never_accepted  *:8080         nginx[812]                     812 of 1024
COUNT  OLDEST  MEDIAN  VERDICT   PEER                                           OWNERS                         FDS
    2  1m30s   1m30s   hung 33%  10.0.0.9                                       java[77], java[78] and 2 more  1 gone
    1  12m     12m     pool      [2001:db8:ffff:5678:9abc:def0:1234:5678]:5432  \u{1b}(2J\u{202e}x[9]
COUNT  OLDEST  MEDIAN  VERDICT   CGROUP                  OWNERS                             FDS
    2  12m     1m30s   pool 33%  ?                       \u{1b}(2J\u{202e}x[9], nginx[812]  1 gone
    1  1m30s   1m30s   hung      shop/shop-api-7d9f/api  java[77], java[78] and 1 more";
    assert_eq!(all, expected);
}

#[test]
fn an_object_has_known_members_and_null_for_the_rest() {
    let mut world = TableFixture::new();
    world.sockets[0].opener = Some(Box::new(Opener { task: owner("curl", 5, 0).task, at: ago(30) }));
    world.sockets[0].acked_bytes = Some(17);
    let objects = world.objects(None);
    let [server, client, waits, over] = &objects[..] else { panic!("{objects:?}") };
    let socket = &server["socket"];
    let id = &world.workload.container.as_ref().unwrap().id;
    assert_eq!(socket["container"], json!(id));
    let pod = json!({"uid": "0b2c", "name": "shop-api-7d9f", "namespace": "shop", "container": "api"});
    assert_eq!((&socket["pod"], &socket["unit"]), (&pod, &Value::Null));
    assert_eq!(socket["timer"], json!({"kind": "keepalive", "expires_seconds": 72.0, "retries": 0}));
    assert_eq!(socket["opener"], json!({"pid": 5, "comm": "curl", "seconds_ago": 30.0}));
    assert_eq!((&socket["acked_bytes"], &socket["send_queue_bytes"]), (&json!(17), &json!(0)));
    assert_eq!((&socket["read_state"], &socket["replied"]), (&json!("probe"), &json!(false)));
    assert_eq!(server["waits_for"], json!({"address": "2001:db8:ffff:5678:9abc:def0:1234:5678", "port": 5432}));
    assert_eq!((&server["conntrack_timeout_seconds"], &server["fd_open"]), (&json!(60.0), &json!(true)));
    assert_eq!((&server["left"], &server["listener"]), (&Value::Null, &Value::Null));
    assert_eq!((&client["dwell_seconds"], &client["dwell_at_most_seconds"]), (&json!(720.0), &json!(10_800.0)));
    let owners = json!([{"pid": 812, "fd": 6, "comm": "nginx"}]);
    let listener = json!({"address": "0.0.0.0", "port": 8080, "backlog": 65, "backlog_max": 64, "owners": owners});
    assert_eq!((&waits["listener"], &waits["fd_open"]), (&listener, &json!(false)));
    assert_eq!(over["left"], json!({"how": "reset", "seconds_ago": 192.0, "closer": null}));
    assert_eq!(over["fd_open"], json!(true));
}

#[test]
fn an_object_of_a_group_has_its_key() {
    let world = TableFixture::new();
    let by = |by| world.objects(Some(by));
    let processes = by(GroupBy::Process);
    let nginx = processes.iter().find(|object| object["process"]["pid"] == 812).unwrap();
    let expected = json!({
        "schema_version": 1, "time": nginx["time"], "by": "process", "process": {"pid": 812, "comm": "nginx"},
        "count": 1, "oldest_seconds": 90.0, "median_seconds": 90.0, "verdicts": {"never_accepted": 1, "unknown": 1},
        "owners": [{"pid": 812, "comm": "nginx"}], "fds_open": 812, "fds_limit": 1024, "zombies": 1,
    });
    assert_eq!(nginx, &expected);
    let any = |kind, name: &str, key: Value| by(kind).iter().any(|object| object[name] == key);
    assert!(any(GroupBy::Listener, "listener", json!({"address": "0.0.0.0", "port": 8080})));
    assert!(any(GroupBy::Listener, "listener", Value::Null));
    assert!(any(GroupBy::Peer, "peer", json!({"address": "10.0.0.9", "port": null})));
    assert_eq!(by(GroupBy::Cgroup)[0]["cgroup"], Value::Null);
}
