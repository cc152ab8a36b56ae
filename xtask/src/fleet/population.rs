//! A made-up fleet: which host runs which program, which recording plays there, and what happens to its agent.

use std::time::SystemTime;

use crate::prelude::*;

/// Seed of everything that is random: the fleet is the same in every run, but for the time at which it ends.
const SEED: u64 = 16;

/// Program of a host, under names that replace those of the recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) unit: &'static str,
    /// The version of the program is in its path only.
    pub(super) exe: &'static str,
    pub(super) service: &'static str,
}

/// Course of an agent after its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs until now.
    Runs,
    /// Nothing comes from it any more, without a `stop`.
    Silent,
    /// It ended.
    Stopped,
    /// It started again over pinned maps, and reported the same incident.
    RestartedWithPin,
    /// It started again, and has not reported the incident.
    Restarted,
    /// This many lines of stuck sockets were lost on the way.
    LinesLost(usize),
    /// This many lines of stuck sockets were lost on the way before it started again, and wrote lines with the same numbers.
    RestartedAfterLoss(usize),
    /// It lost this many records in the kernel, and dropped some lines.
    Overwhelmed(u64),
    /// All of its lines are older than any retention.
    Forgotten,
}

/// Host of the fleet.
#[derive(Clone, Debug)]
pub(super) struct FleetHost {
    pub(super) name: String,
    /// Name of the recording that plays there.
    pub(super) recording: &'static str,
    pub(super) program: Program,
    pub(super) kernel: &'static str,
    pub(super) peer: &'static str,
    /// Start of its agent.
    pub(super) started: SystemTime,
    pub(super) fate: Fate,
    /// Whether each line comes once more, after those of all other hosts.
    pub(super) twice: bool,
    /// Whether its lines come after those of all other hosts, the last one first.
    pub(super) late: bool,
}

/// Hosts with the same program, kernel, peer, recording and fate.
struct Cohort {
    prefix: &'static str,
    hosts: usize,
    recording: &'static str,
    program: Program,
    kernel: &'static str,
    peer: &'static str,
    fate: Fate,
}

const ORDERS_NEW: Program = Program { unit: "orders.service", exe: "/opt/orders/2.4.0/bin/orders", service: "orders" };
const ORDERS_OLD: Program = Program { exe: "/opt/orders/2.3.7/bin/orders", ..ORDERS_NEW };
const BILLING: Program = Program { unit: "billing.service", exe: "/opt/billing/7/bin/billing", service: "billing" };
const FEED: Program = Program { unit: "feed.service", exe: "/opt/feed/1.0/bin/feed", service: "feed" };
const SYNC: Program = Program { unit: "sync.service", exe: "/opt/sync/3/bin/sync", service: "sync" };
const WEB: Program = Program { unit: "web.service", exe: "/opt/web/12/bin/web", service: "web" };
/// Names that a hostile program can choose, as the agent writes them: it escapes control characters and what is no UTF-8.
const HOSTILE: Program = Program {
    unit: r#"a'b"c\x5cx2d'; DROP TABLE pileup; --.service"#,
    exe: r#"/tmp/\x0a\xff'"`${PATH}`%s{a:1}[0]/* */ -- \u{202e}é"#,
    service: r#"'"';SELECT 1;--\x0a<b>&amp;"#,
};
const OLD_KERNEL: &str = "6.1.0-56-amd64";
const NEW_KERNEL: &str = "6.12.0-9-amd64";

