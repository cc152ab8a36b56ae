//! Numbers as Markdown, ready for the README.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    agent::Idle,
    listers::Times,
    memory::Growth,
    refresh::Cost,
    rounds::{Totals, Variant},
};

/// The machine, and how it was measured.
pub(super) fn header(rounds: u32, seconds: u64) -> Result<String> {
    Ok(format!(
        "{}; {rounds} interleaved rounds of {seconds} s for each variant; short TCP connections over loopback, as many client \
         and server threads as CPUs.\n\n",
        machine()?
    ))
}

fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's release; is /proc mounted?")?;
    let cpus = thread::available_parallelism().context("cannot count the CPUs; is /proc mounted?")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo; is /proc mounted?")?;
    Ok(format!("Linux {}, {cpus} CPUs ({})", kernel.trim(), cpu_model(&cpuinfo)))
}

/// The machine, and what was listed.
pub(super) fn list_header((close_wait, other): (u32, u32), processes: usize, rounds: u32) -> Result<String> {
    Ok(format!(
        "{}; {close_wait} sockets in CLOSE_WAIT among {} descriptors of {processes} processes; whole processes, output to /dev/null, \
         {rounds} interleaved rounds.\n\n",
        machine()?,
        close_wait + other
    ))
}

/// One line for each program.
pub(super) fn lists(all: &[Times]) -> String {
    let mut text =
        String::from("| Variant | Median ms | min..max | Ratio to ss | Target | Rounds |\n|---|---|---|---|---|---|\n");
    for Times { name, millis, ratios, target } in all {
        let (Some(median_ms), Some((min, max)), Some(ratio)) = (median(millis), bounds(millis), median(ratios)) else {
            continue;
        };
        let target = target.map_or_else(|| "-".to_owned(), |target| format!("{target:.2}"));
        let rounds = millis.len();
        line(
            &mut text,
            format_args!("| {name} | {median_ms:.1} | {min:.1}..{max:.1} | {ratio:.3} | {target} | {rounds} |"),
        );
    }
    text
}

/// How the time grows: one line for each size and program.
pub(super) fn growth(sizes: &[(u32, u32, Vec<Times>)], rounds: u32) -> String {
    let mut text = format!(
        "\nMedians of {rounds} rounds:\n\n| In CLOSE_WAIT | Other descriptors | Variant | Median ms | ms per 1000 sockets |\n\
         |---|---|---|---|---|\n"
    );
    for (close_wait, other, all) in sizes {
        for Times { name, millis, .. } in all {
            let Some(median) = median(millis) else { continue };
            let of_thousand = median * 1000.0 / f64::from(*close_wait);
            line(&mut text, format_args!("| {close_wait} | {other} | {name} | {median:.1} | {of_thousand:.2} |"));
        }
    }
    text
}

/// What tracking stuck sockets costs an agent.
pub(super) fn refresh(costs: &[Cost], time: Duration, stuck_after: &str) -> Result<String> {
    let mut text = format!(
        "{}; CPU time of `closewait run --stuck-after {stuck_after}` over {} s, its JSON read by another process.\n\n\
         | Stuck sockets | Other descriptors on the host | CPU ms per second | CPU us per socket and second |\n|---|---|---|---|\n",
        machine()?,
        time.as_secs()
    );
    for Cost { tracked, extra, cpu } in costs {
        let millis = cpu.as_secs_f64() * 1000.0 / time.as_secs_f64();
        let of_socket = millis * 1000.0 / f64::from(*tracked);
        line(&mut text, format_args!("| {tracked} | {extra} | {millis:.2} | {of_socket:.2} |"));
    }
    Ok(text)
}

/// Memory for each socket: of real ones in kernel and agent, of replayed ones in the engine alone.
pub(super) fn memory(real: &[Growth], replayed: &[Growth], port: Option<f64>) -> Result<String> {
    let mut text = format!(
        "{}; sockets in CLOSE_WAIT that all have been reported, one holder each. Kernel: growth of the agent's BPF maps. Agent: \
         growth of its anonymous resident memory, and the most that was seen while they were reported.\n\n\
         | Sockets | Kernel, bytes for each | Agent, bytes for each | Agent's growth, KiB | at the peak, KiB | when all had left, KiB |\n\
         |---|---|---|---|---|---|\n",
        machine()?
    );
    for (growths, what) in [(real, ""), (replayed, " (replayed)")] {
        for Growth { sockets, kernel, agent_kib, peak_kib, left_kib } in growths {
            let each = |bytes: f64| bytes / f64::from(*sockets);
            let kernel = kernel.map_or_else(|| "-".to_owned(), |bytes| format!("{:.0}", each(bytes)));
            let agent = each(agent_kib * 1024.0);
            let numbers = format_args!("{kernel} | {agent:.0} | {agent_kib:.0} | {peak_kib:.0} | {left_kib:.0}");
            line(&mut text, format_args!("| {sockets}{what} | {numbers} |"));
        }
    }
    if let Some(port) = port {
        line(&mut text, format_args!("\nA port or remote end whose comings and goings are counted: {port:.0} bytes."));
    }
    Ok(text)
}

