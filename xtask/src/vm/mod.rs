//! `cargo xtask vm`: the kernel tests on Debian's kernels, each in a virtual machine of its own.

pub(crate) mod apt;
mod counted;
mod initramfs;
mod kernels;
mod machine;
mod programs;
mod report;
mod returned;

use std::{
    env,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::builder::PossibleValuesParser;

pub(crate) use counted::{Counted, count};

use crate::prelude::*;
use crate::{
    dist::Arch,
    root, setup,
    test::{self, emulated},
};
use initramfs::Tree;
use kernels::{Kernel, MODULES};
use machine::{Accelerator, Guest};
use programs::Programs;
use report::{Row, Table};

/// The page that `--bless` writes.
const PAGE: &str = "docs/kernels.md";
/// A guest that prints no line for this long hangs: each test prints one, and takes two minutes at most.
const SILENCE: Duration = Duration::from_secs(300);
/// The tests read from it how much slower than a machine the guest is.
const SLOWNESS: &str = "CLOSEWAIT_TEST_SLOWNESS";
/// Folder that keeps recordings for the tests that play them. A guest has one, which it gives back.
const RECORD: &str = "CLOSEWAIT_RECORD";
/// Tells the tests that the kernel is a guest's: they may then load a program that widens a race of the kernel's.
const GUEST: &str = "CLOSEWAIT_TEST_GUEST";
/// A table of connections as on a host with 16 GiB. With that of a small guest, half of ten thousand clients that have closed
/// are forgotten, their ports are used again, and a SYN ends the connection whose server is still in CLOSE_WAIT.
/// The kernel's log holds what all tests together bring it to print.
const COMMAND_LINE: &str = "thash_entries=131072 log_buf_len=8M";
/// Path of the agent in a guest. The kernel tests find it in the folder above their own.
const AGENT: &str = "/closewait";
/// Number of console lines that are shown of a guest that did not finish.
const LAST_LINES: usize = 40;
/// Tests whose names contain one of these say something about a kernel without BTF. The others tell sockets apart by
/// what only BTF gives: namespace, cookie and inode.
const WITHOUT_BTF: [&str; 6] = ["abilities::", "classic::", "bad_input::", "without_btf", "no_btf", "neither_btf"];
/// Tests whose names contain one of these depend on what differs between kernels. The others are about the agent alone.
const OF_THE_KERNEL: [&str; 16] = [
    "abilities::",
    "accepting::",
    "architecture::",
    "audit::",
    "classic::",
    "confinement::",
    "ended::",
    "families::",
    "kernel_log::",
    "leaving::",
    "listing::",
    "older::",
    "owners::",
    "pinned::",
    "privileges::",
    "unchanged::",
];
/// Tests whose names contain one of these run on this machine only: what they start, as bash and curl, is not in a
/// guest, and a host with more to do than it can is none that QEMU translates at a tenth of its speed.
const NOT_OF_THE_KERNEL: [&str; 6] =
    ["connects::", "dump::", "journal::", "notify::", "busy::", "what_a_shell_hands_over"];

/// Parts of the names of tests with tens of thousands of connections. QEMU's translation of aarch64 takes longer for them than a
/// kernel remembers a client that has closed (60 s, `TCP_TIMEWAIT_LEN` in include/net/tcp.h at v5.10): then its port is used again, and
/// the SYN ends the connection whose server is still in CLOSE_WAIT.
const TOO_MANY_FOR_TCG: [&str; 3] = ["ten_thousand_enter", "ten_thousand_leave", "under_a_memory_limit_an_agent"];

#[derive(Args)]
pub(crate) struct Options {
    /// Kernels, as in `5.10 7.3`; all of the architecture's if there are none
    #[arg(value_parser = PossibleValuesParser::new(Kernel::versions()))]
    versions: Vec<String>,
    /// Architecture of the kernels and of the agent [default: that of this machine]
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Run only tests whose name contains this, or one of these
    #[arg(long, value_name = "FILTER", conflicts_with = "bless")]
    test: Vec<String>,
    /// Run only the tests of what differs between kernels
    #[arg(long, conflicts_with = "test")]
    brief: bool,
    /// Download and build what the guests need, and boot none
    #[arg(long, conflicts_with = "bless")]
    no_run: bool,
    /// Write the architecture's table to docs/kernels.md; only the rows of the kernels that are named
    #[arg(long)]
    bless: bool,
}

/// One boot of the matrix.
#[derive(Clone, Copy)]
struct Case {
    kernel: &'static Kernel,
    /// The kernel's types are hidden from the agent, as on a kernel that was built without them.
    hidden_btf: bool,
}

/// Static binaries for guests.
struct GuestBinaries {
    agent: PathBuf,
    /// The kernel tests.
    tests: PathBuf,
    /// The agent's unit tests, if this machine cannot run all of them, and all are wanted.
    unit_tests: Option<PathBuf>,
}

/// What goes into every guest.
struct Parts<'a> {
    binaries: GuestBinaries,
    programs: Programs,
    arch: Arch,
    dir: PathBuf,
    /// Option that chose `wanted`.
    chosen_by: &'static str,
    /// Parts of the names of the tests to run, all if there are none.
    wanted: Vec<&'a str>,
}

