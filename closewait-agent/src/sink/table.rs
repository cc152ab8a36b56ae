//! The table of `closewait list`.

use unicode_width::UnicodeWidthStr as _;

use super::text::dwell;
use crate::engine::{listing::Listed, model::Protocol, time::Boot};

const HEADER: [&str; 6] = ["AGE", "RECV-Q", "LOCAL", "REMOTE", "OWNER", "NETNS"];

/// Writes `listed` with ages at `now`. `knows_owners` is whether the holders were looked for.
pub fn write(now: Boot, listed: &[Listed], knows_owners: bool, to: &mut Vec<u8>) {
    if listed.is_empty() {
        to.extend_from_slice(b"no socket is in CLOSE_WAIT\n");
        return;
    }
    let rows: Vec<[String; 6]> = listed.iter().map(|one| row(now, one, knows_owners)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].width());
        cells.chain([HEADER[column].width()]).max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    line(&HEADER.map(str::to_owned), widths, to);
    for row in &rows {
        line(row, widths, to);
    }
}

fn row(now: Boot, one: &Listed, knows_owners: bool) -> [String; 6] {
    let socket = &one.socket;
    let unknown = || "?".to_owned();
    let mptcp = if socket.protocol == Protocol::Mptcp { " (mptcp)" } else { "" };
    [
        dwell(one.dwell(now)),
        socket.unread_bytes.map_or_else(unknown, |unread| unread.to_string()),
        socket.local.to_string(),
        format!("{}{mptcp}", socket.remote),
        owner(one, knows_owners),
        socket.netns.map_or_else(unknown, |netns| netns.to_string()),
    ]
}

fn owner(one: &Listed, knows_owners: bool) -> String {
    match (one.holders.as_slice(), one.socket.accepted) {
        (_, Some(false)) => "never accepted".to_owned(),
        ([], _) if !knows_owners => "?".to_owned(),
        ([], _) => "no process".to_owned(),
        ([first, others @ ..], _) => {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            format!("{}[{}] fd {}{more}", first.task.comm, first.task.pid, first.fd)
        }
    }
}

fn line(cells: &[String; 6], widths: [usize; 6], to: &mut Vec<u8>) {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(cell);
        text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
    }
    to.extend_from_slice(text.trim_end().as_bytes());
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        listing::Listing,
        model::{Holder, Observation, Since, SocketKey, Task},
        testing::socket,
        text::Comm,
    };

    fn table(names: &[&[u8; 16]], accepted: bool, knows_owners: bool) -> String {
        let mut listing = Listing::default();
        let (key, at, since) = (SocketKey(1), Boot(0), Since::Exact(Boot(0)));
        let mut socket = socket();
        socket.accepted = Some(accepted);
        listing.handle(Observation::Present { key, at, since, socket: socket.clone() });
        for (fd, name) in (3..).zip(names) {
            let holder = Holder { task: Task { pid: 10, comm: Comm::from_kernel(name) }, fd };
            listing.handle(Observation::Held { key, at, since, socket: socket.clone(), holder });
        }
        let mut to = Vec::new();
        write(Boot(90_000_000_000), &listing.oldest_first(), knows_owners, &mut to);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn columns_stand_under_their_names() {
        let expected = "\
AGE    RECV-Q  LOCAL          REMOTE          OWNER                   NETNS
1m30s  1       10.0.0.5:8080  10.0.0.9:51234  java[10] fd 3 and 1 more  4026531840
";
        let text = table(&[b"java\0\0\0\0\0\0\0\0\0\0\0\0", b"java\0\0\0\0\0\0\0\0\0\0\0\0"], true, true);
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&text), squeeze(expected));
        let columns: Vec<_> = text.lines().map(|line| line.find("NETNS").or(line.find("4026")).unwrap()).collect();
        assert_eq!(columns[0], columns[1]);
    }

    #[test]
    fn no_owner_is_told_from_owners_that_nobody_looked_for() {
        assert!(table(&[], true, true).contains("no process"));
        assert!(table(&[], true, false).contains(" ? "));
        assert!(table(&[], false, true).contains("never accepted"));
    }

    #[test]
    fn a_hostile_name_stays_in_its_cell() {
        let text = table(&[b"\x1b[2J\n\rx\0\0\0\0\0\0\0\0\0"], true, true);
        assert_eq!(text.lines().count(), 2);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn an_empty_list_says_so() {
        let mut to = Vec::new();
        write(Boot(0), &[], true, &mut to);
        assert_eq!(to, b"no socket is in CLOSE_WAIT\n");
    }
}
