//! `contrib/install/install.sh`, with releases of its own that it downloads by `file://`.

mod download;
mod hostile;
mod release;

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    path::Path,
    process::Command,
};

use release::{Release, SCRIPT, VERSION, files, find, text};

#[test]
fn it_writes_the_files_that_it_shows_and_no_other() {
    for (name, shell) in [("sh", &["sh"][..]), ("bash", &["bash", "--posix"]), ("busybox", &["busybox", "sh"])] {
        if name == "busybox" && !tests_support::engine::has_shell(name, find(name).is_some()) {
            continue;
        }
        let release = Release::new(&format!("writes-{name}"));
        let from = format!("file://{}", release.0.join("files").display());
        let mut script = release.script(shell, &env::var("PATH").unwrap());
        script.args(["--from", &from, "--yes", "--version", VERSION, "--prefix"]).arg(release.prefix());
        let output = script.output().unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success() && release.has_run(), "{name}: {shown}{}", text(&output.stderr));
        let written = files(&release.prefix());
        assert_eq!(written, ["bin/closewait", "share/closewait/hooks/dump", "share/man/man1/closewait.1"]);
        for file in &written {
            assert!(shown.contains(&format!("  {}\n", release.prefix().join(file).display())), "{shown}");
        }
        let mode = |file| fs::metadata(release.prefix().join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("bin/closewait"), mode("share/man/man1/closewait.1")], [0o755, 0o644]);
        assert!(shown.contains(&format!("closewait {VERSION} for ")), "{shown}");
        assert!(shown.contains("signature was not verified"), "{shown}");
        release.is_clean();
    }
}

#[test]
fn without_consent_it_writes_nothing_and_runs_nothing() {
    let release = Release::new("asks");
    release.refuses(&[], "no terminal to ask at");
    let output = release.install(&["--dry-run"]);
    assert!(output.status.success() && !release.prefix().exists());
    assert!(text(&output.stdout).contains("bin/closewait"));
    assert!(!release.has_run(), "it ran what it had downloaded");
}

#[test]
fn a_program_that_does_not_run_or_is_another_one_is_not_installed() {
    let release = Release::new("runs");
    release.pack("echo 'no such instruction\u{1b}[2J' >&2; exit 3", &[]);
    release.refuses(&["--yes"], "does not run here; nothing was installed");
    release.pack("printf 'closewait 7.8.8\\n'", &[]);
    release.refuses(&["--yes"], "is not closewait 7.8.9; nothing was installed");
    // As of a program that hangs.
    release.program("timeout", "exit 124");
    release.refuses(&["--yes"], "does not run here; nothing was installed");
}

#[test]
fn a_prefix_is_used_and_shown_as_it_is() {
    let release = Release::new("prefix");
    for name in ["a&b", "a|b", r"a\1", "a b", "it's", "größe", "$HOME", "*"] {
        let prefix = release.0.join("in").join(name);
        let output = release.install_into(&prefix, &["--yes"]);
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        assert_eq!(files(&prefix).len(), 3, "{name}");
        assert!(shown.contains(&format!("  {}/bin/closewait\n", prefix.display())), "{shown}");
        // A shell reads the command as it was meant.
        let command = shown.lines().find_map(|line| line.strip_suffix(" doctor")).unwrap().replacen("sudo ", "", 1);
        let printed = Command::new("sh").arg("-c").arg(command).output().unwrap();
        assert_eq!(text(&printed.stdout), format!("closewait {VERSION}\n"), "{shown}");
    }
}

#[test]
fn a_prefix_that_would_move_the_cursor_is_wrong_usage() {
    let release = Release::new("control");
    for odd in ["a\nb", "a\n", "a\u{1b}[2Jb", "a\u{7f}", "a\u{9b}b", "\t"] {
        let output = release.install_into(&release.prefix().join(odd), &["--yes"]);
        release.has_refused(&output, "the value of --prefix has control characters");
        assert_eq!(output.status.code(), Some(2));
    }
    release.refuses(&["--\u{1b}[2J"], "there is no option --?[2J");
}

