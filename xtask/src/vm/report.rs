//! What the guests have printed, as one table.

use std::collections::BTreeMap;

use tests_support::kmsg::{fault_in, reports_fault};

use clap::ValueEnum as _;

use super::kernels::Kernel;
use crate::prelude::*;
use crate::{
    dist::Arch,
    test::{self, Summary},
};

/// With this variable the tests print what they have found the kernel to be able to.
pub(super) const TELL: &str = "CLOSEWAIT_TEST_TELL";
/// Before such a finding: name and value.
const CAN: &str = "closewait-can: ";
/// Before what the first process of a guest has to say.
const INIT: &str = "closewait-vm: ";
/// What the first process writes into the kernel's log before the tests: earlier records are the boot's.
const TESTS_BEGIN: &str = "closewait-vm: the tests begin";
/// What it prints before and behind the kernel's log.
const LOG_BEGINS: &str = "closewait-vm: log begins";
const LOG_ENDS: &str = "closewait-vm: log ends";
/// Number of the kernel's faults that are shown. The console has all.
const SHOWN_FAULTS: usize = 10;

/// Columns for each kernel, by their names in the tests. page.md explains them.
const COLUMNS: [&str; 12] = [
    "pages",
    "hook",
    "ring buffer",
    "iter/task_file",
    "owners from",
    "openers",
    "cookie",
    "look",
    "legs",
    "backlog",
    "MPTCP",
    "churn",
];
/// Behind the release of a kernel whose types are hidden from the agent.
const BTF_HIDDEN: &str = ", BTF hidden";
/// The page docs/kernels.md around the table.
const PAGE: &str = include_str!("page.md");

/// One boot.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// The version of the matrix, and what the kernel calls itself once it runs.
    name: String,
    hidden_btf: bool,
    /// Option that chose the tests that were run; `None` if all were.
    pub(super) chosen_by: Option<&'static str>,
    /// Whether the kernel has CVE-2026-74714. `None`: its version is unknown.
    broken_iterator: Option<bool>,
    can: BTreeMap<String, String>,
    summary: Option<Summary>,
    /// Number of unit tests that passed before the kernel tests.
    unit_tests: Option<u64>,
    /// Whether the guest came to its end.
    ended: bool,
    /// Whether the kernel's log was read to its end.
    log_read: bool,
    /// What the kernel has reported since the tests began.
    faults: Vec<String>,
    took: Duration,
    /// What went wrong besides tests.
    pub(super) trouble: Vec<String>,
}

impl Row {
    /// Reads the console.
    pub(super) fn read(kernel: &Kernel, hidden_btf: bool, lines: &[String], took: Duration) -> Self {
        let mut row = Self { name: kernel.version.to_owned(), hidden_btf, took, ..Self::default() };
        let log_begins = lines.iter().position(|line| line.ends_with(LOG_BEGINS));
        let (console, log) = lines.split_at(log_begins.unwrap_or(lines.len()));
        for line in console {
            // A kernel that dies prints to the console, and its log is not read.
            let printed = line.strip_prefix('[').and_then(|line| line.split_once("] "));
            row.faults.extend(printed.filter(|(_time, text)| reports_fault(text)).map(|(_time, text)| text.to_owned()));
            // A test's own line may have begun before.
            if let Some((_before, said)) = line.split_once(INIT) {
                match said.split_once(' ') {
                    Some(("release", release)) => release.clone_into(&mut row.name),
                    Some(("build", build)) => row.broken_iterator = kernel.has_broken_iterator(build),
                    Some(("trouble", trouble)) => row.trouble.push(trouble.to_owned()),
                    Some(("unit", ended)) => row.add_unit_tests(ended),
                    Some(("ended", _status)) => row.ended = true,
                    Some(_) | None => {}
                }
            } else if let Some((_before, said)) = line.split_once(CAN) {
                if let Some((name, value)) = said.split_once(": ") {
                    row.can.insert(name.to_owned(), value.trim().to_owned());
                }
            } else {
                row.summary = test::parse_summary(line).or(row.summary.take());
            }
        }
        row.log_read = log.iter().any(|line| line == LOG_ENDS);
        let of_tests = log.rsplit(|line| line.ends_with(TESTS_BEGIN)).next().unwrap_or_default();
        if of_tests.len() < log.len() {
            row.faults.clear();
        }
        row.faults.extend(of_tests.iter().filter_map(|line| fault_in(line)).map(str::to_owned));
        if !row.ended {
            row.trouble.push("it did not come to its end".to_owned());
        } else if !row.log_read {
            row.trouble.push("the kernel's log was not read to its end".to_owned());
        }
        let shown = row.faults.iter().take(SHOWN_FAULTS).map(|fault| format!("the kernel reports: {fault}"));
        row.trouble.extend(shown);
        row
    }

