//! FUSE file system whose daemon is this process, and which stops answering when a test wants it to.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    clock::{boot_seconds, slowness},
    setup,
};

/// Maximum life of a mount, seconds, unless the kernel is emulated.
const LONGEST: f64 = 90.0;

/// Behavior of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Answers.
    Answers,
    /// Does not read requests, as a stopped daemon: a waiting process can be killed.
    Stopped,
    /// Reads requests and does not answer them, as one whose own server is gone: a waiting process cannot be killed.
    Hangs,
    /// Answers everything but FLUSH, which `close` waits for.
    NeverFlushes,
}

/// Mounted file system with an empty folder, `folder`, and a file, `server`: a copy of `sleep`.
pub(crate) struct FileSystem {
    path: PathBuf,
    mode: Arc<AtomicU8>,
    over: Arc<AtomicBool>,
    hanging: Arc<AtomicUsize>,
    daemon: Option<JoinHandle<()>>,
}

impl FileSystem {
    /// Mounts it; returns `None` where the kernel has no FUSE.
    pub(crate) fn mount(name: &str) -> Option<Self> {
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
        let Ok(device) = device else {
            let known = fs::read_to_string("/proc/filesystems").expect("/proc/filesystems");
            assert!(!known.lines().any(|line| line == "nodev\tfuse"), "/dev/fuse cannot be opened");
            return None;
        };
        let path = std::env::temp_dir().join(format!("closewait-{name}-{}", process::id()));
        fs::create_dir_all(&path).expect("a mount point");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(&path, &options);
        let mode = Arc::new(AtomicU8::new(Mode::Answers as u8));
        let over = Arc::new(AtomicBool::new(false));
        let hanging = Arc::new(AtomicUsize::new(0));
        let program = fs::read(fs::canonicalize("/bin/sleep").expect("sleep")).expect("sleep");
        let (its_mode, its_over, its_hanging) = (Arc::clone(&mode), Arc::clone(&over), Arc::clone(&hanging));
        let daemon = Daemon { device, program, mode: its_mode, over: its_over, hanging: its_hanging, held: Vec::new() };
        let daemon = Some(thread::spawn(move || daemon.run()));
        Some(Self { path, mode, over, hanging, daemon })
    }

    /// Returns the path of the file.
    pub(crate) fn program(&self) -> PathBuf {
        self.path.join("server")
    }

    /// Returns a path that leads through this file system to an absolute one. Resolving it needs the daemon.
    pub(crate) fn through(&self, path: &Path) -> PathBuf {
        let up = self.path.components().skip(1).map(|_| "..");
        let root: PathBuf = self.path.join("folder").join("..").join(up.collect::<PathBuf>());
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// Returns a command that runs the file for 1,000 s.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        // busybox acts by its own name.
        command.arg0("sleep").arg("1000");
        command
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Answers nothing for a time, and everything after it.
    pub(crate) fn hang_for(&self, time: Duration) {
        self.set(Mode::Hangs);
        let mode = Arc::clone(&self.mode);
        thread::spawn(move || {
            thread::sleep(time);
            mode.store(Mode::Answers as u8, Ordering::SeqCst);
        });
    }

    /// Returns the number of requests that came while it answered nothing.
    pub(crate) fn unanswered(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        setup::unmount(&self.path);
        // The kernel releases waiting processes when the device is closed.
        self.over.store(true, Ordering::SeqCst);
        if let Some(daemon) = self.daemon.take() {
            drop(daemon.join());
        }
        drop(fs::remove_dir(&self.path));
    }
}

fn mount(path: &Path, options: &str) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    let options = CString::new(options).expect("no zero in numbers");
    // SAFETY: texts that end in a zero and outlive the call.
    let result = unsafe {
        libc::mount(c"closewait".as_ptr(), path.as_ptr(), c"fuse".as_ptr(), libc::MS_NOSUID, options.as_ptr().cast())
    };
    crate::socket::check(result, "mount -t fuse");
}

