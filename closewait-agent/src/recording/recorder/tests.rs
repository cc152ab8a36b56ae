use std::{fs, path::PathBuf, process, time::Duration};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::recording::{
    RecordingEnd, RecordingEngine,
    tests::{BEGAN, DECODER, config, played},
};
use closewait_engine::{
    Engine,
    model::{SocketEvent, SocketKey},
    testing::socket,
};

/// Folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("closewait-recording-{}-{name}", process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

const LONG: Duration = Duration::from_secs(5);

#[test]
fn only_its_owner_may_read_it_and_only_one_agent_write_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("own");
    let path = folder.0.join("recording");
    fs::write(&path, "closewait recording 1\nold").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let recorder = Recorder::create(&path, 1 << 20, &config(), BEGAN).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Recorder::create(&path, 1 << 20, &config(), BEGAN).unwrap_err();
    assert!(format!("{error:#}").contains("another agent records to it"), "{error:#}");
    recorder.finish(LONG).unwrap();
    let (lines, end) = played(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((lines, end), (vec![], Some(RecordingEnd::Stopped)));
}

#[test]
fn what_was_handed_out_is_in_the_file_when_its_mark_is_reached() {
    let folder = Folder::new("mark");
    let path = folder.0.join("recording");
    let mut engine = RecordingEngine::new(
        Engine::new(config(), BEGAN),
        DECODER,
        Some(Recorder::create(&path, 1 << 20, &config(), BEGAN).unwrap().into()),
    );
    let mut length = fs::metadata(&path).unwrap().len();
    for second in 1..20 {
        engine.handle_timeout(BEGAN + Duration::from_secs(second));
        assert!(engine.handing_out().unwrap().wait(LONG));
        let now = fs::metadata(&path).unwrap().len();
        assert!(now > length, "{now}");
        length = now;
    }
    engine.finish(LONG).unwrap();
    assert_eq!(played(&fs::read(&path).unwrap()).unwrap().1, Some(RecordingEnd::Stopped));
}

/// Uses a FIFO that is read only at the end.
#[test]
fn a_recording_without_a_reader_ends_and_the_agent_continues() {
    use std::{io::Read as _, os::unix::fs::OpenOptionsExt as _};
    let folder = Folder::new("fifo");
    let path = folder.0.join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut reader = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let recorder = Recorder::create(&path, u64::MAX, &config(), BEGAN).unwrap();
    let mut engine = RecordingEngine::new(Engine::new(config(), BEGAN), DECODER, Some(recorder.into()));
    let (mut number, mut turns) = (0_u64, 0_u64);
    let began = crate::clock::now();
    while engine.is_recording() {
        for _ in 0..200 {
            number += 1;
            let mut socket = socket();
            // Data that deflate cannot compress.
            socket.inode = Some(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (key, at) = (SocketKey(1 << 63 | number), BEGAN + Duration::from_nanos(number * number));
            engine.handle(SocketEvent::Enter { key, at, socket });
        }
        turns += 1;
        let at = BEGAN + Duration::from_millis(turns);
        engine.handle_timeout(at);
        while engine.poll_output().is_some() {}
        let _mark = engine.handing_out();
    }
    assert!(crate::clock::now().since(began) < Duration::from_secs(60), "{turns}");
    engine.handle_timeout(BEGAN + Duration::from_secs(50));
    let error = engine.finish(Duration::from_millis(200)).unwrap_err();
    assert!(format!("{error:#}").contains("bytes were not taken"), "{error:#}");
    // The waiting bytes are written once there is a reader, and have an end.
    let reading = std::thread::spawn(move || {
        let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return all,
                Ok(length) => all.extend(&piece[..length]),
                Err(_empty) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    let recording = reading.join().unwrap();
    assert!(recording.len() > 1 << 20, "{}", recording.len());
    assert_eq!(played(&recording).unwrap().1, Some(RecordingEnd::Unwritten));
}