    /// Takes the summary so far for that of the unit tests. `ended` names their exit code.
    fn add_unit_tests(&mut self, ended: &str) {
        let summary = self.summary.take();
        let passed = summary.as_ref().map(|summary| summary.check("unit test", ended == "tests ended 0", true));
        match passed.unwrap_or_else(|| Err(anyhow::anyhow!("the unit tests printed no summary"))) {
            Ok(()) => self.unit_tests = summary.map(|summary| summary.passed),
            Err(error) => self.trouble.push(error.to_string()),
        }
    }

    /// Returns the part of the console that tells why tests have failed, or how far the guest came.
    pub(super) fn to_show<'a>(&self, lines: &'a [String], last: usize) -> &'a [String] {
        if !self.ended {
            return &lines[lines.len().saturating_sub(last)..];
        }
        if !self.failed() {
            return &[];
        }
        // The kernel's log, which comes last, is long.
        let end = lines.iter().position(|line| line == LOG_BEGINS).unwrap_or(lines.len());
        let from = lines.iter().position(|line| line == "failures:").unwrap_or(end);
        &lines[from.min(end)..end]
    }

    pub(super) fn failed(&self) -> bool {
        let passed = |summary: &Summary| summary.check("test", true, true).is_ok();
        !self.summary.as_ref().is_some_and(passed) || !self.trouble.is_empty()
    }

    /// The result in a line.
    pub(super) fn line(&self) -> String {
        let trouble: String = self.trouble.iter().map(|trouble| format!("; {trouble}")).collect();
        format!("{}: tests {} ({:.0} s){trouble}", self.name(), self.tests(), self.took.as_secs_f64())
    }

    /// What the kernel has reported, in a word.
    fn log(&self) -> String {
        match (self.faults.len(), self.log_read) {
            (0, true) => "clean".to_owned(),
            (0, false) => "?".to_owned(),
            (faults, _) => format!("{faults} FAULTS"),
        }
    }

    fn name(&self) -> String {
        format!("{}{}", self.name, if self.hidden_btf { BTF_HIDDEN } else { "" })
    }

    fn tests(&self) -> String {
        let Some(summary) = &self.summary else { return "NOT FINISHED".to_owned() };
        let ignored = if summary.ignored > 0 { format!(", {} ignored", summary.ignored) } else { String::new() };
        let unit_tests = self.unit_tests.map(|count| format!(", {count} unit tests")).unwrap_or_default();
        let chosen = self.chosen_by.map(|option| format!(" by `{option}`")).unwrap_or_default();
        format!("{} run{chosen}, {} failed{ignored}{unit_tests}", summary.run(), summary.failed)
    }

    /// The cells of the table.
    fn cells(&self) -> String {
        let can = COLUMNS.map(|name| self.can.get(name).map_or("?", String::as_str));
        let broken_iterator = self.broken_iterator.map_or("?", |broken| if broken { "has it" } else { "no" });
        let trouble: String = self.trouble.iter().map(|trouble| format!("; {}", markdown::cell(trouble))).collect();
        format!(
            "{} | {} | {broken_iterator} | {} | {}{trouble}",
            self.name(),
            can.join(" | "),
            self.log(),
            self.tests()
        )
    }
}

/// All boots.
pub(super) struct Table(pub(super) Vec<Row>);

impl Table {
    pub(super) fn markdown(&self) -> String {
        markdown::table(&header(), self.0.iter().map(Row::cells))
    }

    /// The last line of the output.
    pub(super) fn summary(&self) -> String {
        let failed = self.0.iter().filter(|row| row.failed()).count();
        let took: Duration = self.0.iter().map(|row| row.took).sum();
        format!("vm: {} kernels booted, {failed} with failures ({:.0} s)", self.0.len(), took.as_secs_f64())
    }

