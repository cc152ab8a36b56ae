//! The table of `closewait list`.

use unicode_width::UnicodeWidthStr as _;

use super::text::dwell;
use crate::engine::{
    model::Protocol,
    view::{Row, View},
};

const HEADER: [&str; 6] = ["AGE", "RECV-Q", "LOCAL", "REMOTE", "OWNER", "NETNS"];

/// Writes a view.
pub fn write(view: &View<'_>, to: &mut Vec<u8>) {
    if view.rows.is_empty() {
        to.extend_from_slice(b"no socket is in CLOSE_WAIT\n");
        return;
    }
    let rows: Vec<[String; 6]> = view.rows.iter().map(row).collect();
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

fn row(one: &Row<'_>) -> [String; 6] {
    let socket = one.socket;
    let unknown = || "?".to_owned();
    let mptcp = if socket.protocol == Protocol::Mptcp { " (mptcp)" } else { "" };
    [
        one.dwell.map_or_else(unknown, dwell),
        socket.unread_bytes.map_or_else(unknown, |unread| unread.to_string()),
        socket.local.to_string(),
        format!("{}{mptcp}", socket.remote),
        owner(one),
        socket.netns.map_or_else(unknown, |netns| netns.to_string()),
    ]
}

fn owner(one: &Row<'_>) -> String {
    match (one.holders, one.socket.accepted) {
        (_, Some(false)) => "never accepted".to_owned(),
        (None, _) => "?".to_owned(),
        (Some([]), _) => "no process".to_owned(),
        (Some([first, others @ ..]), _) => {
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
