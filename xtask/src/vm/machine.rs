//! Booting a kernel in QEMU, and reading what it prints.

use std::{fs::OpenOptions, num::NonZero};

use super::initramfs::Tree;
use crate::{dist::Arch, prelude::*};

/// Time for a guest: on a translating QEMU and a busy machine 197 tests take over 25 minutes.
const LIMIT: Duration = Duration::from_secs(3_600);

/// What QEMU computes the guest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// A translator: ten to thirty times slower.
    Tcg,
    /// The translator with one processor and a clock that counts its instructions: one is a nanosecond, and waiting takes no time.
    Counting,
}

impl Accelerator {
    /// KVM if a guest can be booted with it. That the device is there, or opens, says too little: inside of another
    /// virtual machine it may fail at some instruction.
    pub(super) fn probe(guest: Guest<'_>) -> Result<Self> {
        /// A boot takes a second or two. After an error of KVM, QEMU waits for ever.
        const SILENCE: Duration = Duration::from_secs(20);
        if !guest.arch.is_of_this_machine() || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let guest = Guest { name: "probe", append: "closewait.probe", silence: SILENCE, ..guest };
        let boot = guest.boot(&guest.tree()?, Self::Kvm)?;
        let up = boot.lines.iter().any(|line| line.contains("closewait-vm: release"));
        Ok(if up && boot.trouble.is_none() { Self::Kvm } else { Self::Tcg })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
            Self::Counting => "TCG that counts instructions",
        }
    }

    /// Number of guests that the CPUs of this machine suffice for. Timeouts of the tests allow for no more.
    pub(super) fn guests_at_once(self, arch: Arch) -> usize {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let for_each = match (self, arch) {
            (Self::Kvm, _) | (Self::Tcg, Arch::Aarch64) => 2,
            // These translators have one thread.
            (Self::Tcg, Arch::X86_64) | (Self::Counting, _) => 1,
        };
        (cpus / for_each).max(1)
    }

    const fn arguments(self, arch: Arch) -> &'static [&'static str] {
        match (self, arch) {
            (Self::Kvm, Arch::X86_64) => &["-accel", "kvm", "-cpu", "host"],
            (Self::Kvm, Arch::Aarch64) => &["-M", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host"],
            // With a thread for each processor, a guest that patches its own code while the other processor runs it (as it
            // does when a tracepoint gets its first program) now and then traps on an instruction that is no more there.
            (Self::Tcg, Arch::X86_64) => &["-accel", "tcg,thread=single", "-cpu", "max"],
            // Without `impdef`, QEMU computes a real cipher for each signed return address.
            (Self::Tcg, Arch::Aarch64) => {
                &["-M", "virt,gic-version=3", "-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"]
            }
            (Self::Counting, Arch::X86_64) => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"]
            }
            (Self::Counting, Arch::Aarch64) => &[
                "-M",
                "virt,gic-version=3",
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max",
            ],
        }
    }

    /// Number of processors of a guest.
    const fn processors(self) -> &'static str {
        match self {
            Self::Kvm | Self::Tcg => "2",
            Self::Counting => "1",
        }
    }
}

/// Returns the program that emulates machines of an architecture, and the console of such a machine.
const fn machine_of(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86_64", "ttyS0"),
        Arch::Aarch64 => ("qemu-system-aarch64", "ttyAMA0"),
    }
}

/// One virtual machine, without disks and without a network.
#[derive(Clone)]
pub(super) struct Guest<'a> {
    /// The folder of its files here.
    pub(super) dir: &'a Path,
    pub(super) arch: Arch,
    /// The static busybox that it gets.
    pub(super) busybox: &'a Path,
    pub(super) name: &'a str,
    /// The image that is booted.
    pub(super) kernel: PathBuf,
    /// Words on the kernel's command line.
    pub(super) append: &'a str,
    /// It is cut off when it has printed no line for this long.
    pub(super) silence: Duration,
}

/// What came of a boot.
pub(super) struct Boot {
    /// Why it was cut off. `None`: the guest has switched itself off, or QEMU has given up.
    pub(super) trouble: Option<String>,
    pub(super) took: Duration,
    /// All that it printed.
    pub(super) lines: Vec<String>,
}

impl Guest<'_> {
    /// Starts a tree of its files, with busybox.
    pub(super) fn tree(&self) -> Result<Tree> {
        let tree = Tree::new(&self.dir.join(format!("tree-{}", self.name)))?;
        tree.copy(self.busybox, "/bin/busybox")?;
        Ok(tree)
    }

    /// The file that gets all that it prints.
    pub(super) fn console(&self) -> PathBuf {
        self.dir.join(format!("console-{}.txt", self.name))
    }

    /// Boots it and waits for its end.
    pub(super) fn boot(&self, tree: &Tree, accelerator: Accelerator) -> Result<Boot> {
        let initramfs = self.dir.join(format!("{}.cpio", self.name));
        tree.pack(&initramfs)?;
        let (program, console) = machine_of(self.arch);
        let mut command = Command::new(program);
        command.args(accelerator.arguments(self.arch)).arg("-kernel").arg(&self.kernel).arg("-initrd").arg(initramfs);
        command.args([
            "-m",
            "2G",
            "-smp",
            accelerator.processors(),
            "-nographic",
            "-no-reboot",
            "-nodefaults",
            "-serial",
            "stdio",
        ]);
        command.args(["-append", &format!("console={console} quiet panic=-1 {}", self.append)]);
        let console = fs::File::create(self.console())?.into_parts().0;
        let stderr = console.try_clone().context("dup() of a file failed")?;
        let start = exec::now();
        let mut child = exec::start(command.stdin(Stdio::null()).stdout(console).stderr(stderr))?;
        let (mut length, mut since) = (0, start);
        let trouble = loop {
            if child.try_wait().context("waiting for QEMU failed")?.is_some() {
                break None;
            }
            thread::sleep(Duration::from_millis(200));
            let now = fs::metadata(self.console())?.len();
            if now != length {
                (length, since) = (now, exec::now());
            } else if since.elapsed() > self.silence {
                break Some(format!("it was cut off after {:?} without a line", self.silence));
            }
            if start.elapsed() > LIMIT {
                break Some(format!("it was cut off after {LIMIT:?}"));
            }
        };
        exec::kill(&mut child);
        let lines = fs::read(self.console())?.split(|byte| *byte == b'\n').map(harmless).collect();
        Ok(Boot { trouble, took: start.elapsed(), lines })
    }
}

/// A line of the console without what moves cursors and changes colors.
fn harmless(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}
