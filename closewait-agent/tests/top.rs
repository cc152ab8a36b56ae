//! `closewait top` on a pseudo-terminal, and without one. The screens themselves have tests beside the view.

mod terminal;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{LocalModes, tcgetattr},
};
use tests_support::clock::poll_until;
use vt100::Screen;

use terminal::{OnTerminal, PATIENCE, resize};

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/{name}.recording"))
}

/// Starts `closewait top` on a terminal.
fn start(arguments: &[&str], file: &Path, size: (u16, u16)) -> OnTerminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_closewait"));
    // A job of a shell is a group too.
    command.process_group(0);
    start_by(command, arguments, file, size)
}

fn start_by(mut command: Command, arguments: &[&str], file: &Path, size: (u16, u16)) -> OnTerminal {
    command.arg("top").args(arguments).arg("--replay").arg(file);
    OnTerminal::start(command, size)
}

impl OnTerminal {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a signal");
    }

    /// Whether the terminal is as a shell leaves it: echo and lines.
    fn is_restored(&self) -> bool {
        let modes = tcgetattr(&self.slave).expect("modes").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("stat");
        stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).expect("a state")
    }

    fn wait_until_stopped(&self) {
        assert!(poll_until(PATIENCE, || self.state() == 'T'), "it is not stopped");
    }

    /// Waits for the end, and checks that it restored the terminal.
    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        poll_until(PATIENCE, || {
            status = self.child.try_wait().expect("the child");
            status.is_some()
        });
        let status = status.expect("an end");
        self.wait("the normal screen", |screen| !screen.alternate_screen() && !screen.hide_cursor());
        assert!(self.is_restored());
        status
    }
}

fn first_row(screen: &Screen) -> String {
    screen.rows(0, screen.size().1).next().unwrap_or_default()
}

#[test]
fn a_terminal_shows_groups_and_is_restored() {
    let mut top = start(&[], &recording("tomcat-pinned"), (100, 30));
    top.wait("the first row", |screen| first_row(screen).starts_with("closewait top  "));
    top.wait("the full screen", |screen| screen.alternate_screen() && screen.hide_cursor());
    top.wait_for("▶");
    assert!(!top.is_restored(), "keys come one by one");
    top.press("?");
    top.wait_for("the selection stays on it when rows move");
    top.press("\x1b");
    top.wait("groups", |screen| screen.contents().contains("▶"));
    top.press("\r");
    top.wait_for("sockets of java");
    top.press("q");
    top.wait_for("WHO");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn a_recording_is_moved_through_with_keys() {
    let mut top = start(&["--at", "0s"], &recording("tomcat-pinned"), (100, 30));
    top.wait("the start", |screen| first_row(screen).starts_with("closewait top  0s of "));
    top.press("t3s\r");
    top.wait("the time", |screen| first_row(screen).starts_with("closewait top  3s of "));
    top.press("\x1b[C");
    top.wait("a step", |screen| first_row(screen).starts_with("closewait top  4s of "));
    top.press("\x1b[D\x1b[D");
    top.wait("steps back", |screen| first_row(screen).starts_with("closewait top  2s of "));
    top.press(" ");
    top.wait("it plays", |screen| first_row(screen).contains("playing"));
    top.wait("a second later", |screen| first_row(screen).starts_with("closewait top  3s of "));
    top.signal(Signal::INT);
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn an_unfinished_key_sequence_does_not_stop_the_screen() {
    let mut top = start(&["--at", "0s"], &recording("tomcat-pinned"), (100, 30));
    top.wait_for("closewait top  0s of ");
    top.press(" ");
    top.wait("it plays", |screen| first_row(screen).contains("playing"));
    // Alt+[ is the begin of the sequences of other keys.
    top.press("\x1b[");
    top.wait("it plays on", |screen| first_row(screen).starts_with("closewait top  3s of "));
    top.signal(Signal::TERM);
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn it_stops_continues_and_fits_another_size() {
    let mut top = start(&[], &recording("tomcat-pinned"), (100, 30));
    top.wait_for("▶");
    top.signal(Signal::TSTP);
    top.wait_until_stopped();
    top.wait("the normal screen", |screen| !screen.alternate_screen());
    assert!(top.is_restored(), "the shell has the terminal");
    top.signal(Signal::CONT);
    top.wait("the full screen again", |screen| screen.alternate_screen() && screen.contents().contains("▶"));
    top.parser.lock().expect("the parser").screen_mut().set_size(10, 40);
    resize(&top.slave, 40, 10);
    top.signal(Signal::WINCH);
    top.wait("the small screen", |screen| {
        let last = screen.rows(0, 40).last().unwrap_or_default();
        last.starts_with("? help") && screen.contents().contains("▶")
    });
    top.signal(Signal::TERM);
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn it_goes_on_if_no_shell_could_continue_it() {
    let mut leader = Command::new("setsid");
    leader.arg(env!("CARGO_BIN_EXE_closewait"));
    let mut top = start_by(leader, &["--at", "0s"], &recording("tomcat-pinned"), (100, 30));
    top.wait_for("closewait top  0s of ");
    top.signal(Signal::TSTP);
    top.press("t3s\r");
    top.wait("the time", |screen| first_row(screen).starts_with("closewait top  3s of ") && screen.alternate_screen());
    top.signal(Signal::TERM);
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn a_broken_recording_leaves_a_readable_terminal() {
    let mut top = start(&[], Path::new("/nowhere/recording"), (100, 30));
    assert_eq!(top.end().code(), Some(1));
    top.wait_for("opening /nowhere/recording failed");
}

/// Returns the screen that `top --once` prints.
fn once(arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_closewait"));
    command.arg("top").args(arguments).arg("--replay").arg(file).stdin(Stdio::null());
    let output = command.env("COLUMNS", "100").env("LINES", "30").output().expect("closewait");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_same_recording_gives_the_same_screen() {
    let folder = recording("x");
    let mut count = 0;
    for entry in fs::read_dir(folder.parent().expect("a folder")).expect("recordings") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "recording") {
            continue;
        }
        count += 1;
        let screen = once(&[], &path);
        assert_eq!(screen, once(&["--once"], &path), "{}", path.display());
        assert!(screen.starts_with("closewait top  "), "{screen}");
    }
    assert!(count > 10, "there are recordings");
}

#[test]
fn colors_are_printed_only_if_wanted() {
    let file = recording("tomcat-pinned");
    assert!(!once(&[], &file).contains('\x1b'));
    assert!(once(&["--color", "always"], &file).contains("\x1b["));
}
