//! Numbers as Markdown, ready for the README.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    agent::Idle,
    rounds::{Totals, Variant},
};

/// The machine, and how it was measured.
pub(super) fn header(rounds: u32, seconds: u64) -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's release; is /proc mounted?")?;
    let cpus = thread::available_parallelism().context("cannot count the CPUs; is /proc mounted?")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo; is /proc mounted?")?;
    Ok(format!(
        "Linux {}, {cpus} CPUs ({}); {rounds} interleaved rounds of {seconds} s for each variant; short TCP connections over \
         loopback, as many client and server threads as CPUs.\n\n",
        kernel.trim(),
        cpu_model(&cpuinfo)
    ))
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
    fn the_cpu_has_a_name() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Some CPU\n"), "Some CPU");
        assert_eq!(cpu_model(""), "unknown model");
    }
}
