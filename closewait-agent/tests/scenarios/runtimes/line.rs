//! The line at which threads wait, as closewait shows it.

use serde_json::Value;

/// Line at which threads wait, and for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShownLine {
    /// `a lock`.
    pub(super) waits_for: String,
    /// `main.reserve (orders.go:31)`.
    pub(super) place: String,
}

impl ShownLine {
    /// Returns the line in a text: that of `3 threads wait for a lock in reserve (orders.py:18)`.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let starts = text.match_indices(" wait for ").chain(text.match_indices(" waits for "));
        starts.map(|(at, verb)| &text[at + verb.len()..]).find_map(|rest| {
            let (waits_for, rest) = rest.split_once(" in ")?;
            let (function, rest) = rest.split_once(" (")?;
            let (file, _) = rest.split_once(')')?;
            let is_line = !function.contains(' ') && !waits_for.contains(['(', ';', ',', '.']);
            is_line.then(|| Self { waits_for: waits_for.to_owned(), place: format!("{function} ({file})") })
        })
    }

    /// Returns the line of most threads in the output of `closewait stacks`: of those that wait in the application, for something of
    /// its own rather than for another thread or a time. The agent chooses in the same way.
    pub(super) fn of_page(page: &Value) -> Option<Self> {
        let groups = page["groups"].as_array()?;
        let weight = |group: &Value| match group["waits_for"].as_str()? {
            "events" | "a client" => None,
            "another thread" | "a period of time" => Some((0, group["count"].as_u64()?)),
            _ => Some((1, group["count"].as_u64()?)),
        };
        let is_candidate = |group: &&Value| group["idle"] == false && group["place"].is_u64();
        let candidates = groups.iter().rev().filter(is_candidate);
        let (_, group) =
            candidates.filter_map(|group| Some((weight(group)?, group))).max_by_key(|(weight, _)| *weight)?;
        let frame = &group["frames"][usize::try_from(group["place"].as_u64()?).ok()?];
        let function = frame["function"].as_str()?;
        let name = |path: &Value| path.as_str().map(|path| path.rsplit('/').next().unwrap_or(path).to_owned());
        let file = name(&frame["file"]).or_else(|| name(&frame["object"]))?;
        let line = frame["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
        Some(Self { waits_for: group["waits_for"].as_str()?.to_owned(), place: format!("{function} ({file}{line})") })
    }
}

/// Returns the number of threads that wait for work, clients or events, and that of all threads.
pub(super) fn idle_of_page(page: &Value) -> (u64, u64) {
    let groups = page["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_idle =
        |group: &&Value| group["idle"] == true || group["waits_for"] == "a client" || group["waits_for"] == "events";
    let count = |group: &Value| group["count"].as_u64().unwrap_or_default();
    (groups.iter().filter(is_idle).map(count).sum(), groups.iter().map(count).sum())
}

#[test]
fn a_line_is_found_in_the_text_of_a_verdict() {
    let of = |text| ShownLine::of_text(text).map(|line| (line.waits_for, line.place));
    let line = |waits_for: &str, place: &str| Some((waits_for.to_owned(), place.to_owned()));
    let verdict = "orders[7] has served no other connection; 8 of 9 threads wait without a timeout. orders[7]: 1 thread waits for a \
                   lock in main.(*shop).reserve (orders.go:31).";
    assert_eq!(of(verdict), line("a lock", "main.(*shop).reserve (orders.go:31)"));
    assert_eq!(of("8 threads wait for a lock in reserve (c-orders)."), line("a lock", "reserve (c-orders)"));
    assert_eq!(of("its threads wait for new work only, and none works on these"), None);
}
