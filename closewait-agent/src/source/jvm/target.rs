//! Whether a process is a HotSpot JVM that can answer, and whether the signal does what it should.
//!
//! The signal that makes a JVM listen, `SIGQUIT`, ends a program that does not handle it, and others do something of their own at it
//! (nginx ends). So all of this has to be true: the process catches the signal, it has the code of HotSpot, and the thread that handles
//! the signal for HotSpot. With `-Xrs` there is none (`os::initialize_jdk_signal_support`, runtime/os.cpp), and HotSpot listens from its
//! start (`AttachListener::init_at_startup`): what listens already needs no signal.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use closewait_stacks::{
    Mapping,
    live::{self, read_living},
};
use rustix::{
    event::PollFlags,
    io::Errno,
    process::{PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal},
};

use super::{super::stacks::MAX_THREADS, AttachError};
use crate::host::{
    caps::{Capabilities, Capability},
    poll::poll,
    proc,
};

/// Number of descriptors that the process needs to answer: a socket that listens, and one for each client.
const NEEDED_DESCRIPTORS: u64 = 4;
/// Names of the thread that handles signals, as long as the kernel lets them be; JDK 28 shortens them in the middle.
const DISPATCHERS: [&[u8]; 2] = [b"Signal Dispatch", b"Signal ..atcher"];
/// Name of the thread that answers.
const LISTENER: &[u8] = b"Attach Listener";
/// Option that makes HotSpot print its threads at the signal, whatever files there are (`os::signal_thread_entry`, runtime/os.cpp).
const DISABLED: &[u8] = b"-XX:+DisableAttachMechanism";

/// HotSpot JVM that can answer.
pub(super) struct Hotspot {
    pid: u32,
    /// Folder of the process in `/proc`.
    pub(super) folder: PathBuf,
    /// Pid, as the process sees it itself.
    pub(super) inner_pid: u32,
    /// Effective user.
    pub(super) user: u32,
    /// Effective group.
    pub(super) group: u32,
    /// Reason why the signal would do something else.
    signal_refusal: Option<Arc<AttachError>>,
    process: OwnedFd,
}

