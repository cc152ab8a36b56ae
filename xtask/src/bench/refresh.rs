//! CPU time of a running agent that keeps its knowledge of stuck sockets fresh.

use super::{machine, process};
use crate::prelude::*;
use crate::{
    agent::Program,
    crowd::{self, Crowd},
};

/// Stuck sockets that the agent tracks.
const TRACKED: [u32; 4] = [1000, 10_000, 50_000, 100_000];
/// Other descriptors on the host.
const EXTRA: [u32; 2] = [0, 100_000];
/// The agent reports each after 1, 2, 4, 8 s and so on.
const STUCK_AFTER: &str = "1s";
/// After this time every socket has been reported once.
const SETTLE: Duration = Duration::from_secs(2);
/// Age from which no socket is reported for a time: the report after 32 s is over, that after 64 s is to come. Sockets enter for some
/// seconds.
const QUIET: Duration = Duration::from_secs(34);
/// Maximum time for which each agent is watched, so that both times are between the right reports.
const MOST_SECONDS: u64 = 20;
/// Number of the first crowd of other descriptors; those of the tracked sockets begin with 0.
const OTHERS: u8 = 100;

#[derive(Args)]
pub(crate) struct Refresh {
    /// Seconds that each agent is watched, once while it reports and once while it does not
    #[arg(long, default_value_t = MOST_SECONDS, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: u64,
}

impl Refresh {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let closewait = Program::closewait(binary, dir, &["--stuck-after", STUCK_AFTER]);
        let mut rows = Vec::new();
        for extra in EXTRA {
            let _others = Crowd::gather(OTHERS, 0, extra)?;
            for tracked in TRACKED {
                eprintln!("bench: {tracked} stuck sockets, {extra} other descriptors");
                let [reporting, quiet] = self.cpu(&closewait, tracked)?;
                let load = |cpu: Duration| cpu.as_secs_f64() / self.seconds as f64;
                rows.push(row(tracked, extra, [load(reporting), load(quiet)]));
            }
        }
        println!(
            "{}; CPU time of `closewait run --stuck-after {STUCK_AFTER}` over {} s, its JSON read by another process: from the second \
             second on, with reports after 4, 8 and 16 s, and without reports.\n",
            machine()?,
            self.seconds
        );
        let header = "Stuck sockets | Other descriptors on the host | With reports, CPU ms per second | Without, CPU ms per second | \
                      Without, CPU us per socket and second";
        print!("{}", markdown::table(header, rows));
        Ok(())
    }

    /// CPU time of all threads of an agent that tracks this many sockets, while it reports them and while it does not.
    fn cpu(&self, closewait: &Program, tracked: u32) -> Result<[Duration; 2]> {
        let mut running = closewait.attach()?;
        let _crowd = Crowd::gather(0, tracked, 0)?;
        let entered = exec::now();
        thread::sleep(SETTLE);
        let reporting = process::cpu_during(running.pid(), Duration::from_secs(self.seconds))?;
        thread::sleep(QUIET.saturating_sub(entered.elapsed()));
        let quiet = process::cpu_during(running.pid(), Duration::from_secs(self.seconds))?;
        running.stop()?;
        Ok([reporting, quiet])
    }
}

/// `loads`: CPU time divided by time, while the agent reports and while it does not.
fn row(tracked: u32, extra: u32, loads: [f64; 2]) -> String {
    let [reporting, quiet] = loads;
    format!(
        "{tracked} | {extra} | {:.2} | {:.2} | {:.2}",
        reporting * 1e3,
        quiet * 1e3,
        quiet * 1e6 / f64::from(tracked)
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_time_is_per_second_and_socket() {
        assert_eq!(super::row(1000, 0, [0.5, 0.003]), "1000 | 0 | 500.00 | 3.00 | 3.00");
    }
}
