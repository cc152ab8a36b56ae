//! Output of `closewait kill`: the plan and its outcome.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    mem,
};

use serde::Serialize;

use super::{
    answer::Listing,
    json::write_line,
    list::{Style, rows::SocketTable},
    schema::{self, ListedObject, OwnerObject},
    status::wrap,
    table::{Align, Column},
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    kill::{Outcome, Refusal, Selected, Target},
    model::{Owner, Socket},
    time::BootTime,
};

/// Consequences of a destruction.
const CONSEQUENCES: [&str; 3] = [
    "  the peer gets a RST, which ends its half of the connection if that is still there",
    "  the program gets ECONNABORTED, at its next write or by SO_ERROR; poll() wakes it up",
    "  the descriptor is not freed: it counts as open until the program closes it",
];

/// Maximum number of sockets per call.
pub const MAX_SELECTED: usize = 100_000;

/// Plan for a socket.
pub type Planned = Result<Target, Refusal>;

/// Outcome for a socket to destroy.
#[derive(Clone, Debug)]
pub struct Done {
    /// Outcome of the destruction.
    pub outcome: Outcome,
    /// Descriptors afterwards; `None` if the socket was not destroyed, or the search was not possible.
    pub open: Option<Vec<Owner>>,
}

/// Writes the plan: a line for each selected socket, then the consequences, and the reasons for refused sockets.
pub fn plan(now: BootTime, selected: &[Selected], plans: &[Planned], style: Style, to: &mut Vec<u8>) {
    if selected.is_empty() {
        line(to, "no socket matches");
        return;
    }
    let mut column = Column::new("PLAN", Align::Left, selected.len());
    for plan in plans {
        column.text().push_str(word(plan));
        column.end_in(if style.color && plan.is_ok() { Some("1;31") } else { None });
    }
    let mut table = SocketTable::new(style);
    selected.iter().for_each(|selected| table.add(&selected.row(), now));
    // Writing to a Vec cannot fail.
    let _infallible: io::Result<()> = table.write(Some(column), to);
    let count = plans.iter().filter(|plan| plan.is_ok()).count();
    let which = match_or_matches(selected.len());
    let mut lines = vec![String::new(), format!("{} to destroy, of {} that {which}", sockets(count), selected.len())];
    if count > 0 {
        lines.extend(CONSEQUENCES.map(str::to_owned));
    }
    lines.extend(refusals(selected, plans));
    let width = style.width.map_or(usize::MAX, usize::from);
    lines.iter().flat_map(|text| wrap(text, width, "  ")).for_each(|text| line(to, &text));
}

/// Returns the number of refused sockets per type of reason, with the first of each type.
fn refusals(selected: &[Selected], plans: &[Planned]) -> impl Iterator<Item = String> {
    let mut kinds: Vec<(&Refusal, &Socket, usize)> = Vec::new();
    for (selected, plan) in selected.iter().zip(plans) {
        let Err(refusal) = plan else { continue };
        match kinds.iter_mut().find(|(first, ..)| mem::discriminant(*first) == mem::discriminant(refusal)) {
            Some((.., count)) => *count += 1,
            None => kinds.push((refusal, &selected.socket, 1)),
        }
    }
    kinds.into_iter().map(|(refusal, socket, count)| {
        let which = if count == 1 { ends(socket) } else { format!("the first is {}", ends(socket)) };
        format!("{} refused ({which}): {refusal}", sockets(count))
    })
}