    pub(super) fn verdict(&self) -> Result<()> {
        test::all_of(self.0.iter().filter(|row| row.failed()).map(Row::line))
            .context("not as it should be; the output of the guests is above")
    }

    /// Returns the whole of docs/kernels.md: this table for one architecture, and for each other one that of the page there is.
    /// `keeps_others`: the architecture's other boots keep the rows that they have there.
    pub(super) fn page(&self, arch: Arch, before: &str, keeps_others: bool) -> Result<String> {
        let mut page = PAGE.to_owned();
        for other in Arch::value_variants() {
            let table = match *other == arch {
                true if keeps_others => self.merged(arch, &section(before, arch)?)?,
                true => self.markdown(),
                false => section(before, *other)?,
            };
            page = page.replace(&format!("{{{}}}\n", other.name()), &table);
        }
        Ok(page)
    }

    /// Returns this table with the rows of a section for all other boots, in the order of the matrix.
    fn merged(&self, arch: Arch, section: &str) -> Result<String> {
        let place = |name: &str| {
            let release = name.strip_suffix(BTF_HIDDEN);
            Some((release.is_some(), Kernel::place(arch, release.unwrap_or(name))?))
        };
        let mut lines = section.lines();
        // Under another header, the cells mean something else.
        let is_same = lines.next() == Some(format!("| {} |", header()).as_str());
        let kept = lines.filter(|_| is_same).filter_map(|line| {
            let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
            Some((place(cells.split(" | ").next()?)?, cells.to_owned()))
        });
        let mut rows: BTreeMap<_, _> = kept.collect();
        for row in &self.0 {
            let place = place(&row.name()).with_context(|| format!("no kernel of the matrix is Linux {}", row.name))?;
            rows.insert(place, row.cells());
        }
        Ok(markdown::table(&header(), rows.into_values()))
    }
}

/// Returns the cells of the table's header.
fn header() -> String {
    format!("kernel | {} | CVE-2026-74714 | kernel log | tests", COLUMNS.join(" | "))
}

