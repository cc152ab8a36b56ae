//! Configuration files, read with limits: any of them may be the wrong kind of file, or changeable by other users.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::problem::{ConfigError, ConfigProblem, TextPosition, WrongValue};
use crate::host::{
    foreign_writer::{CheckError, ForeignWriter, foreign_writer},
    in_time::{START_PATIENCE, call, in_time},
};
use closewait_engine::text::harmless_path;

/// Maximum size of a file, bytes.
const MAX_BYTES: usize = 64 << 10;
/// Maximum number of files in conf.d.
const MAX_FILES: usize = 64;

/// Files to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigFiles {
    /// `closewait.toml` and `conf.d/*.toml` in this folder, as far as they exist.
    Folder(PathBuf),
    /// This file, which has to exist.
    One(PathBuf),
}

/// Contents of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigText {
    /// Path that names the file in messages.
    pub path: PathBuf,
    /// Text.
    pub text: String,
}

impl ConfigText {
    /// Creates a text from the contents of a file.
    ///
    /// # Errors
    ///
    /// If they are longer than 64 KiB, or not UTF-8.
    pub fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self, ConfigProblem> {
        if bytes.len() > MAX_BYTES {
            let what = format!("the file is larger than {} KiB", MAX_BYTES >> 10);
            return Err(ConfigProblem::of_file(&path, what, "check that it is a configuration file of closewait"));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
                let position = TextPosition::of(&before, before.len());
                let wrong = WrongValue::new("this is not UTF-8", "save the file in this encoding");
                Err(ConfigProblem::in_file(&path, position, wrong))
            }
        }
    }
}

impl ConfigFiles {
    /// Reads the files, in the order of their precedence, the lowest first.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or another user can change it: whoever writes it chooses programs that run with the
    /// agent's privileges. Also if the file system does not answer within two seconds.
    pub fn read(&self) -> Result<Vec<ConfigText>, ConfigError> {
        let files = self.clone();
        let path = self.path();
        in_time(path, START_PATIENCE, move |_path| files.read_and_wait(), drop).unwrap_or_else(|why| {
            let hint = "check its file system, or put the file on another one";
            Err(ConfigError(vec![ConfigProblem::of_file(path, why.to_string(), hint)]))
        })
    }

    /// Returns the path of the file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::One(path) => path,
        }
    }

    /// Reads the files. Waits for their file system.
    fn read_and_wait(&self) -> Result<Vec<ConfigText>, ConfigError> {
        let paths = match self {
            Self::One(path) => Ok(vec![path.clone()]),
            Self::Folder(folder) => paths_in(folder).map_err(|problem| ConfigError(vec![problem])),
        };
        let (mut texts, mut problems) = (Vec::new(), Vec::new());
        for path in paths? {
            match read_file(&path) {
                Ok(text) => texts.push(text),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(texts) } else { Err(ConfigError(problems)) }
    }
}

/// Returns the files of the folder that exist, in the order of their precedence.
fn paths_in(folder: &Path) -> Result<Vec<PathBuf>, ConfigProblem> {
    let mut paths = Vec::new();
    let main = folder.join("closewait.toml");
    call("lstat");
    match fs::symlink_metadata(&main) {
        Ok(_) => paths.push(main),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&main, "lstat", &error)),
    }
    let more = folder.join("conf.d");
    call("getdents64");
    let entries = match fs::read_dir(&more) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(paths),
        Err(error) => return Err(failed(&more, "opening the folder", &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed(&more, "getdents64", &error))?.file_name();
        let bytes = name.as_encoded_bytes();
        if !bytes.starts_with(b".") && bytes.ends_with(b".toml") {
            names.push(name);
        }
        if names.len() > MAX_FILES {
            let what = format!("the folder has more than {MAX_FILES} files *.toml");
            return Err(ConfigProblem::of_file(&more, what, "merge some of them"));
        }
    }
    names.sort_unstable();
    paths.extend(names.into_iter().map(|name| more.join(name)));
    Ok(paths)
}

fn failed(path: &Path, call: &str, error: &io::Error) -> ConfigProblem {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let hint = if denied { "check its mode and owner" } else { "check the path" };
    ConfigProblem { denied, ..ConfigProblem::of_file(path, format!("{call} failed: {error}"), hint) }
}

/// Reads a file. It may be a symbolic link, as configuration management and Kubernetes make them: the file that it leads to
/// is checked.
fn read_file(path: &Path) -> Result<ConfigText, ConfigProblem> {
    call("realpath");
    let real = fs::canonicalize(path).map_err(|error| failed(path, "realpath", &error))?;
    call("stat");
    let found = fs::metadata(&real).map_err(|error| failed(path, "stat", &error))?;
    // Opening a device may have effects.
    if !found.is_file() {
        return Err(ConfigProblem::of_file(path, "it is not a regular file", "give the path of a file"));
    }
    let user = rustix::process::geteuid().as_raw();
    let writer = foreign_writer(&real, user).map_err(|CheckError { call, error }| failed(path, call, &error))?;
    if let Some((part, writer)) = writer {
        return Err(changeable(path, &part, &writer));
    }
    call("open");
    // Nobody else can replace the file by another one now; the flags are for the case that this user does.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&real);
    let file = file.map_err(|error| failed(path, "open", &error))?;
    call("read");
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| failed(path, "read", &error))?;
    ConfigText::from_bytes(path.to_owned(), bytes)
}

fn changeable(path: &Path, part: &Path, writer: &ForeignWriter) -> ConfigProblem {
    let part = harmless_path(part.as_os_str().as_encoded_bytes());
    let (what, hint) = match writer {
        ForeignWriter::Any => (format!("any user may write to {part}"), format!("chmod o-w {part}")),
        ForeignWriter::Listed(who) => {
            (format!("{who} may write to {part} by its access control list"), format!("setfacl -b {part}"))
        }
        ForeignWriter::Owner(owner) => {
            (format!("user {owner} may write to {part} as its owner"), format!("chown root {part}"))
        }
    };
    let what = format!("{what}, and so choose what runs with this agent's privileges");
    ConfigProblem::of_file(path, what, format!("take that away:\n    {hint}"))
}
