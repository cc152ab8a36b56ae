//! Programs on a pseudo-terminal.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tests_support::clock::poll_until;
use vt100::{Parser, Screen};

/// Maximum time until the screen has an expected content: far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Program on a terminal, which is not its controlling one: signals come only from the test.
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    master: File,
    /// The other end, to read its modes.
    pub(crate) slave: OwnedFd,
    pub(crate) parser: Arc<Mutex<Parser>>,
}

impl OnTerminal {
    /// Starts a program on a terminal with a number of columns and rows.
    pub(crate) fn start(mut command: Command, (columns, rows): (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let path = ptsname(&master, Vec::new()).expect("ptsname");
        let open = || {
            let path = path.to_str().expect("a path");
            let flags = OFlags::NOCTTY.bits().cast_signed();
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).expect("the terminal")
        };
        let slave = OwnedFd::from(open());
        resize(&slave, columns, rows);
        command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("COLUMNS").env_remove("LINES");
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().expect("the program");
        let parser = Arc::new(Mutex::new(Parser::new(rows, columns, 0)));
        let (to, mut from) = (Arc::clone(&parser), File::from(master.try_clone().expect("a descriptor")));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the test closes the other end.
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                to.lock().expect("the parser").process(&bytes[..read]);
            }
        });
        Self { child, master: File::from(master), slave, parser }
    }

    /// Waits until the screen meets a condition.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Screen) -> bool) {
        let met = poll_until(PATIENCE, || condition(self.parser.lock().expect("the parser").screen()));
        assert!(met, "{what}:\n{}", self.parser.lock().expect("the parser").screen().contents());
    }

    /// Waits until the screen contains a text.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait(text, |screen| screen.contents().contains(text));
    }

    /// Sends keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("keys");
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ended: std::io::Result<()> = self.child.kill();
        let _reaped: std::io::Result<ExitStatus> = self.child.wait();
    }
}

/// Changes the size of a terminal.
pub(crate) fn resize(slave: &OwnedFd, columns: u16, rows: u16) {
    tcsetwinsize(slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
}
