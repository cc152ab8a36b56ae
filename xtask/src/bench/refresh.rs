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
/// The agent refreshes them after 1, 2, 4, 8 s and so on.
const STUCK_AFTER: &str = "1s";
/// After this time every socket has been reported once.
const SETTLE: Duration = Duration::from_secs(2);
/// Number of the first crowd of other descriptors; those of the tracked sockets begin with 0.
const OTHERS: u8 = 100;

#[derive(Args)]
pub(crate) struct Refresh {
    /// Seconds that each agent is watched
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
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
                rows.push(row(tracked, extra, self.cpu(&closewait, tracked)?.as_secs_f64() / self.seconds as f64));
            }
        }
        println!(
            "{}; CPU time of `closewait run --stuck-after {STUCK_AFTER}` over {} s, its JSON read by another process.\n",
            machine()?,
            self.seconds
        );
        let header = "Stuck sockets | Other descriptors on the host | CPU ms per second | CPU us per socket and second";
        print!("{}", markdown::table(header, rows));
        Ok(())
    }

    /// CPU time of all threads of an agent that tracks `count` sockets.
    fn cpu(&self, closewait: &Program, tracked: u32) -> Result<Duration> {
        let mut running = closewait.attach()?;
        let _crowd = Crowd::gather(0, tracked, 0)?;
        thread::sleep(SETTLE);
        let cpu = process::cpu_during(running.pid(), Duration::from_secs(self.seconds))?;
        running.stop()?;
        Ok(cpu)
    }
}

/// `load`: CPU time divided by time.
fn row(tracked: u32, extra: u32, load: f64) -> String {
    format!("{tracked} | {extra} | {:.2} | {:.2}", load * 1e3, load * 1e6 / f64::from(tracked))
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_time_is_per_second_and_socket() {
        assert_eq!(super::row(1000, 0, 0.003), "1000 | 0 | 3.00 | 3.00");
    }
}