/// Writes the outcome for the sockets to destroy. `blind` is the reason why descriptors may be missing. `error_cause`
/// is the cause in the command's error, which is not repeated here.
pub fn outcome(done: &[(&Target, Done)], blind: Option<&str>, error_cause: Option<&str>, to: &mut Vec<u8>) {
    let destroyed = done.iter().filter(|(_, done)| done.outcome == Outcome::Destroyed).count();
    line(to, &format!("\n{destroyed} of {} destroyed", sockets(done.len())));
    // Each reason, with the first socket and the number of sockets.
    let mut reasons: Vec<(String, &Target, usize)> = Vec::new();
    for (target, done) in done {
        let why = match &done.outcome {
            Outcome::Destroyed => continue,
            Outcome::GoneBefore => "it had left CLOSE_WAIT before it was touched".to_owned(),
            Outcome::Replaced => "another socket had its place, and was left alone".to_owned(),
            Outcome::Refused(refusal) => refusal.to_string(),
            Outcome::Failed(failure) => failure.to_string(),
        };
        match reasons.iter_mut().find(|(first, ..)| *first == why) {
            Some((.., count)) => *count += 1,
            None => reasons.push((why, target, 1)),
        }
    }
    for (why, target, count) in reasons {
        let first = format!("{} <- {}", target.local, target.remote);
        let which = if count == 1 { first } else { format!("{} (the first is {first})", sockets(count)) };
        let why =
            if error_cause.is_some_and(|cause| why.ends_with(cause)) { String::new() } else { format!(": {why}") };
        line(to, &format!("not destroyed: {which}{why}"));
    }
    if destroyed > 0 {
        descriptors(done, blind, to);
    }
}

/// Writes which descriptors are still open, by process.
fn descriptors(done: &[(&Target, Done)], blind: Option<&str>, to: &mut Vec<u8>) {
    let mut open: BTreeMap<(u32, Cow<'_, str>), Vec<u32>> = BTreeMap::new();
    for owner in done.iter().filter_map(|(_, done)| done.open.as_deref()).flatten() {
        open.entry((owner.task.pid, owner.task.comm.shown())).or_default().push(owner.fd);
    }
    let count: usize = open.values().map(Vec::len).sum();
    match count {
        // None is open anywhere, unless some processes could not be read.
        0 if blind.is_some() => {}
        0 => line(to, "no descriptor of them is open"),
        1 => line(to, "1 descriptor is still open; only its program can close it:"),
        _ => line(to, &format!("{count} descriptors are still open; only their program can close them:")),
    }
    for ((pid, comm), mut fds) in open {
        fds.sort_unstable();
        let mut text = format!("  {comm}[{pid}] fd ");
        for (at, fd) in fds.iter().enumerate() {
            // Writing to a String cannot fail.
            let _infallible: std::fmt::Result = write!(text, "{}{fd}", if at > 0 { ", " } else { "" });
        }
        line(to, &text);
    }
    if let Some(blind) = blind {
        line(to, &format!("there may be more descriptors: {blind}"));
    }
}

/// Object of `list` with additional members.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct PlannedObject<'a> {
    #[serde(flatten)]
    listed: ListedObject<'a>,
    /// Plan for the socket.
    #[cfg_attr(test, schemars(with = "PlanName"))]
    plan: &'static str,
    /// Reason why `kill` refuses the socket; `null` if `plan` is `kill`.
    reason: Option<String>,
    #[serde(flatten)]
    result: Option<ResultMembers<'a>>,
}

/// Outcome for a socket.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ResultMembers<'a> {
    /// Outcome, only with `--yes`; `null` if `plan` is `refuse`.
    #[cfg_attr(test, schemars(with = "Option<OutcomeName>"))]
    result: Option<&'static str>,
    /// Reason why the socket was refused or not destroyed, only with `--yes`; otherwise `null`.
    result_reason: Option<String>,
    /// Every open descriptor of a destroyed socket, only with `--yes`; `null` if it was not destroyed, or if none was
    /// found and some processes could not be read.
    fds_open: Option<Vec<OwnerObject<'a>>>,
}

/// Writes the object of `list` for each socket with its plan. `done` adds the outcome for the sockets to destroy, in
/// their order.
///
/// # Errors
///
/// If a value cannot be written as JSON.
pub fn json(
    listing: &Listing<'_>,
    plans: &[Planned],
    done: Option<&[(&Target, Done)]>,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    let mut outcomes = done.map(<[_]>::iter);
    let now = listing.header.at;
    let time = schema::time(listing.header.anchor.wall(now));
    for (row, plan) in listing.rows().zip(plans) {
        let result = outcomes.as_mut().map(|outcomes| {
            let done = plan.as_ref().ok().and_then(|_| outcomes.next()).map(|(_, done)| done);
            ResultMembers {
                result: done.map(|done| done.outcome.name()),
                result_reason: done.and_then(|done| done.outcome.reason()),
                fds_open: done.and_then(|done| Some(done.open.as_ref()?.iter().map(Into::into).collect())),
            }
        });
        let listed = ListedObject::new(&row, now, &time);
        let reason = plan.as_ref().err().map(ToString::to_string);
        write_line(&PlannedObject { listed, plan: word(plan), reason, result }, to)?;
    }
    Ok(())
}

