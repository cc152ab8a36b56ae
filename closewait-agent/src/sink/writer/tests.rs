use std::{
    fs::File,
    io::{PipeReader, Read as _},
};

use super::*;

const LONG: Duration = Duration::from_secs(5);

fn pipe() -> (PipeReader, Writer) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, Writer::new(writer, 10).unwrap())
}

/// Sends more than fits into a pipe, so that the thread stays in its write.
fn stall(writer: &Writer) {
    assert_eq!(writer.send(vec![b'x'; 1 << 20]), Backlog::Queued);
}

#[test]
fn what_is_sent_arrives_in_order() {
    let (mut reader, writer) = pipe();
    assert_eq!(writer.send(b"one ".to_vec()), Backlog::Queued);
    assert_eq!(writer.send(b"two".to_vec()), Backlog::Queued);
    writer.finish(LONG).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
}

#[test]
fn a_reader_that_does_not_read_loses_lines_and_delays_nothing() {
    let (reader, writer) = pipe();
    stall(&writer);
    assert_eq!(writer.send(b"more".to_vec()), Backlog::Full);
    drop(reader);
    writer.finish(LONG).unwrap();
}

#[test]
fn the_end_waits_for_the_last_bytes_no_longer_than_it_may() {
    let (_reader, writer) = pipe();
    stall(&writer);
    let began = clock::now();
    let error = writer.finish(Duration::from_millis(200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(clock::now().since(began) < Duration::from_secs(2));
}

#[test]
fn a_reader_that_has_gone_is_noticed_without_a_line_to_write() {
    let (reader, writer) = pipe();
    drop(reader);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let noticed = async { tokio::time::timeout(Duration::from_secs(10), writer.ended()).await };
    assert!(runtime.block_on(noticed).is_ok());
    assert_eq!(writer.failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_last_bytes_have_room_always_and_nothing_comes_after_them() {
    let (mut reader, writer) = pipe();
    stall(&writer);
    writer.send_last(b"end".to_vec());
    assert_eq!(writer.send(b"more".to_vec()), Backlog::Full);
    let reading = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    writer.finish(LONG).unwrap();
    assert!(reading.join().unwrap().ends_with(b"xend"));
}

#[test]
fn a_descriptor_that_does_not_wait_is_waited_for() {
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    let writer = Writer::new(writer, 10).unwrap();
    stall(&writer);
    let reading = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        io::copy(&mut reader, &mut io::sink()).unwrap()
    });
    writer.finish(LONG).unwrap();
    assert_eq!(reading.join().unwrap(), 1 << 20);
}

/// Returns the bytes that a pipe has now.
fn read_now(reader: &PipeReader) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    if !poll(reader.as_fd(), PollFlags::IN, Duration::ZERO).contains(PollFlags::IN) {
        return Vec::new();
    }
    let length = (&mut &*reader).read(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn a_piece_is_written_after_that_of_another_writer() {
    let ((mut first_reader, first), (reader, writer)) = (pipe(), pipe());
    stall(&first);
    writer.send_after(b"line".to_vec(), Some(first.mark()));
    // Shorter than the maximum hold.
    thread::sleep(MAX_HOLD / 4);
    assert_eq!(read_now(&reader), b"");
    let draining = thread::spawn(move || io::copy(&mut first_reader, &mut io::sink()).unwrap());
    assert!(writer.mark().wait(LONG));
    assert_eq!(read_now(&reader), b"line");
    first.finish(LONG).unwrap();
    assert_eq!(draining.join().unwrap(), 1 << 20);
}

#[test]
fn a_writer_that_hangs_is_waited_for_once() {
    let ((_first_reader, first), (reader, to)) = (pipe(), io::pipe().unwrap());
    let writer = Writer::new(to, 1 << 20).unwrap();
    stall(&first);
    let began = clock::now();
    for _ in 0..20 {
        assert_eq!(writer.send_after(b"line\n".to_vec(), Some(first.mark())), Backlog::Queued);
    }
    assert!(writer.mark().wait(LONG));
    assert!(clock::now().since(began) < 5 * MAX_HOLD, "each was held");
    assert_eq!(read_now(&reader).len(), 100);
}

#[test]
fn a_disk_that_is_full_is_reported_once() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let writer = Writer::new(full, 10).unwrap();
    writer.send(b"x".to_vec());
    assert!(writer.mark().wait(LONG));
    assert!(writer.shared.wait(|state| state.ended, clock::now() + LONG));
    assert_eq!(writer.failure().unwrap().kind(), io::ErrorKind::StorageFull);
    assert_eq!(writer.failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
}
