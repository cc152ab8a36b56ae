//! Releases that the script downloads by `file://`, and folders to install into.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/install/install.sh");
pub(crate) const VERSION: &str = "7.8.9";

/// Programs that the script needs, without one that downloads.
pub(crate) const PROGRAMS: [&str; 23] = [
    "cat",
    "chmod",
    "cp",
    "dirname",
    "env",
    "find",
    "grep",
    "gzip",
    "head",
    "id",
    "mkdir",
    "mktemp",
    "mv",
    "od",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "tail",
    "tar",
    "tr",
    "uname",
];

/// Entry of an archive: the name below its folder, the type, the target of a link or the content, and the permissions.
pub(crate) type ArchiveEntry = (&'static str, EntryType, String, u32);

/// A folder with a release, and one to install into.
pub(crate) struct Release(pub(crate) PathBuf);

impl Release {
    /// Makes a release whose program is a shell script that prints its version, and leaves the file `ran`.
    pub(crate) fn new(test: &str) -> Self {
        let release = Self(env::temp_dir().join(format!("closewait-install-{}-{test}", std::process::id())));
        for folder in ["files", "programs", "tmp"] {
            fs::create_dir_all(release.0.join(folder)).expect("a folder");
        }
        release.pack(&format!("echo closewait {VERSION}"), &[]);
        release
    }

    /// Replaces the archive by one whose program does this, with more entries, and computes its checksum.
    pub(crate) fn pack(&self, program: &str, more: &[ArchiveEntry]) {
        let program = format!("#!/bin/sh\n: >'{}'\n{program}\n", self.0.join("ran").display());
        let mut archive =
            Builder::new(GzEncoder::new(fs::File::create(self.archive()).expect("a file"), Compression::fast()));
        let regular = [
            ("bin/closewait", EntryType::Regular, program, 0o755),
            ("share/man/man1/closewait.1", EntryType::Regular, "the page\n".to_owned(), 0o644),
            ("share/closewait/hooks/dump", EntryType::Regular, "#!/bin/sh\n".to_owned(), 0o755),
            ("README.md", EntryType::Regular, "not below the prefix\n".to_owned(), 0o644),
        ];
        for (name, kind, content, mode) in regular.iter().chain(more) {
            // Absolute names stay what they are. The crate refuses what a hostile archive has, so the bytes are set here.
            let path = if name.starts_with('/') { (*name).to_owned() } else { format!("{}/{name}", self.folder()) };
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            let mut header = Header::new_gnu();
            let raw = header.as_gnu_mut().expect("a header of GNU tar");
            raw.name[..path.len()].copy_from_slice(path.as_bytes());
            if is_link {
                raw.linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if is_link { "" } else { content.as_str() };
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(data.len() as u64);
            header.set_cksum();
            archive.append(&header, data.as_bytes()).expect("an entry");
        }
        archive.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush()).expect("an archive");
        self.write_sums();
    }

    pub(crate) fn folder(&self) -> String {
        format!("closewait-{VERSION}-linux-{}", env::consts::ARCH)
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.0.join("files").join(format!("{}.tar.gz", self.folder()))
    }

    pub(crate) fn sums(&self) -> PathBuf {
        self.0.join("files/SHA256SUMS")
    }

    fn write_sums(&self) {
        let mut sums = Command::new("sh");
        sums.args(["-c", "sha256sum *.tar.gz >SHA256SUMS"]).current_dir(self.0.join("files"));
        assert!(sums.status().expect("sh runs").success());
    }

    pub(crate) fn prefix(&self) -> PathBuf {
        self.0.join("prefix")
    }

    /// Whether the program of the release has run.
    pub(crate) fn has_run(&self) -> bool {
        self.0.join("ran").exists()
    }

    /// Makes a program, a shell script, that the script finds before that of the system.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.0.join("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    /// Adds the programs of the system that the script needs, for a PATH without all others.
    pub(crate) fn only_needed(&self) {
        for name in PROGRAMS {
            let found = find(name).unwrap_or_else(|| panic!("there is no {name}"));
            symlink(found, self.0.join("programs").join(name)).expect("a link");
        }
    }

    /// Returns a run of the script without a terminal: by this shell, with this PATH behind the programs of the release.
    pub(crate) fn script(&self, shell: &[&str], path: &str) -> Command {
        let mut command = Command::new(find("setsid").expect("setsid"));
        let programs = self.0.join("programs");
        command
            .arg("--wait")
            .args(shell)
            .arg(SCRIPT)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("TMPDIR", self.0.join("tmp"))
            .env_remove("SUDO_USER");
        command
    }

    /// Runs the script, with the release as its source and without a terminal.
    pub(crate) fn install(&self, more: &[&str]) -> Output {
        self.install_into(&self.prefix(), more)
    }

    pub(crate) fn install_into(&self, prefix: &Path, more: &[&str]) -> Output {
        let mut command = self.script(&["sh"], &env::var("PATH").expect("PATH"));
        let from = format!("file://{}", self.0.join("files").display());
        command.args(["--from", &from, "--prefix"]).arg(prefix).args(more).output().expect("it starts")
    }

    /// Runs the script by the shell and with all programs of busybox; `None`: it is not installed.
    pub(crate) fn install_with_busybox(&self) -> Option<Output> {
        let busybox = find("busybox");
        if !tests_support::engine::has_shell("busybox", busybox.is_some()) {
            return None;
        }
        for name in PROGRAMS {
            let link = self.0.join("programs").join(name);
            if !link.is_symlink() {
                symlink(busybox.as_ref()?, link).expect("a link");
            }
        }
        let mut script = self.script(&["sh"], "/nonexistent");
        let from = format!("file://{}/files", self.0.display());
        let output =
            script.args(["--from", &from, "--yes", "--prefix"]).arg(self.prefix()).output().expect("it starts");
        for name in PROGRAMS {
            fs::remove_file(self.0.join("programs").join(name)).expect("a link");
        }
        Some(output)
    }

    /// Fails unless the script refuses for this reason, and leaves nothing.
    pub(crate) fn refuses(&self, more: &[&str], reason: &str) {
        self.has_refused(&self.install(more), reason);
    }

    /// Fails unless a run has refused for this reason, printed no control characters, and left nothing.
    pub(crate) fn has_refused(&self, output: &Output, reason: &str) {
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{error}");
        assert!(error.lines().any(|line| line.starts_with("error: ")), "{error}");
        for printed in [&error, &text(&output.stdout)] {
            assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
        }
        assert!(!self.prefix().exists(), "{reason}: it wrote below the prefix");
        self.is_clean();
    }

    /// Fails if a downloaded file is left.
    pub(crate) fn is_clean(&self) {
        assert_eq!(files(&self.0.join("tmp")), [""; 0]);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("a folder");
    }
}

/// Returns where a program of the system is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

pub(crate) fn text(printed: &[u8]) -> String {
    String::from_utf8_lossy(printed).into_owned()
}

/// Paths of all files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let output = Command::new("find").args([".", "-type", "f"]).current_dir(folder).output().expect("it starts");
    let found = String::from_utf8(output.stdout).expect("UTF-8");
    let mut found: Vec<_> = found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    found.sort();
    found
}
