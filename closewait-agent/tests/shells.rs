//! The scripts of `closewait completions`, each in its own shell.
//!
//! `.ci/packages shells` installs the shells. CI sets `CLOSEWAIT_REQUIRE_SHELLS=1`: then a missing one is a failure. Without that
//! variable the test says that it did not run.

mod terminal;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::termios::{LocalModes, tcgetattr};
use tests_support::{clock::poll_until, engine::has_shell};

use terminal::{OnTerminal, PATIENCE};

/// Script of Debian's and Ubuntu's package.
const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";
/// File that exists in the working folder of the shells.
const FILE: &str = "here.toml";

/// Beginning of a command line, and the words that a shell offers for the last one.
const OFFERED: [(&str, &[&str]); 11] = [
    ("closewait li", &["list"]),
    ("closewait config e", &["example"]),
    ("closewait run --rec", &["--record", "--record-max"]),
    ("closewait list --output ", &["text", "json"]),
    ("closewait report --output h", &["html"]),
    ("closewait run --hook cl", &["classic"]),
    ("closewait list --verdict never", &["never_accepted"]),
    ("closewait explain owner_st", &["owner_stopped"]),
    ("closewait completions fi", &["fish"]),
    ("closewait run --config he", &[FILE]),
    ("closewait replay he", &[FILE]),
];

/// Home of a shell: an empty folder with a file, in which the shell runs.
struct Home(PathBuf);

impl Home {
    fn new(shell: &str) -> Self {
        let home = env::temp_dir().join(format!("closewait-shells-{}-{shell}", std::process::id()));
        fs::create_dir_all(&home).expect("a folder");
        let home = Self(home);
        home.write(FILE, "");
        home
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Writes the script of a shell to a file.
    fn install(&self, shell: &str, file: &str) {
        let output = Command::new(env!("CARGO_BIN_EXE_closewait")).args(["completions", shell]).output();
        let output = output.expect("closewait");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        self.write(file, &String::from_utf8(output.stdout).expect("UTF-8"));
    }

    /// Returns a command that runs in this folder, and knows nothing of the user's settings.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = Path::new(env!("CARGO_BIN_EXE_closewait")).parent().expect("a folder");
        let path = env::var_os("PATH").unwrap_or_default();
        let path: OsString =
            env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path))).expect("PATH");
        command.env_clear().env("PATH", path).env("HOME", &self.0).env("LC_ALL", "C.UTF-8").current_dir(&self.0);
        command
    }

    /// Types into a new interactive shell, and waits until the screen, in words, meets a condition.
    fn types(&self, shell: &[&str], keys: &str, what: &str, condition: impl Fn(&[&str]) -> bool) {
        // The shell gets the terminal as its controlling one.
        let mut command = self.command("setsid");
        command.arg("--ctty").args(shell).env("ZDOTDIR", &self.0);
        let mut terminal = OnTerminal::start(command, (120, 50));
        terminal.wait_for("ready> ");
        // Now the line editor reads the keys, one by one.
        let reads_keys = || !tcgetattr(&terminal.slave).expect("modes").local_modes.contains(LocalModes::ICANON);
        assert!(poll_until(PATIENCE, reads_keys), "{shell:?} has no line editor");
        terminal.press(keys);
        terminal.wait(what, |screen| condition(&screen.contents().split_whitespace().collect::<Vec<_>>()));
    }

    /// Completes command lines in an interactive shell, which lists all words that fit at once.
    fn complete_all(&self, shell: &[&str]) {
        for (line, offered) in OFFERED {
            // The line itself is on the screen, too: nothing that is expected is in it.
            let what = format!("{line:?} offers {offered:?}");
            self.types(shell, &format!("{line}\t"), &what, |words| offered.iter().all(|word| words.contains(word)));
        }
        self.types(shell, "closewait \t", "all commands", |words| {
            ["status", "run", "doctor", "completions"].iter().all(|word| words.contains(word))
                && !words.contains(&"hooks")
        });
        // A duration is not the name of a file. The mark shows that the shell has read the keys before it.
        self.types(shell, "closewait run --stuck-after he\tMARK", "no file for a duration", |words| {
            words.contains(&"heMARK")
        });
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _removed: std::io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

fn is_installed(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !has_shell("bash-completion", is_installed("bash") && Path::new(BASH_COMPLETION).is_file()) {
        return;
    }
    let home = Home::new("bash");
    // bash-completion loads the script from there when it is needed.
    home.install("bash", ".local/share/bash-completion/completions/closewait");
    home.write("rc", &format!("PS1='ready> '\nbind 'set show-all-if-ambiguous on'\n. {BASH_COMPLETION}\n"));
    home.complete_all(&["bash", "--noprofile", "--rcfile", "rc", "-i"]);
}

#[test]
fn zsh_completes_commands_options_and_values() {
    if !has_shell("zsh", is_installed("zsh")) {
        return;
    }
    let home = Home::new("zsh");
    home.install("zsh", "site-functions/_closewait");
    home.write(
        ".zshrc",
        "PROMPT='ready> '\nunsetopt list_ambiguous\nfpath=($ZDOTDIR/site-functions $fpath)\nautoload -Uz compinit\ncompinit -u\n",
    );
    home.complete_all(&["zsh", "--no-globalrcs", "-i"]);
}

#[test]
fn every_shell_reads_the_hook_that_dumps_stacks_and_shellcheck_has_no_complaint() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/hooks/dump");
    let is_there =
        |program| Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    for (program, arguments) in [("sh", &["-n"][..]), ("busybox", &["sh", "-n"]), ("shellcheck", &["--shell=sh"])] {
        if has_shell(program, is_there(program)) {
            let output = Command::new(program).args(arguments).arg(script).output().expect("it runs");
            assert!(output.status.success(), "{program}: {output:?}");
        }
    }
}

#[test]
fn fish_completes_commands_options_and_values() {
    if !has_shell("fish", is_installed("fish")) {
        return;
    }
    let home = Home::new("fish");
    home.install("fish", ".config/fish/completions/closewait.fish");
    let offers = |line: &str| {
        let mut fish = home.command("fish");
        // fish prints what it would offer, one word and its description per line.
        fish.arg("--command").arg(format!("complete --do-complete '{line}'")).stdin(Stdio::null());
        let output = fish.output().expect("fish");
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(|line| line.split('\t').next().unwrap_or(line).to_owned()).collect::<Vec<_>>()
    };
    for (line, offered) in OFFERED {
        let mut words = offers(line);
        words.sort_unstable();
        let mut offered = offered.to_vec();
        offered.sort_unstable();
        assert_eq!(words, offered, "{line}");
    }
    let commands = offers("closewait ");
    assert!(
        ["status", "run", "doctor", "completions"].iter().all(|command| commands.iter().any(|word| word == command))
    );
    assert!(!commands.iter().any(|word| word == "hooks"), "{commands:?}");
    assert_eq!(offers("closewait run --stuck-after he"), [""; 0], "a duration is not the name of a file");
}
