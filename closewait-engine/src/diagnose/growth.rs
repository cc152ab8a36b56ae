//! What the growth of a group says of the cause.

use std::time::Duration;

use super::{About, text};
use crate::{
    model::{Certainty, Class, PileupGroup, Task, Verdict},
    process::Process,
    text::rate,
};

/// The name and the words of this, which is no rule: it is asked of a group that grows when the rules say nothing of its oldest
/// socket.
pub(super) const ABOUT: About = About {
    name: "growth",
    when: "a group piles up, and no rule says of its oldest socket why",
    class: &[Class::Unknown],
    certainty: &[(
        Certainty::Low,
        "growth alone does not tell a slow program from a hung one or from one that forgets",
    )],
    says: "sockets pile up, and how many of them stay",
    next: "see where the owner's threads are, and what happened at the onset",
    not: &["a burst, a pool that is filled, slow handlers: none of them is an incident"],
    seen: &["Netflix, Java 21 virtual threads (2024)"],
};

/// What is known of a group that grows.
#[derive(Clone, Copy, Debug)]
pub struct Growing<'a> {
    /// Port or remote endpoint whose number of sockets grows.
    pub group: &'a PileupGroup,
    /// How many enter.
    pub entered_per_second: f64,
    /// Of those that entered since the onset, how many in a thousand are still there.
    pub stuck_permille: Option<u64>,
    /// How long ago the onset was.
    pub since: Duration,
    /// Who holds most of them.
    pub owner: Option<&'a Task>,
    /// What is known of that.
    pub process: Option<&'a Process>,
}

/// The verdict on it.
pub fn growth(growing: &Growing<'_>) -> Verdict {
    let Growing { group, entered_per_second, stuck_permille, since, owner, process } = *growing;
    let (since, rate) = (text::duration(since), rate(entered_per_second));
    let share = stuck_permille.map_or(String::new(), |share| format!(", and {} % of them stay", share / 10));
    let doing = process.and_then(text::doing_of).unwrap_or_default();
    let next = owner.map(|task| text::dump_of(task, process));
    let next = next.unwrap_or_else(|| "find the process that holds them".to_owned());
    Verdict {
        class: Class::Unknown,
        rule: ABOUT.name,
        certainty: Certainty::Low,
        text: format!("since {since} ago sockets {group} enter CLOSE_WAIT at {rate}{share}.{doing}"),
        next: format!("{next}; see what happened {since} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{process, task},
        model::Role,
    };

    const NOWHERE: PileupGroup = PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None };
    const PORT: PileupGroup = PileupGroup { role: Some(Role::Server), local_port: Some(8080), ..NOWHERE };

    #[test]
    fn it_says_what_the_owner_does_and_how_to_see_more() {
        let (task, process) = (task(7, "shop"), process(7, "shop", "/usr/bin/shop"));
        let growing = Growing {
            group: &PORT,
            entered_per_second: 20.0,
            stuck_permille: Some(1000),
            since: Duration::from_secs(12),
            owner: Some(&task),
            process: Some(&process),
        };
        let verdict = growth(&growing);
        assert!(
            verdict
                .text
                .starts_with("since 12s ago sockets on port 8080 enter CLOSE_WAIT at 20/s, and 100 % of them stay."),
            "{}",
            verdict.text
        );
        assert!(verdict.next.starts_with("see where the threads of shop[7] are: `"), "{}", verdict.next);
        assert!(verdict.next.ends_with("; see what happened 12s ago"), "{}", verdict.next);
    }
}