impl Hotspot {
    /// Examines a process, without doing anything to it.
    pub(super) fn recognize(pid: u32) -> Result<Self, AttachError> {
        let number = proc::number(pid).ok_or(AttachError::Ended)?;
        // From here on the number cannot become another process's unnoticed.
        let process = pidfd_open(number, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => AttachError::Ended,
            error => AttachError::Unreadable { what: "pidfd_open", error: error.into() },
        })?;
        let folder = proc::folder(Path::new("/proc"), pid);
        let status = proc::status(&folder).map_err(AttachError::unreadable("its status"))?;
        let (Some(user), Some(group), Some(inner_pid)) = (status.user, status.group, status.inner_pid) else {
            return Err(AttachError::NotHotspot("its status has no pid or user"));
        };
        let mut target = Self { pid, folder, inner_pid, user, group, signal_refusal: None, process };
        let mappings = live::mappings(pid).map_err(AttachError::unreadable("its mappings"))?;
        let machine = machine(&mappings)?;
        if geteuid().as_raw() != user && !may_become_others() {
            return Err(AttachError::OtherUser { user });
        }
        target.check_runs()?;
        target.check_descriptors()?;
        target.signal_refusal = target.check_signal().and_then(|()| target.check_handling(machine)).err().map(Arc::new);
        target.check_alive()?;
        Ok(target)
    }

    /// Checks that this is the process that started at a time, in nanoseconds since boot, and none that has its number now.
    pub(super) fn check_started(&self, started_ns: u64) -> Result<(), AttachError> {
        let stat = proc::stat(&self.folder).map_err(AttachError::unreadable("its state"))?;
        if stat.started_ns != started_ns {
            return Err(AttachError::Ended);
        }
        // It had not ended when its number was looked up.
        self.check_alive()
    }

    /// Checks that the signal makes it listen.
    pub(super) fn may_be_signaled(&self) -> Result<(), AttachError> {
        self.signal_refusal.clone().map_or(Ok(()), |why| Err(AttachError::NotSignaled(why)))
    }

    /// Sends the signal, if the process still catches it: another program that it has become meanwhile does not, unless it has set a
    /// handler as well (execve(2)).
    pub(super) fn signal(&self) -> Result<(), AttachError> {
        self.check_signal()?;
        match pidfd_send_signal(&self.process, Signal::QUIT) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(AttachError::Ended),
            Err(error) => Err(AttachError::Unreadable { what: "pidfd_send_signal", error: error.into() }),
        }
    }

    /// Waits, or until the process ends.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub(super) fn wait(&self, time: Duration) -> Result<(), AttachError> {
        // The descriptor becomes readable when the last thread ends (`pidfd_poll`, kernel/fork.c at v5.10).
        if poll(self.process.as_fd(), PollFlags::IN, time).contains(PollFlags::IN) {
            return Err(AttachError::Ended);
        }
        Ok(())
    }

    /// Whether `pid` is that of this process.
    pub(super) fn is(&self, pid: Option<u32>) -> bool {
        pid == Some(self.pid)
    }

    fn check_alive(&self) -> Result<(), AttachError> {
        self.wait(Duration::ZERO)
    }

    fn check_signal(&self) -> Result<(), AttachError> {
        let status = proc::status(&self.folder).map_err(AttachError::unreadable("its status"))?;
        let quit = 1_u64 << (libc::SIGQUIT - 1);
        if status.caught.is_none_or(|caught| caught & quit == 0) {
            return Err(AttachError::NotHotspot("it does not handle SIGQUIT"));
        }
        Ok(())
    }

    /// Checks that the process is not stopped or traced (`task_state_array`, fs/proc/array.c at v5.10).
    fn check_runs(&self) -> Result<(), AttachError> {
        let stat = |folder: &Path| proc::stat(folder);
        let lives = |stat: &proc::Stat| !matches!(stat.state, b'Z' | b'X');
        let stat = read_living(&self.folder, lives, stat).map_err(AttachError::unreadable("its state"))?;
        match stat.state {
            b'T' | b't' => Err(AttachError::Stopped),
            b'Z' | b'X' => Err(AttachError::Ended),
            _ => Ok(()),
        }
    }

    /// Checks that the signal is handled as HotSpot does it; `machine` is the path of its code.
    fn check_handling(&self, machine: &str) -> Result<(), AttachError> {
        let threads = proc::thread_names(&self.folder, MAX_THREADS).map_err(AttachError::unreadable("its threads"))?;
        if !threads.iter().any(|name| DISPATCHERS.contains(&name.as_slice())) {
            return Err(AttachError::NotHotspot("it has no thread for signals"));
        }
        // JDK 8 has `lib/amd64/server/libjvm.so`, later ones `lib/server/libjvm.so`.
        let makes_socket_again = machine.rsplit('/').nth(2) == Some("lib");
        if !makes_socket_again && threads.iter().any(|name| name == LISTENER) {
            return Err(AttachError::SocketRemoved);
        }
        let line = proc::command_line(&self.folder).map_err(AttachError::unreadable("its command line"))?;
        let variables = proc::environment(&self.folder).map_err(AttachError::unreadable("its environment"))?;
        let has = |text: &[u8]| text.windows(DISABLED.len()).any(|part| part == DISABLED);
        if has(&line) || has(&variables) { Err(AttachError::Disabled) } else { Ok(()) }
    }

    fn check_descriptors(&self) -> Result<(), AttachError> {
        let open = proc::descriptors(&self.folder).map_err(AttachError::unreadable("its descriptors"))?;
        let limit = proc::open_files_limit(&self.folder).map_err(AttachError::unreadable("its limits"))?;
        match (open, limit) {
            (_, None) => Ok(()),
            (None, Some(_)) => Err(AttachError::UnknownDescriptors),
            (Some(open), Some(limit)) if open.saturating_add(NEEDED_DESCRIPTORS) > limit => {
                Err(AttachError::NoDescriptors { pid: self.pid, open, limit, needed: NEEDED_DESCRIPTORS })
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }
}

/// Returns the start of a process that has the code of HotSpot, in nanoseconds since boot; `None` for other programs.
///
/// # Errors
///
/// If it has ended, or may not be read.
pub(super) fn started(pid: u32) -> io::Result<Option<u64>> {
    let is_hotspot = machine(&live::mappings(pid)?).is_ok();
    let folder = proc::folder(Path::new("/proc"), pid);
    Ok(if is_hotspot { Some(proc::stat(&folder)?.started_ns) } else { None })
}

/// Whether this thread may act as other users: root, and others with the capabilities for it.
fn may_become_others() -> bool {
    let granted = Capabilities::read();
    let has = |capability| granted.is_none_or(|granted| granted.has(capability));
    has(Capability::SetUid) && has(Capability::SetGid)
}

/// Returns the path of HotSpot's code.
fn machine(mappings: &[Mapping]) -> Result<&str, AttachError> {
    fn file(mapping: &Mapping) -> &str {
        mapping.path.rsplit('/').next().unwrap_or_default()
    }
    // A package that was upgraded has deleted the file.
    let is_machine =
        |mapping: &&Mapping| mapping.executable && matches!(file(mapping), "libjvm.so" | "libjvm.so (deleted)");
    let machine = mappings.iter().find(is_machine).ok_or(AttachError::NotHotspot("it has no libjvm.so"))?;
    // OpenJ9 has a libjvm.so, too, and writes a file at the signal.
    if mappings.iter().any(|mapping| file(mapping).starts_with("libj9")) {
        return Err(AttachError::NotHotspot("it is OpenJ9"));
    }
    Ok(&machine.path)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn refused(pid: u32) -> String {
        Hotspot::recognize(pid).err().expect("it is none").to_string()
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.kill().expect("it runs");
            self.0.wait().expect("it ends");
        }
    }

    #[test]
    fn openj9_is_no_hotspot() {
        let library = |path: &str| Mapping { executable: true, path: path.to_owned(), ..Mapping::default() };
        let jvm = library("/opt/jdk/lib/server/libjvm.so (deleted)");
        assert_eq!(machine(std::slice::from_ref(&jvm)).unwrap(), "/opt/jdk/lib/server/libjvm.so (deleted)");
        let why = machine(&[jvm, library("/opt/jdk/lib/default/libj9vm29.so")]).unwrap_err();
        assert_eq!(why.to_string(), "it is no HotSpot JVM: it is OpenJ9");
        assert!(
            machine(&[library("/opt/libjvm.so.1"), Mapping { executable: false, ..library("libjvm.so") }]).is_err()
        );
    }

    #[test]
    fn programs_that_the_signal_would_end_are_refused() {
        let sleeps = Ended(Command::new("sleep").arg("1000").spawn().unwrap());
        assert_eq!(refused(sleeps.0.id()), "it is no HotSpot JVM: it has no libjvm.so");
        assert_eq!(refused(u32::MAX >> 1), "it has ended");
        assert_eq!(refused(0), "it has ended");
    }

    #[test]
    fn a_program_that_handles_the_signal_is_no_jvm_for_that() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap 'exit 7' QUIT; echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = Ended(shell.spawn().unwrap());
        let mut ready = [0];
        io::Read::read_exact(shell.0.stdout.as_mut().unwrap(), &mut ready).unwrap();
        assert_eq!(refused(shell.0.id()), "it is no HotSpot JVM: it has no libjvm.so");
        assert!(shell.0.try_wait().unwrap().is_none(), "and nothing has happened to it");
    }
}