/// One line for each variant.
pub(super) fn table(variants: &[Variant]) -> String {
    let mut text = String::from(
        "| Variant | Connections/s (median) | min..max | Ratio to none | Notes |\n|---|---|---|---|---|\n",
    );
    for Variant { name, rates, ratios, failure } in variants {
        let numbers = match (median(rates), bounds(rates), median(ratios)) {
            (Some(rate), Some((min, max)), Some(ratio)) => format!("{rate:.0} | {min:.0}..{max:.0} | {ratio:.3}"),
            _ => "- | - | -".to_owned(),
        };
        let notes = match failure {
            Some(reason) => format!("did not attach: {}", reason.replace('|', "\\|")),
            None => format!("{} rounds", rates.len()),
        };
        line(&mut text, format_args!("| {name} | {numbers} | {notes} |"));
    }
    text
}

/// What closewait lost under this load.
pub(super) fn losses(totals: &Totals) -> String {
    let shown = |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
    let mut text = format!("\nOf {} connections, closewait missed {}.", totals.connections, shown(totals.missed()));
    let counters: Vec<_> = totals.counters.iter().map(|(name, sum)| format!("`{name}` {}", shown(*sum))).collect();
    line(&mut text, format_args!(" Its own totals: {}.", counters.join(", ")));
    text
}

/// How fast closewait starts.
pub(super) fn starts(times: &[Duration]) -> String {
    let millis: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    match (median(&millis), bounds(&millis)) {
        (Some(median), Some((_min, max))) => format!(
            "\nFrom the start of the process until it was attached: median {median:.0} ms, at most {max:.0} ms ({} starts).\n",
            times.len()
        ),
        _ => String::new(),
    }
}

/// What closewait costs while nothing happens.
pub(super) fn idle(idle: &Idle) -> String {
    format!(
        "\nIdle for {} s: {:.1} ms of CPU time ({:.3} % of one CPU), {} KiB resident.\n",
        idle.time.as_secs(),
        idle.cpu.as_secs_f64() * 1000.0,
        idle.cpu.as_secs_f64() / idle.time.as_secs_f64() * 100.0,
        idle.resident_kib
    )
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{arguments}");
}

fn cpu_model(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown model", |(_tab, name)| name.trim())
}

/// The middle, or the mean of the two in the middle.
fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(upper, *sorted.get(sorted.len() / 2 - 1)?))
}

fn bounds(numbers: &[f64]) -> Option<(f64, f64)> {
    let first = *numbers.first()?;
    Some(numbers.iter().fold((first, first), |(min, max), number| (number.min(min), number.max(max))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(bounds(&[2.0, 1.0, 3.0]), Some((1.0, 3.0)));
    }

    #[test]
    fn a_variant_without_results_says_why() {
        let variants = [
            Variant { name: "none", rates: vec![100.0, 200.0], ratios: vec![1.0, 1.0], failure: None },
            Variant { name: "tcplife", rates: vec![], ratios: vec![], failure: Some("no a|b".to_owned()) },
        ];
        let table = table(&variants);
        assert!(table.contains("| none | 150 | 100..200 | 1.000 | 2 rounds |\n"), "{table}");
        assert!(table.contains("| tcplife | - | - | - | did not attach: no a\\|b |\n"), "{table}");
    }

    #[test]
    fn an_unknown_loss_is_not_zero() {
        let totals = Totals { connections: 10, counters: vec![("entered", None), ("lost_ring_full", Some(0))] };
        let text = losses(&totals);
        assert!(text.contains("missed unknown") && text.contains("`lost_ring_full` 0"), "{text}");
    }

    #[test]
    fn a_listing_has_a_ratio_and_grows_with_its_sockets() {
        let times = || Times { name: "list", millis: vec![30.0, 10.0, 20.0], ratios: vec![0.25], target: Some(0.5) };
        let table = lists(&[times(), Times { name: "none", millis: vec![], ratios: vec![], target: None }]);
        assert!(table.ends_with("| list | 20.0 | 10.0..30.0 | 0.250 | 0.50 | 3 |\n"), "{table}");
        let growth = growth(&[(10_000, 5, vec![times()])], 3);
        assert!(growth.ends_with("| 10000 | 5 | list | 20.0 | 2.00 |\n"), "{growth}");
    }

    #[test]
    fn cpu_time_is_told_per_second_and_socket() {
        let costs = [Cost { tracked: 1000, extra: 0, cpu: Duration::from_millis(30) }];
        let table = refresh(&costs, Duration::from_secs(10), "1s").unwrap();
        assert!(table.ends_with("| 1000 | 0 | 3.00 | 3.00 |\n"), "{table}");
    }

    #[test]
    fn memory_is_told_for_each_socket_and_what_was_not_measured_is_no_number() {
        let growth = |kernel| Growth { sockets: 1000, kernel, agent_kib: 500.0, peak_kib: 600.0, left_kib: -3.0 };
        let table = memory(&[growth(Some(72_000.0))], &[growth(None)], Some(2100.4)).unwrap();
        assert!(table.contains("| 1000 | 72 | 512 | 500 | 600 | -3 |\n| 1000 (replayed) | - | 512 |"), "{table}");
        assert!(table.ends_with("counted: 2100 bytes.\n"), "{table}");
    }

    #[test]
    fn the_cpu_has_a_name() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Some CPU\n"), "Some CPU");
        assert_eq!(cpu_model(""), "unknown model");
    }
}
