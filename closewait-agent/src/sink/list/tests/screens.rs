//! Whole pages with names and addresses of any length, at several sizes.
//! `SNAPSHOTS=overwrite cargo test -p closewait-agent --lib list` writes them again.

use snapbox::{assert_data_eq, file};

use super::*;

const SIZES: [(u16, usize); 3] = [(80, 24), (120, 40), (200, 50)];

/// Returns the page at each size, and checks that its lines fit, except commands.
fn pages(by: Option<GroupBy>) -> String {
    let page = |(width, height): (u16, usize)| {
        let text = TableFixture::new().shown(&ListRequest { by, height: Some(height), ..at_width(width) });
        for line in text.lines().filter(|line| !line.starts_with("    ")) {
            assert!(crate::sink::table::width(line) <= width.into(), "{width} columns: {line}");
        }
        format!("== {width}x{height}\n{text}\n")
    };
    SIZES.map(page).concat()
}

#[test]
fn the_page_of_sockets() {
    assert_data_eq!(pages(None), file!["screens/sockets.txt"].raw());
}

#[test]
fn the_pages_of_groups() {
    let all = [GroupBy::Process, GroupBy::Listener, GroupBy::Peer, GroupBy::Cgroup];
    let all = all.map(|by| format!("-- by {}\n{}", by.name(), pages(Some(by))));
    assert_data_eq!(all.concat(), file!["screens/groups.txt"].raw());
}