/// Boots as many at a time as there are CPUs for, prints the table and fails if anything was not as it should be.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let arch = options.arch.map_or_else(Arch::of_this_machine, Ok)?;
    let kernels = Kernel::choose(arch, &options.versions)?;
    let chosen = match options.brief {
        true => ("--brief", OF_THE_KERNEL.to_vec()),
        false => ("--test", options.test.iter().map(String::as_str).collect()),
    };
    let parts = Parts::prepare(workspace, arch, &kernels, chosen)?;
    if options.no_run {
        return Ok(());
    }
    let newest = kernels.last().context("no kernel is wanted; name one of the matrix")?;
    let accelerator = Accelerator::probe(parts.guest(newest, "")?)?;
    let at_once = accelerator.guests_at_once(arch);
    println!("vm: {} kernels of {} with {}, {at_once} at once", kernels.len(), arch.name(), accelerator.name());
    let mut cases: Vec<Case> = kernels.iter().map(|kernel| Case { kernel, hidden_btf: false }).collect();
    // The oldest is the one that can do least besides. Tests that somebody has chosen need not be for it.
    let oldest = kernels.first().filter(|_| options.test.is_empty());
    cases.extend(oldest.map(|kernel| Case { kernel, hidden_btf: true }));
    let table = Table(play_all(&parts, &cases, accelerator, at_once)?);
    println!("\n{}", table.markdown());
    println!("{}", table.summary());
    // The page says what works: nothing is written of a run in which something did not.
    table.verdict()?;
    if options.bless {
        let page = workspace.root.join(PAGE);
        fs::write(&page, table.page(arch, &fs::read_to_string(&page)?, !options.versions.is_empty())?)?;
        println!("wrote {PAGE}");
    }
    Ok(())
}

