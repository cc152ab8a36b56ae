use super::*;
use closewait_engine::{
    model::{Certainty, Class, Totals},
    testing::pileup,
};

pub(in crate::tui) fn hung(count: u64, port: u16) -> Pileup {
    let mut group = pileup(Class::Hung, Certainty::High, count);
    group.group.local_port = Some(port);
    group
}

pub(in crate::tui) fn report(pileups: Vec<Pileup>) -> IncidentReport {
    let tracked = pileups.iter().map(|pileup| pileup.count).sum();
    IncidentReport {
        at: BootTime(1_000_000_000_000),
        watched: Some(Duration::from_secs(11_520)),
        stuck_after: Duration::from_secs(60),
        totals: Totals { tracked, entered: tracked + 81, left: 81, ..Totals::default() },
        untracked: 0,
        unseen: None,
        groups: pileups.into_iter().map(|pileup| ReportedGroup { piles_up_since: None, stuck: pileup.count, pileup }).collect(),
        more: 0,
    }
}