/// The story: version 2.4.0 of orders leaks and 2.3.7 does not; billing hangs only on the new kernel; feed was restarted and
/// leaks again; clients of sync leave connections to one peer open; web is healthy everywhere.
const COHORTS: [Cohort; 18] = [
    cohort("orders-a", 36, "subscribers-lost", ORDERS_NEW, OLD_KERNEL, "10.1.0.9", Fate::Runs),
    cohort("orders-b", 60, "healthy-subscribers", ORDERS_OLD, OLD_KERNEL, "10.1.0.9", Fate::Runs),
    cohort("orders-c", 4, "subscribers-lost", ORDERS_NEW, NEW_KERNEL, "10.1.0.8", Fate::Silent),
    cohort("billing-a", 20, "worker-pool", BILLING, NEW_KERNEL, "10.1.0.8", Fate::Runs),
    cohort("billing-b", 44, "healthy-worker-pool-slow", BILLING, OLD_KERNEL, "10.1.0.8", Fate::Runs),
    cohort("billing-c", 2, "worker-pool", BILLING, NEW_KERNEL, "10.1.0.8", Fate::Stopped),
    cohort("feed", 8, "restarted", FEED, OLD_KERNEL, "10.1.0.7", Fate::Runs),
    cohort("sync-a", 10, "go-client", SYNC, OLD_KERNEL, "10.2.0.5", Fate::Runs),
    cohort("sync-b", 3, "tls-forgets", SYNC, OLD_KERNEL, "10.2.0.5", Fate::RestartedWithPin),
    cohort("sync-c", 2, "tls-forgets", SYNC, OLD_KERNEL, "10.2.0.5", Fate::Restarted),
    cohort("web-a", 40, "healthy-requests", WEB, OLD_KERNEL, "10.1.0.9", Fate::Runs),
    cohort("web-b", 20, "healthy-tls", WEB, NEW_KERNEL, "10.1.0.8", Fate::Runs),
    cohort("web-c", 4, "healthy-burst", WEB, NEW_KERNEL, "10.1.0.8", Fate::LinesLost(9)),
    cohort("web-d", 1, "healthy-streams", WEB, NEW_KERNEL, "10.1.0.8", Fate::RestartedAfterLoss(3)),
    cohort("web-e", 2, "healthy-uploads", WEB, NEW_KERNEL, "10.1.0.8", Fate::Overwhelmed(17)),
    cohort("web-f", 3, "healthy-inetd", WEB, OLD_KERNEL, "10.1.0.8", Fate::Silent),
    cohort("old", 1, "worker-pool", BILLING, OLD_KERNEL, "10.1.0.8", Fate::Forgotten),
    cohort("\";\n'\\ DROP \u{1f480} ", 1, "forgets", HOSTILE, "$(id)'\"\\", "2001:db8::1", Fate::Runs),
];

const fn cohort(
    prefix: &'static str,
    hosts: usize,
    recording: &'static str,
    program: Program,
    kernel: &'static str,
    peer: &'static str,
    fate: Fate,
) -> Cohort {
    Cohort { prefix, hosts, recording, program, kernel, peer, fate }
}

impl FleetHost {
    /// Whether its names are those that a hostile program chose.
    pub(super) fn is_hostile(&self) -> bool {
        self.program.service == HOSTILE.service
    }
}

/// Returns the fleet at a time, which is whole seconds since 1970.
pub(super) fn hosts(now: SystemTime) -> Vec<FleetHost> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut hosts = Vec::new();
    for cohort in COHORTS {
        for number in 1..=cohort.hosts {
            // Every recording is shorter than 90 seconds, and a silent agent has to be silent for more than five minutes.
            let mut before = Duration::from_millis(random.u64(15 * 60_000..40 * 60_000));
            if cohort.fate == Fate::Forgotten {
                before += Duration::from_hours(24 * 500);
            }
            hosts.push(FleetHost {
                name: format!("{}{number:03}", cohort.prefix),
                recording: cohort.recording,
                program: cohort.program,
                kernel: cohort.kernel,
                peer: cohort.peer,
                started: now - before,
                fate: cohort.fate,
                // What is too old comes once, first; see `Engine::load`.
                twice: random.u8(..7) == 0 && cohort.fate != Fate::Forgotten,
                late: random.u8(..5) == 0 && cohort.fate != Fate::Forgotten,
            });
        }
    }
    random.shuffle(&mut hosts);
    hosts
}