/// Plays the cases in their order, `at_once` at a time: a guest boots as soon as another has ended. Returns the rows in the same
/// order.
fn play_all(parts: &Parts<'_>, cases: &[Case], accelerator: Accelerator, at_once: usize) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let play = || -> Result<Vec<(usize, Row)>> {
        let mut rows = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return Ok(rows) };
            let row = parts.play(*case, accelerator)?;
            println!("vm: {}", row.line());
            rows.push((index, row));
        }
    };
    let played: Result<Vec<_>> = thread::scope(|scope| {
        let players: Vec<_> = (0..at_once).map(|_| scope.spawn(play)).collect();
        players.into_iter().map(|player| player.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut rows: Vec<_> = played?.into_iter().flatten().collect();
    rows.sort_by_key(|(index, _)| *index);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Returns the group of .ci/packages that has what boots the guests of an architecture.
const fn packages(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "vm",
        Arch::Aarch64 => "aarch64",
    }
}

/// The agent and its kernel tests as static files, optimized: a guest has no libraries, and a translating QEMU has no time
/// for code that is not. `all`: also the unit tests, which no run of chosen tests needs.
fn build(workspace: &Workspace, arch: Arch, all: bool) -> Result<GuestBinaries> {
    setup::run(workspace)?;
    let mut cargo = workspace.cargo("test");
    let (target, hint) = match arch {
        Arch::X86_64 => {
            // For another target than the compiler's own, the flags are not those of build scripts.
            cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
            ("x86_64-unknown-linux-gnu", "install libc6-dev")
        }
        Arch::Aarch64 => (arch.target(), "its linker, rust-lld, comes with rustup's toolchains"),
    };
    let with_unit_tests = all && !arch.is_of_this_machine();
    if with_unit_tests {
        cargo.arg("--lib");
    }
    setup::toolchain()?.add_target(target)?;
    let messages = exec::output(
        cargo
            .args(["--profile=vm", "--target", target, "--package", "closewait-agent", "--test", "kernel", "--no-run"])
            .arg("--message-format=json-render-diagnostics"),
    )
    .with_context(|| format!("cannot link statically for {target}\nhint: {hint}"))?;
    let built = |kind, name| test::executable(&messages, name, kind);
    Ok(GuestBinaries {
        agent: built("bin", "closewait")?,
        tests: built("test", "kernel")?,
        unit_tests: with_unit_tests.then(|| built("lib", "closewait")).transpose()?,
    })
}

impl<'w> Parts<'w> {
    /// Downloads and builds what guests with these kernels need.
    fn prepare(
        workspace: &Workspace,
        arch: Arch,
        kernels: &[&Kernel],
        (chosen_by, wanted): (&'static str, Vec<&'w str>),
    ) -> Result<Self> {
        let dir = workspace.target.join("vm").join(arch.name());
        fs::create_dir_all(&dir)?;
        root::install(workspace, packages(arch))?;
        let work = dir.join("apt");
        kernels::download(&dir.join("kernels"), &work, arch, kernels)?;
        let programs = Programs::find(&dir.join("programs"), &work, arch)?;
        let binaries = build(workspace, arch, wanted.is_empty())?;
        Ok(Self { binaries, programs, arch, dir, chosen_by, wanted })
    }

    fn kernels(&self) -> PathBuf {
        self.dir.join("kernels")
    }

    fn guest<'a>(&'a self, kernel: &Kernel, name: &'a str) -> Result<Guest<'a>> {
        Ok(Guest {
            dir: &self.dir,
            arch: self.arch,
            busybox: &self.programs.busybox,
            name,
            kernel: kernel.image(&self.kernels())?,
            append: COMMAND_LINE,
            silence: SILENCE,
        })
    }

    /// Boots one and reads what its tests say.
    fn play(&self, case: Case, accelerator: Accelerator) -> Result<Row> {
        let name = if case.hidden_btf { format!("{}-no-btf", case.kernel.version) } else { case.kernel.version.into() };
        let guest = self.guest(case.kernel, &name)?;
        let tree = guest.tree()?;
        self.fill(&tree, case, accelerator)?;
        let boot = guest.boot(&tree, accelerator)?;
        if let Some(folder) = env::var_os(RECORD) {
            for file in returned::save(&boot.lines, Path::new(&folder))? {
                println!("vm: {name} gave back {}", file.display());
            }
        }
        let mut row = Row::read(case.kernel, case.hidden_btf, &boot.lines, boot.took);
        // Without BTF the same tests are run either way.
        row.chosen_by = (!self.wanted.is_empty() && !case.hidden_btf).then_some(self.chosen_by);
        row.trouble.extend(boot.trouble);
        for line in row.to_show(&boot.lines, LAST_LINES) {
            println!("{name} | {line}");
        }
        if row.failed() {
            println!("vm: all that {name} printed is in {}", guest.console().display());
        }
        Ok(row)
    }

    /// Adds the agent, its tests and what they need to the files of a guest.
    fn fill(&self, tree: &Tree, case: Case, accelerator: Accelerator) -> Result<()> {
        self.programs.copy_ss(tree)?;
        let GuestBinaries { agent, tests, unit_tests } = &self.binaries;
        tree.copy(tests, "/tests/kernel")?;
        tree.copy(agent, AGENT)?;
        // A run of chosen tests, or without BTF, has nothing to add to the first one.
        if let Some(unit_tests) = unit_tests.as_ref().filter(|_| self.wanted.is_empty() && !case.hidden_btf) {
            tree.copy(unit_tests, "/tests/unit")?;
        }
        let modules = self.copy_modules(tree, case.kernel)?;
        let slowness = match accelerator {
            Accelerator::Kvm => 2,
            Accelerator::Tcg | Accelerator::Counting => 10,
        };
        let settings = format!(
            "MODULES='{}'\nBTF={}\nARGUMENTS='{}'\nUNIT_TESTS='{}'\nexport {SLOWNESS}={slowness} {GUEST}=1 {}=1 {}\n",
            modules.join(" "),
            if case.hidden_btf { "hidden" } else { "there" },
            self.arguments(case).join(" "),
            emulated::OF_A_GUEST.join(" "),
            report::TELL,
            if env::var_os(RECORD).is_some() { "CLOSEWAIT_TEST_RECORD=/recordings" } else { "" },
        );
        tree.write("/settings", &settings, 0o644)
    }

    /// Adds the modules that the guest loads. Returns their names.
    fn copy_modules(&self, tree: &Tree, kernel: &Kernel) -> Result<Vec<String>> {
        let mut modules = Vec::new();
        for module in MODULES {
            let Some(file) = kernel.module(&self.kernels(), module)? else { continue };
            let name = file.file_name().and_then(|name| name.to_str()).context("a module's name is not UTF-8")?;
            tree.copy(&file, &format!("/modules/{name}"))?;
            modules.push(name.to_owned());
        }
        Ok(modules)
    }

    /// Arguments of the test program: which tests it runs.
    fn arguments(&self, case: Case) -> Vec<String> {
        if case.hidden_btf {
            return WITHOUT_BTF.iter().map(|part| (*part).to_owned()).collect();
        }
        let is_slow = self.arch == Arch::Aarch64 && !self.arch.is_of_this_machine();
        let too_many = TOO_MANY_FOR_TCG.iter().filter(|_| is_slow);
        let skipped = NOT_OF_THE_KERNEL.iter().chain(too_many).flat_map(|part| ["--skip", part]);
        self.wanted.iter().copied().chain(skipped).map(str::to_owned).collect()
    }
}
