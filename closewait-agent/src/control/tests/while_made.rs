//! Answers that are sent while they are made.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{
    super::{
        PROTOCOL,
        frames::{FrameReader, MAX_FRAME},
        server::Control,
    },
    line, path, text,
};

/// Reads a whole answer after `begin` signals. Returns its frames, or the error.
fn read_later(path: &Path, begin: mpsc::Receiver<()>) -> thread::JoinHandle<Result<Vec<u8>, String>> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(line("frames").as_bytes()).unwrap();
    thread::spawn(move || {
        begin.recv().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes.starts_with(format!("{{\"protocol\":{PROTOCOL},").as_bytes()));
        bytes.drain(..=bytes.iter().position(|byte| *byte == b'\n').unwrap());
        let mut frames = Vec::new();
        let take = |frame: &[u8]| {
            frames.extend_from_slice(frame);
            Ok(())
        };
        FrameReader::default().read(&mut bytes, take).map(|ended| {
            assert!(ended, "it was cut off");
            frames
        })
    })
}

#[test]
fn an_answer_is_the_same_whether_its_client_reads_beside_or_afterwards() {
    const LENGTH: usize = 3 << 20;
    let path = path("beside");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, 4 << 20).unwrap();
        for reads_beside in [true, false] {
            let (begin, may_begin) = mpsc::channel();
            let reading = read_later(&path, may_begin);
            let (_, client) = control.question().await.unwrap();
            if reads_beside {
                begin.send(()).unwrap();
            }
            let mut answer = client.begin();
            for part in text(LENGTH).chunks(32 * 1024) {
                answer.frame(part).unwrap();
                if reads_beside {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            let waiting = control.bytes_in_flight();
            answer.finish();
            if reads_beside {
                assert!(waiting < LENGTH / 2, "{waiting} bytes wait though the client reads");
            } else {
                assert!(waiting > 0, "a client that does not read delays no other client");
                begin.send(()).unwrap();
            }
            while !reading.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(reading.join().unwrap().unwrap() == text(LENGTH), "{reads_beside}");
            assert_eq!(control.bytes_in_flight(), 0);
        }
    });
}

#[test]
fn an_answer_that_fails_half_way_ends_with_the_reason() {
    let path = path("half-way");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, 1 << 20).unwrap();
        for frames in [1, 3, 20] {
            let (begin, may_begin) = mpsc::channel();
            let reading = read_later(&path, may_begin);
            let (_, client) = control.question().await.unwrap();
            let mut answer = client.begin();
            for _ in 0..frames {
                answer.frame(&[7; 32 * 1024]).unwrap();
            }
            answer.refuse("the rest is \u{1b} lost");
            assert!(control.bytes_in_flight() < 300_000, "what was queued is dropped");
            begin.send(()).unwrap();
            while !reading.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(reading.join().unwrap(), Err("the rest is \u{1b} lost".to_owned()), "after {frames} frames");
            assert_eq!(control.bytes_in_flight(), 0);
        }
    });
}

#[test]
fn a_frame_is_neither_empty_nor_longer_than_any_may_be() {
    let path = path("frame");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, 64 << 20).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(line("frames").as_bytes()).unwrap();
        let mut answer = control.question().await.unwrap().1.begin();
        assert!(answer.frame(&[]).is_err() && answer.frame(&vec![0; MAX_FRAME + 1]).is_err());
        assert!(answer.frame(&[0]).is_ok());
    });
}
