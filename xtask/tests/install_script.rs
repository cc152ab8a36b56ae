//! `contrib/install/install.sh`, with releases of its own that it downloads by `file://`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/install/install.sh");
const VERSION: &str = "7.8.9";

/// A folder with a release, and one to install into.
struct Release(PathBuf);

impl Release {
    /// Makes a release whose program is a shell script that tells its version.
    fn new(test: &str) -> Self {
        let release = Self(env::temp_dir().join(format!("closewait-install-{}-{test}", std::process::id())));
        let tree = release.0.join("tree").join(release.folder());
        for (file, text, mode) in [
            ("bin/closewait", format!("#!/bin/sh\necho closewait {VERSION}\n"), 0o755),
            ("share/man/man1/closewait.1", "the page\n".to_owned(), 0o644),
            ("share/closewait/hooks/dump", "#!/bin/sh\n".to_owned(), 0o755),
            ("README.md", "not below the prefix\n".to_owned(), 0o644),
        ] {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, text).expect("a file");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        }
        fs::create_dir_all(release.0.join("files")).expect("a folder");
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(release.archive()).arg("-C").arg(release.0.join("tree")).arg(release.folder());
        assert!(tar.status().expect("tar runs").success());
        release.write_sums();
        release
    }

    fn folder(&self) -> String {
        format!("closewait-{VERSION}-linux-{}", env::consts::ARCH)
    }

    fn archive(&self) -> PathBuf {
        self.0.join("files").join(format!("{}.tar.gz", self.folder()))
    }

    fn write_sums(&self) {
        let mut sums = Command::new("sh");
        sums.args(["-c", "sha256sum * >../sums && mv ../sums SHA256SUMS"]).current_dir(self.0.join("files"));
        assert!(sums.status().expect("sh runs").success());
    }

    fn prefix(&self) -> PathBuf {
        self.0.join("prefix")
    }

    /// Runs the script without a terminal.
    fn install(&self, more: &[&str]) -> Output {
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", SCRIPT, "--from", &format!("file://{}", self.0.join("files").display())]);
        command
            .arg("--prefix")
            .arg(self.prefix())
            .args(more)
            .env("TMPDIR", self.0.join("tree"))
            .output()
            .expect("it starts")
    }

    /// Fails unless the script refuses for this reason, and leaves nothing.
    fn refuses(&self, more: &[&str], reason: &str) {
        let output = self.install(more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(reason), "{error}");
        assert!(error.lines().any(|line| line.starts_with("error: ")), "{error}");
        assert!(!self.prefix().exists(), "{reason}: it wrote below the prefix");
        self.is_clean();
    }

    /// Fails if a downloaded file is left.
    fn is_clean(&self) {
        assert_eq!(files(&self.0.join("tree")).iter().filter(|file| !file.starts_with(&self.folder())).count(), 0);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("a folder");
    }
}

/// Paths of all files below a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let output = Command::new("find").args([".", "-type", "f"]).current_dir(folder).output().expect("it starts");
    let found = String::from_utf8(output.stdout).expect("UTF-8");
    let mut found: Vec<_> = found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    found.sort();
    found
}

#[test]
fn it_writes_the_files_that_it_shows_and_no_other() {
    let release = Release::new("writes");
    let output = release.install(&["--yes", "--version", VERSION]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let written = files(&release.prefix());
    assert_eq!(written, ["bin/closewait", "share/closewait/hooks/dump", "share/man/man1/closewait.1"]);
    for file in &written {
        assert!(text.contains(&format!("  {}\n", release.prefix().join(file).display())), "{text}");
    }
    let mode = |file| fs::metadata(release.prefix().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("bin/closewait"), mode("share/man/man1/closewait.1")], [0o755, 0o644]);
    assert!(
        text.contains(&format!("closewait {VERSION} for ")) && text.contains("signature was not verified"),
        "{text}"
    );
    release.is_clean();
}

#[test]
fn without_consent_it_writes_nothing() {
    let release = Release::new("asks");
    release.refuses(&[], "no terminal to ask at");
    let output = release.install(&["--dry-run"]);
    assert!(output.status.success() && !release.prefix().exists());
    assert!(String::from_utf8_lossy(&output.stdout).contains("bin/closewait"));
}

#[test]
fn a_changed_archive_is_refused() {
    let release = Release::new("changed");
    let mut bytes = fs::read(release.archive()).unwrap();
    bytes.push(0);
    fs::write(release.archive(), bytes).unwrap();
    release.refuses(&["--yes"], "the checksum of closewait-");
}

#[test]
fn what_is_no_release_is_refused() {
    let release = Release::new("none");
    release.refuses(&["--yes", "--version", "7.8.8"], "has version 7.8.9, and not 7.8.8");
    release.refuses(&["--yes", "--version", "../x"], "is no version");
    release.refuses(&["--yes", "--key"], "--key has no value");
    fs::write(release.0.join("files/SHA256SUMS"), "0  closewait-7.8.9-linux-other.tar.gz\n").unwrap();
    release.refuses(&["--yes"], "SHA256SUMS names no archive for ");
    fs::remove_file(release.0.join("files/SHA256SUMS")).unwrap();
    release.refuses(&["--yes"], "cannot download file://");
}

#[test]
fn a_signature_of_another_key_is_refused() {
    let release = Release::new("key");
    let has_minisign = env::split_paths(&env::var_os("PATH").unwrap()).any(|folder| folder.join("minisign").is_file());
    if !tests_support::engine::has_engine("minisign", has_minisign) {
        return;
    }
    let key = |name: &str| release.0.join(name).display().to_string();
    let minisign = |arguments: &[&str]| {
        let output = Command::new("minisign").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["ours", "other"] {
        minisign(&["-G", "-W", "-p", &key(name), "-s", &key(&format!("{name}.secret"))]);
    }
    let sums = key("files/SHA256SUMS");
    release.refuses(&["--yes", "--key", &key("ours")], "cannot download");
    minisign(&["-S", "-m", &sums, "-s", &key("ours.secret")]);
    release.refuses(&["--yes", "--key", &key("other")], "is not signed with the key");
    let output = release.install(&["--yes", "--key", &key("ours")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("and signed with "));
}
