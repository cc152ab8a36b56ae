//! Verdict on a growing group if no rule explains it.

use std::time::Duration;

use super::{About, text};
use crate::{
    model::{Certainty, Class, PileupGroup, Role, Task, Verdict},
    process::Process,
    text::rate,
    time::BootTime,
};

/// Description of this verdict. It is not a rule: the engine gives it for a growing group if no rule explains its oldest socket.
pub(super) const ABOUT: About = About {
    name: "growth",
    when: "the number of sockets of a group grows, which is an incident; no rule explains the group's oldest socket",
    class: &[Class::Unknown],
    certainty: &[(
        Certainty::Low,
        "growth alone does not distinguish a slow program, a hung one, and one that does not close its sockets",
    )],
    says: "how fast sockets enter CLOSE_WAIT, and how many of them are still there",
    next: "see where the owner's threads are, and what happened at the onset",
    not: &["a burst, a pool that fills, slow handlers: none of them is an incident"],
    seen: &["Netflix, Java 21 virtual threads (2024)"],
};

/// Facts about a growing group.
#[derive(Clone, Copy, Debug)]
pub struct Growing<'a> {
    /// Port or remote endpoint of the group.
    pub group: &'a PileupGroup,
    /// Entries per second.
    pub entered_per_second: f64,
    /// Share of the sockets that entered since the onset and are still in CLOSE_WAIT, in thousandths.
    pub stuck_permille: Option<u64>,
    /// Time since the onset.
    pub since: Duration,
    /// Owner of most of the sockets.
    pub owner: Option<&'a Task>,
    /// Facts about the owner's process.
    pub process: Option<&'a Process>,
    /// Time of the verdict.
    pub now: BootTime,
}

/// Returns the verdict on a growing group.
pub fn growth(growing: &Growing<'_>) -> Verdict {
    let Growing { group, entered_per_second, stuck_permille, since, owner, process, now } = *growing;
    let (since, rate) = (text::duration(since), rate(entered_per_second));
    // Of sockets that have just begun to stay, there may be none that is old enough to count.
    let percent = stuck_permille.map(|share| share / 10).filter(|percent| *percent > 0);
    let share = percent.map_or(String::new(), |percent| format!(", and {percent} % of them are still there"));
    let doing = process.and_then(|process| text::doing_of(process, now)).unwrap_or_default();
    let port = group.local_port.filter(|_| group.role != Some(Role::Client));
    let next = owner.map(|task| text::dump_of(task, process, port));
    let next = next.unwrap_or_else(|| "find the process that owns them".into());
    Verdict {
        class: Class::Unknown,
        rule: ABOUT.name,
        certainty: Certainty::Low,
        text: format!("for {since}, sockets {group} have entered CLOSE_WAIT at {rate}{share}.{doing}"),
        next: next.and(&format!("see what happened {since} ago")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{process, task};

    const NOWHERE: PileupGroup = PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None };
    const PORT: PileupGroup = PileupGroup { role: Some(Role::Server), local_port: Some(8080), ..NOWHERE };

    #[test]
    fn the_verdict_has_the_rate_and_a_command_for_the_owner() {
        let (task, process) = (task(7, "shop"), process(7, "shop", "/usr/bin/shop"));
        let growing = Growing {
            group: &PORT,
            entered_per_second: 20.0,
            stuck_permille: Some(1000),
            since: Duration::from_secs(12),
            now: BootTime(0),
            owner: Some(&task),
            process: Some(&process),
        };
        let verdict = growth(&growing);
        assert!(
            verdict.text.starts_with(
                "for 12s, sockets on port 8080 have entered CLOSE_WAIT at 20/s, and 100 % of them are still there."
            ),
            "{}",
            verdict.text
        );
        assert_eq!(
            verdict.next.text,
            "see where the threads of shop[7] are (as root; does not stop it); see what happened 12s ago"
        );
        assert!(verdict.next.command.is_some());
        let verdict = growth(&Growing { stuck_permille: Some(9), ..growing });
        assert!(
            verdict.text.starts_with("for 12s, sockets on port 8080 have entered CLOSE_WAIT at 20/s."),
            "{}",
            verdict.text
        );
    }
}
