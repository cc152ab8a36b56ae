//! Number of groups by their urgency, in words: the first line of a page.

use closewait_engine::{snapshot::urgency::UrgencyCounts, text::count};

/// Formats the number of connections that have ended while a program has their descriptor, behind other text; empty for none.
pub(super) fn ended(number: u64) -> String {
    if number == 0 { String::new() } else { format!("; {} ended with an open descriptor", count(number, "connection")) }
}

/// Formats the number of groups of each urgency: `3 grow, 1 needs attention, 1 is normal`.
pub(super) fn urgencies(counts: UrgencyCounts) -> String {
    let UrgencyCounts { full, growing, stuck, undecided, normal, others } = counts;
    let verb = |count: u64, one: &str, many: &str| {
        (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
    };
    let parts = [
        verb(full, "has reached a limit", "have reached a limit"),
        verb(growing, "grows", "grow"),
        verb(stuck, "needs attention", "need attention"),
        verb(undecided, "is undecided", "are undecided"),
        verb(normal, "is normal", "are normal"),
        verb(others, "is less urgent", "are less urgent"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}