struct Daemon {
    device: File,
    program: Vec<u8>,
    mode: Arc<AtomicU8>,
    over: Arc<AtomicBool>,
    hanging: Arc<AtomicUsize>,
    /// Requests that were read and not answered.
    held: Vec<Vec<u8>>,
}

/// Numbers of `enum fuse_opcode` (include/uapi/linux/fuse.h, v6.18).
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// Size of `struct fuse_in_header`, bytes.
const HEADER: usize = 40;
/// Numbers of nodes; the root has 1.
const PROGRAM: u64 = 2;
const FOLDER: u64 = 3;

impl Daemon {
    fn run(mut self) {
        let mut buffer = vec![0; 1 << 20];
        // Even if the test fails, no other process waits longer: other programs read /proc, too.
        let end = boot_seconds() + LONGEST * f64::from(slowness());
        while !self.over.load(Ordering::SeqCst) && boot_seconds() < end {
            let mode = self.mode.load(Ordering::SeqCst);
            let waits = mode == Mode::Stopped as u8;
            let read = if waits { None } else { self.device.read(&mut buffer).ok() };
            if mode == Mode::Answers as u8 {
                let held = std::mem::take(&mut self.held);
                held.iter().for_each(|request| self.answer(request));
            }
            let Some(request) = read.and_then(|length| buffer.get(..length)) else {
                // SAFETY: takes a number only.
                unsafe { libc::usleep(500) };
                continue;
            };
            let operation = u32_at(request, 4);
            let holds = mode == Mode::Hangs as u8 || (mode == Mode::NeverFlushes as u8 && operation == op::FLUSH);
            if holds {
                self.hanging.fetch_add(1, Ordering::SeqCst);
                self.held.push(request.to_vec());
            } else {
                self.answer(request);
            }
        }
    }

    fn answer(&self, request: &[u8]) {
        let (operation, node) = (u32_at(request, 4), u64_at(request, 16));
        let mut body = Vec::new();
        let mut error = 0;
        match operation {
            op::INIT => {
                // Version 7.31: no flags, minimal read-ahead, pages of 4096 bytes.
                for number in [7_u32, 31, 1 << 17, 0, 0, 4096, 1] {
                    body.extend(number.to_ne_bytes());
                }
                body.resize(64, 0);
            }
            op::LOOKUP if request.get(HEADER..) == Some(b"server\0") => {
                body.extend([PROGRAM, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes));
                body.extend([0; 8]);
                body.extend(self.attributes(PROGRAM));
            }
            op::LOOKUP if request.get(HEADER..) == Some(b"folder\0") => {
                body.extend([FOLDER, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes));
                body.extend([0; 8]);
                body.extend(self.attributes(FOLDER));
            }
            op::GETATTR => {
                body.extend([0; 16]);
                body.extend(self.attributes(node));
            }
            op::OPEN => body.extend([0; 16]),
            op::READ => {
                let from = usize::try_from(u64_at(request, HEADER + 8)).expect("an offset").min(self.program.len());
                let size = usize::try_from(u32_at(request, HEADER + 16)).expect("a size");
                body.extend(self.program[from..].iter().take(size));
            }
            op::RELEASE | op::FLUSH => {}
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => return,
            op::LOOKUP => error = libc::ENOENT,
            _ => error = libc::ENOSYS,
        }
        let mut answer = u32::try_from(16 + body.len()).expect("a size").to_ne_bytes().to_vec();
        answer.extend((-error).to_ne_bytes());
        answer.extend(u64_at(request, 8).to_ne_bytes());
        answer.extend(body);
        // The waiting process may have been killed.
        let _gone = (&self.device).write(&answer);
    }

    /// Returns a `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (size, mode) = if node == PROGRAM { (self.program.len() as u64, 0o100_755) } else { (0, 0o40_755) };
        let mut bytes = Vec::new();
        bytes.extend([node, size, size.div_ceil(512), 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes));
        bytes.extend([0_u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_ne_bytes));
        bytes
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(*bytes[at..].first_chunk().expect("a whole request"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(*bytes[at..].first_chunk().expect("a whole request"))
}