fn word(plan: &Planned) -> &'static str {
    if plan.is_ok() { "kill" } else { "refuse" }
}

fn ends(socket: &Socket) -> String {
    format!("{} <- {}", socket.local, socket.remote)
}

fn sockets(count: usize) -> String {
    if count == 1 { "1 socket".to_owned() } else { format!("{count} sockets") }
}

fn match_or_matches(count: usize) -> &'static str {
    if count == 1 { "matches" } else { "match" }
}

fn line(to: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail.
    let _infallible: io::Result<()> = writeln!(to, "{text}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use closewait_engine::{
        kill::Failure,
        model::{Certainty, Class, Dwell},
        testing::{owner, row, socket_on_port, verdict},
    };

    const NOW: BootTime = BootTime(3_600_000_000_000);
    const PLAIN: Style = Style { width: None, wide: false, color: false };

    fn selected(port: u16) -> Selected {
        Selected {
            at: NOW,
            socket: socket_on_port(port),
            dwell: Some(Dwell::Exact(Duration::from_secs(90))),
            gone: None,
            owners: Some(vec![owner("app", 42, 5)]),
            verdict: verdict(Class::Leak, Certainty::High),
        }
    }

    fn target(selected: &Selected) -> Target {
        let Socket { local, remote, .. } = selected.socket;
        Target { netns: 1, local, remote, cookie: 7, inode: 99, interface: 0, entered: None, peer_reads: false }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut to = Vec::new();
        write(&mut to);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_plan_says_of_each_socket_what_happens_and_why_not() {
        let selected = [selected(80), selected(81), selected(82)];
        let plans = [
            Ok(target(&selected[0])),
            Err(Refusal::InUse(Duration::from_secs(3))),
            Err(Refusal::InUse(Duration::from_secs(4))),
        ];
        let shown = text(|to| plan(NOW, &selected, &plans, PLAIN, to));
        let rows: Vec<&str> = shown.lines().take(4).collect();
        assert!(rows[0].ends_with("VERDICT    PLAN") && rows[0].starts_with("AGE"), "{shown}");
        assert!(rows[1].contains("app[42] fd 5") && rows[1].ends_with("leak high  kill"), "{shown}");
        assert!(rows[2].ends_with("refuse") && rows[3].ends_with("refuse"), "{shown}");
        for words in ["1 socket to destroy, of 3 that match", "RST", "ECONNABORTED", "not freed"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let refused = "2 sockets refused (the first is 10.0.0.5:81 <- 10.0.0.9:51234): it sent data 3s ago";
        assert!(shown.contains(refused), "{shown}");
        assert_eq!(text(|to| plan(NOW, &[], &[], PLAIN, to)), "no socket matches\n");
    }

    #[test]
    fn a_plan_that_changes_nothing_lists_no_consequences() {
        let selected = [selected(80)];
        let shown = text(|to| plan(NOW, &selected, &[Err(Refusal::NeverAccepted)], PLAIN, to));
        assert!(shown.contains("0 sockets to destroy, of 1 that matches") && !shown.contains("RST"), "{shown}");
    }

    fn done(outcome: Outcome, fds: &[u32]) -> Done {
        let open = (outcome == Outcome::Destroyed).then(|| fds.iter().map(|fd| owner("app", 42, *fd)).collect());
        Done { outcome, open }
    }

    #[test]
    fn the_outcome_names_what_was_not_destroyed_and_what_stays_open() {
        let selected = [selected(80), selected(81), selected(82), selected(83)];
        let targets: Vec<Target> = selected.iter().map(target).collect();
        let outcomes = [
            done(Outcome::Destroyed, &[9, 5]),
            done(Outcome::Destroyed, &[7]),
            done(Outcome::Replaced, &[]),
            done(Outcome::Failed(Failure::StillThere), &[]),
        ];
        let done: Vec<_> = targets.iter().zip(outcomes).collect();
        let shown = text(|to| outcome(&done, None, None, to));
        assert!(shown.contains("2 of 4 sockets destroyed"), "{shown}");
        assert!(
            shown.contains("not destroyed: 10.0.0.5:82 <- 10.0.0.9:51234: another socket had its place"),
            "{shown}"
        );
        assert!(shown.contains("3 descriptors are still open") && shown.contains("  app[42] fd 5, 7, 9\n"), "{shown}");
    }

    #[test]
    fn a_reason_is_written_once_for_all_sockets_that_have_it() {
        let selected = [selected(80), selected(81), selected(82)];
        let targets: Vec<Target> = selected.iter().map(target).collect();
        let denied = || Outcome::Failed(Failure::Denied("no right".to_owned()));
        let outcomes = [done(denied(), &[]), done(Outcome::Replaced, &[]), done(denied(), &[])];
        let done: Vec<_> = targets.iter().zip(outcomes).collect();
        let shown = text(|to| outcome(&done, None, None, to));
        let both = "not destroyed: 2 sockets (the first is 10.0.0.5:80 <- 10.0.0.9:51234)";
        assert!(shown.contains(&format!("{both}: no right\n")) && shown.matches("no right").count() == 1, "{shown}");
        let shown = text(|to| outcome(&done, None, Some("no right"), to));
        assert!(shown.contains(&format!("{both}\n")) && shown.contains("another socket had its place"), "{shown}");
    }

    #[test]
    fn unknown_descriptors_are_not_called_closed() {
        let selected = [selected(80)];
        let target = target(&selected[0]);
        let done = [(&target, Done { outcome: Outcome::Destroyed, open: None })];
        let shown = text(|to| outcome(&done, Some("no right"), None, to));
        assert!(shown.contains("there may be more descriptors: no right") && !shown.contains("0 desc"), "{shown}");
    }

    #[test]
    fn json_is_that_of_the_list_with_the_plan_and_the_result_behind_it() {
        let sockets = [80, 81].map(socket_on_port);
        let rows = || sockets.iter().map(row);
        let listing = Listing::of_rows(rows(), NOW);
        let selected: Vec<Selected> = rows().map(|row| Selected::new(&row, NOW)).collect();
        let plans = [Err(Refusal::NeverAccepted), Ok(target(&selected[1]))];
        let parse = |text: &str| -> Vec<serde_json::Value> {
            let objects: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            objects.iter().for_each(tests_support::schema::check_killed);
            objects
        };
        let shown = text(|to| json(&listing, &plans, None, to).unwrap());
        let lines = parse(&shown);
        assert_eq!((&lines[0]["socket"]["local"]["port"], &lines[0]["plan"]), (&80.into(), &"refuse".into()));
        assert!(lines[0]["reason"].as_str().unwrap().contains("accepted") && lines[0].get("result").is_none());
        assert_eq!((&lines[1]["plan"], lines[1]["reason"].is_null()), (&"kill".into(), true));
        let listed = text(|to| crate::sink::json::list(&listing, crate::sink::list::RowOrder::default(), to).unwrap());
        for (shown, listed) in shown.lines().zip(listed.lines()) {
            assert!(shown.starts_with(listed.strip_suffix('}').unwrap()), "{shown} {listed}");
        }

        let target = target(&selected[1]);
        let done = [(&target, done(Outcome::Destroyed, &[5]))];
        let lines = parse(&text(|to| json(&listing, &plans, Some(&done), to).unwrap()));
        assert!(lines[0]["result"].is_null() && lines[0]["fds_open"].is_null());
        assert_eq!((&lines[1]["result"], &lines[1]["fds_open"][0]["fd"]), (&"destroyed".into(), &5.into()));
    }
}