#[test]
fn the_printed_command_is_one_that_sudo_finds() {
    let release = Release::new("sudo");
    let bin = release.prefix().join("bin");
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    let commands = |user: &str, sudo_user: &str| {
        release.program("id", &format!("echo {user}"));
        let mut script = release.script(&["sh"], &path);
        script.args(["--from", &format!("file://{}/files", release.0.display()), "--yes", "--prefix"]);
        let output = script.arg(release.prefix()).env("SUDO_USER", sudo_user).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        let (_files, next) = shown.split_once("Installed").unwrap();
        next.lines().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // Folders that only the user's PATH has are unknown to sudo.
    let absolute = format!("  sudo {}/closewait", bin.display());
    assert_eq!(commands("1000", ""), [format!("{absolute} doctor"), absolute]);
    assert_eq!(commands("0", ""), ["  closewait doctor", "  closewait"]);
    assert_eq!(commands("0", "me"), ["  sudo closewait doctor", "  sudo closewait"]);
}

#[test]
fn a_folder_without_permission_to_run_programs_is_named() {
    let release = Release::new("noexec");
    // As on a file system with noexec: what is made there cannot be run.
    release.program("chmod", ":");
    release.refuses(&["--yes"], "its file system is probably mounted with noexec");
    fs::remove_file(release.0.join("programs/chmod")).unwrap();
    fs::remove_dir(release.0.join("tmp")).unwrap();
    let output = release.install(&["--yes"]);
    fs::create_dir(release.0.join("tmp")).unwrap();
    release.has_refused(&output, "cannot make a folder for the download");
    assert!(text(&output.stderr).contains("TMPDIR="));
}

#[test]
fn a_write_that_fails_leaves_the_old_version_and_says_why() {
    let release = Release::new("fails");
    let old = release.prefix().join("bin/closewait");
    fs::create_dir_all(release.prefix().join("share/man/man1/closewait.1")).unwrap();
    fs::create_dir_all(release.prefix().join("bin")).unwrap();
    fs::write(&old, "old").unwrap();
    let output = release.install(&["--yes"]);
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("closewait.1 is a folder\nerror: cannot write all"), "{error}");
    assert_eq!(files(&release.prefix()), ["bin/closewait"]);
    assert_eq!(fs::read_to_string(old).unwrap(), "old");
    let file = release.prefix().join("bin/closewait/x");
    let output = release.install_into(&file, &["--yes"]);
    assert!(text(&output.stderr).contains("bin/closewait is no folder"), "{}", text(&output.stderr));
    // The kernel makes no folders there. Without root, the script asks sudo.
    release.program("sudo", "\"$@\"");
    let output = release.install_into("/proc/closewait".as_ref(), &["--yes"]);
    assert!(text(&output.stderr).contains("error: cannot write all files to /proc/closewait"));
}

#[test]
fn a_folder_that_other_users_can_change_is_refused() {
    let release = Release::new("others");
    let shared = release.0.join("shared");
    let refused = |prefix: &Path, named: &Path| {
        let output = release.install_into(prefix, &["--yes"]);
        release.has_refused(&output, &format!("other users can change {}, and", named.display()));
    };
    let set_mode = |folder: &Path, mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    let (prefix, bin) = (shared.join("prefix"), shared.join("prefix/bin"));
    for (writable, prefix) in [(&shared, &shared), (&shared, &prefix), (&prefix, &prefix), (&bin, &prefix)] {
        fs::create_dir_all(writable).unwrap();
        set_mode(writable, 0o777);
        refused(prefix, writable);
        // With the sticky bit, only the owner of an entry may replace it.
        set_mode(writable, 0o1777);
    }
    // A folder of another user, and a link of theirs to a good one.
    let is_root = fs::metadata(&shared).unwrap().uid() == 0;
    let give = |path: &Path| match is_root {
        true => lchown(path, Some(65_534), None).unwrap(),
        // To another user, everything here is of another user.
        false => release.program("id", "echo 4242"),
    };
    let link = shared.join("link");
    symlink(release.0.join("tmp"), &link).unwrap();
    give(&link);
    if is_root {
        refused(&link, &link);
    }
    give(&prefix);
    let output = release.install_into(&prefix, &["--yes"]);
    release.has_refused(&output, "other users can change ");
}

#[test]
fn every_shell_reads_it_and_shellcheck_has_no_complaint() {
    for (program, arguments) in [("sh", &["-n"][..]), ("busybox", &["sh", "-n"]), ("shellcheck", &["--shell=sh"])] {
        if program == "sh" || tests_support::engine::has_shell(program, find(program).is_some()) {
            let output = Command::new(program).args(arguments).arg(SCRIPT).output().unwrap();
            assert!(output.status.success(), "{program}: {}{}", text(&output.stdout), text(&output.stderr));
        }
    }
}
