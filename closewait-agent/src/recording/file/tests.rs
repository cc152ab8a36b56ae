use std::os::unix::{
    fs::{chown, symlink},
    net::UnixListener,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// Folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-file-{}-{name}", process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn refused(path: &Path) -> String {
    Destination::create(path).unwrap_err().to_string()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_earlier_recording_is_overwritten_and_nothing_else() {
    let folder = Folder::new("earlier");
    for (name, text) in [("empty", ""), ("cut", "closewait rec"), ("old", "closewait recording 1\nxyz")] {
        let path = folder.file(name, text, 0o600);
        Destination::create(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
    }
    for (name, text) in [("precious", "precious"), ("letter", "c"), ("word", "closewait\n")] {
        let precious = folder.file(name, text, 0o600);
        assert!(refused(&precious).contains("is no recording"), "{text:?}");
        assert_eq!(fs::read(&precious).unwrap(), text.as_bytes());
    }
    assert!(refused(&folder.0).contains("a folder"));
    assert!(refused(&folder.0.join("no/folder")).contains("check that its folder exists"));
}

#[test]
fn a_reader_of_the_replaced_file_does_not_read_the_recording() {
    let folder = Folder::new("open");
    let path = folder.file("readable", "", 0o644);
    let mut early = File::open(&path).unwrap();
    Destination::create(&path).unwrap().write_all(b"secret").unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"secret".to_vec(), 0o600));
    let mut read = Vec::new();
    early.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"");
}

#[test]
fn links_and_files_of_others_are_refused_and_stay_as_they_are() {
    let folder = Folder::new("links");
    let victim = folder.file("victim", "", 0o600);
    symlink(&victim, folder.0.join("link")).unwrap();
    symlink(folder.0.join("none"), folder.0.join("dangling")).unwrap();
    for link in ["link", "dangling"] {
        assert!(refused(&folder.0.join(link)).contains("symbolic link"));
    }
    assert!(!folder.0.join("none").exists());
    fs::hard_link(&victim, folder.0.join("second")).unwrap();
    assert!(refused(&victim).contains("2 names"));
    let _socket = UnixListener::bind(folder.0.join("socket")).unwrap();
    assert!(refused(&folder.0.join("socket")).contains("a socket"));
    if chown(&victim, Some(4711), None).is_ok() {
        fs::remove_file(folder.0.join("second")).unwrap();
        assert!(refused(&victim).contains("belongs to user 4711"));
        assert!(refused(Path::new("/proc/sys/kernel/core_pattern")).contains("is no recording"));
    }
}

#[test]
fn one_agent_writes_a_file() {
    let folder = Folder::new("locked");
    let path = folder.0.join("new");
    let first = Destination::create(&path).unwrap();
    assert!(refused(&path).contains("another agent"));
    drop(first);
    Destination::create(&path).unwrap();
}

#[test]
fn a_fifo_is_not_waited_for() {
    let folder = Folder::new("fifo");
    let path = folder.fifo("fifo");
    assert!(refused(&path).contains("without a reader"));
    let Err(FileError::NoWriter) = open(&path).map(|_| ()) else { unreachable!() };
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let mut reader = options.unwrap();
    let mut to = Destination::create(&path).unwrap();
    to.write_all(b"frame").unwrap();
    let mut from = open(&path).unwrap();
    let mut read = [0; 5];
    from.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"frame");
    to.write_all(b"other").unwrap();
    reader.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"other");
}

#[test]
fn devices_are_written_to() {
    Destination::create(Path::new("/dev/null")).unwrap().write_all(b"x").unwrap();
    let mut full = Destination::create(Path::new("/dev/full")).unwrap();
    assert_eq!(full.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_descriptor_that_was_handed_over_is_written_to() {
    use std::os::fd::IntoRawFd as _;
    let own = process::id();
    for (path, number) in [
        ("/dev/stdout".to_owned(), Some(1)),
        ("/dev/fd/63".to_owned(), Some(63)),
        ("/proc/self/fd/7".to_owned(), Some(7)),
        (format!("/proc/{own}/fd/7"), Some(7)),
        ("/proc/1/fd/7".to_owned(), None),
        ("/dev/fd/7/x".to_owned(), None),
        ("/dev/fd/-1".to_owned(), None),
        ("/dev/fd/".to_owned(), None),
        ("/dev/fd/99999999999".to_owned(), None),
    ] {
        assert_eq!(descriptor(Path::new(&path)), number, "{path}");
    }
    let (mut reader, to) = io::pipe().unwrap();
    let path = PathBuf::from(format!("/dev/fd/{}", to.as_raw_fd()));
    assert!(refused(&path).contains("was not handed"), "closed on exec: it was opened here");
    rustix::io::fcntl_setfd(&to, rustix::io::FdFlags::empty()).unwrap();
    Destination::create(&path).unwrap().write_all(b"x").unwrap();
    // It stays open: a child of another test may have it too.
    let _kept = to.into_raw_fd();
    let mut read = [0];
    reader.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"x");
    let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
    assert!(refused(&path).contains("was not handed"));
}

#[test]
fn what_cannot_be_a_recording_is_reported() {
    let folder = Folder::new("read");
    let says = |path: &Path| open(path).err().unwrap().to_string();
    assert!(says(&folder.0).contains("it is a folder"));
    assert!(says(&folder.0.join("none")).contains("check that it exists"));
    let _socket = UnixListener::bind(folder.0.join("socket")).unwrap();
    assert!(says(&folder.0.join("socket")).contains("a socket"));
    let path = folder.file("file", "text", 0o600);
    let mut text = String::new();
    open(&path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn a_file_that_gets_full_ends_at_a_whole_frame_and_says_so() {
    let folder = Folder::new("full");
    let path = folder.0.join("file");
    let mut to = Destination::create(&path).unwrap();
    to.write_all(b"whole frame").unwrap();
    // Part of a frame, as a full disk may leave it.
    to.file.write_all(b"part").unwrap();
    to.end_at_whole_frame().unwrap();
    let end = frame(FrameKind::Unwritten, &[], 11).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [b"whole frame", &end[..]].concat());
}