/// Returns the section below the heading of an architecture: its table, or the line that there is none yet.
fn section(page: &str, arch: Arch) -> Result<String> {
    let heading = format!("## {}", arch.name());
    let below = page.lines().skip_while(|line| **line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let section: Vec<_> = below.collect();
    let section = section.join("\n");
    ensure!(!section.trim().is_empty(), "the page has nothing below `{heading}`\nhint: restore it with git");
    Ok(format!("{}\n", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 10] = [
        "closewait-vm: release 6.18.15-cloud",
        "test ability::a ... closewait-can: hook: tp_btf",
        "ok",
        "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.20s",
        "closewait-vm: ended 0",
        "closewait-vm: log begins",
        "4,1,1,-;WARNING: this is of the boot",
        "12,2,2,-;closewait-vm: the tests begin",
        "6,3,3,-;lo: link becomes ready",
        "closewait-vm: log ends",
    ];

    fn row(lines: &[&str]) -> Row {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        Row::read(&Kernel::matrix(Arch::X86_64)[3], false, &lines, Duration::from_secs(3))
    }

    #[test]
    fn reads_what_the_guest_and_its_tests_say() {
        let row = row(&GOOD);
        assert!(!row.failed(), "{row:?}");
        assert_eq!(row.line(), "6.18.15-cloud: tests 12 run, 0 failed (3 s)");
        let table = Table(vec![row]);
        assert!(table.markdown().contains("| 6.18.15-cloud | ? | tp_btf | ? |"), "{}", table.markdown());
        assert!(table.verdict().is_ok());
        let page = table.page(Arch::Aarch64, &PAGE.replace("{x86_64}", "| of before |"), false).unwrap();
        for column in COLUMNS {
            assert!(page.contains(&format!("\n- **{column}**: ")), "page.md does not explain {column}");
        }
        assert!(page.contains("\n## x86_64\n\n| of before |\n\n"), "{page}");
        assert!(page.contains(&format!("\n## aarch64\n\n{}\n", table.markdown())), "{page}");
        assert!(table.page(Arch::Aarch64, "# Kernels\n", false).is_err());
    }

    #[test]
    fn a_run_of_some_kernels_replaces_their_rows_only() {
        let of = |release: &str| {
            let release = format!("closewait-vm: release {release}");
            row(&[&[release.as_str()], &GOOD[1..]].concat())
        };
        let page = |table: &Table, before: &str, keeps| table.page(Arch::X86_64, before, keeps).unwrap();
        let hidden = Row { hidden_btf: true, ..of("5.10.0-46") };
        let all = Table(vec![of("5.10.0-46"), of("7.3.4+deb13"), hidden]);
        let before = page(&all, &PAGE.replace("{aarch64}", "no table"), false);
        let brief = Table(vec![Row { chosen_by: Some("--brief"), ..of("7.3.5") }, of("6.1.0-9")]);
        let after = page(&brief, &before, true);
        let rows = |page: &str| -> Vec<String> {
            let cells = page.lines().filter(|line| line.ends_with(" failed |")).map(|line| line.split(" | "));
            cells.map(|mut cells| cells.next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(rows(&after), ["| 5.10.0-46", "| 6.1.0-9", "| 7.3.5", "| 5.10.0-46, BTF hidden"], "{after}");
        assert!(after.contains("| clean | 12 run by `--brief`, 0 failed |\n"), "{after}");
        assert_eq!(rows(&page(&brief, &before, false)), ["| 7.3.5", "| 6.1.0-9"]);
        // Rows of other columns are dropped, and each kernel that was run has a place.
        let other_columns = before.replace("| kernel | pages |", "| kernel |");
        assert_eq!(rows(&page(&brief, &other_columns, true)), ["| 6.1.0-9", "| 7.3.5"]);
        assert!(Table(vec![of("8.0.1")]).page(Arch::X86_64, &before, true).is_err());
    }

    #[test]
    fn unit_tests_before_the_kernel_tests_count_by_themselves() {
        let unit = "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.20s";
        let with = |between: &[&str]| row(&[&[GOOD[0]], between, &GOOD[1..]].concat());
        let passed = with(&[unit, "closewait-vm: unit tests ended 0"]);
        assert_eq!(passed.line(), "6.18.15-cloud: tests 12 run, 0 failed, 4 unit tests (3 s)");
        assert!(!passed.failed());
        assert!(with(&[unit, "closewait-vm: unit tests ended 101"]).failed());
        assert!(with(&["closewait-vm: unit tests ended 0"]).failed());
        assert!(with(&[&unit.replace("ok. 4", "ok. 0"), "closewait-vm: unit tests ended 0"]).failed());
    }

    #[test]
    fn a_guest_that_does_not_come_to_its_end_has_failed_and_its_last_lines_are_shown() {
        let lines: Vec<String> = GOOD[..3].iter().map(|line| (*line).to_owned()).collect();
        let row = row(&GOOD[..3]);
        assert!(row.failed());
        assert_eq!(row.to_show(&lines, 2), &lines[1..]);
        let table = Table(vec![row]);
        assert!(table.markdown().contains("NOT FINISHED"));
        assert!(format!("{:#}", table.verdict().unwrap_err()).contains("6.18.15-cloud"));
    }

    #[test]
    fn a_warning_of_the_kernel_is_a_failure_although_all_tests_pass() {
        assert_eq!(row(&GOOD).log(), "clean");
        let mut lines = GOOD.to_vec();
        lines[8] = "4,3,3,-;refcount_t: addition on 0; use-after-free.";
        assert_eq!((row(&lines).failed(), row(&lines).log().as_str()), (true, "1 FAULTS"));
        assert!(row(&lines).line().contains("addition on 0"));
    }

    #[test]
    fn what_a_dying_kernel_prints_is_read_and_a_log_that_is_missing_is_a_failure() {
        let lines = [GOOD[0], "[   12.5] Kernel panic - not syncing: Fatal exception in interrupt"];
        assert_eq!(row(&lines).log(), "1 FAULTS");
        assert!(row(&GOOD[..5]).failed());
        assert_eq!(row(&GOOD[..5]).log(), "?");
    }

    #[test]
    fn the_build_tells_whether_the_kernel_has_the_bug() {
        let build = "closewait-vm: build #1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1 (2026-03-01)";
        assert_eq!((row(&[build]).broken_iterator, row(&GOOD).broken_iterator), (Some(true), None));
    }

    #[test]
    fn of_failed_tests_the_reasons_are_shown() {
        let failed =
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        let lines = ["test a ... FAILED", "failures:", "why", failed, GOOD[4]];
        let owned: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(row(&lines).to_show(&owned, 2), &owned[1..]);
    }
}
