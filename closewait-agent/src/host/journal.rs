//! The journal of systemd: as the reader of this process's output, and by its native protocol, which has fields.

use std::{
    env,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::fs::fstat;

use super::datagram;
use crate::clock;
use closewait_engine::time::BootTime;

/// Socket of the journal (systemd.journal-fields(7); <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Maximum length of a field's value, bytes. A datagram has to fit into the send buffer (net.core.wmem_default, 212,992 bytes).
const MAX_VALUE: usize = 8 << 10;
/// Length of the number of bytes in front of an entry.
const LENGTH_BYTES: usize = size_of::<u32>();
/// Minimum time between two messages on entries that the journal refused.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(60);

/// Environment variable with the device and the inode of the stream to the journal, in decimal (systemd.exec(5)).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether the journal reads what is written to `to`. The variable alone is not enough: a program inherits it even if its
/// output was redirected.
pub fn reads(to: impl AsFd) -> bool {
    let Some(stream) = env::var(VARIABLE).ok().and_then(|text| parse(&text)) else { return false };
    fstat(to).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == stream)
}

/// Returns the priority of a log line in the journal (syslog(3)).
pub const fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Parses `device:inode`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// Writer of one entry. In the buffer each entry has its length in front of it: a stream of bytes has no datagrams.
#[derive(Debug)]
pub struct EntryBuffer<'a> {
    to: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> EntryBuffer<'a> {
    /// Begins an entry at the end of `to`.
    pub fn new(to: &'a mut Vec<u8>) -> Self {
        let begin = to.len();
        to.extend_from_slice(&[0; LENGTH_BYTES]);
        Self { to, begin }
    }

    /// Adds a field; a long value is cut. `name` consists of upper-case letters, digits and underscores.
    pub fn field(&mut self, name: &str, value: &str) {
        let value = value.get(..value.floor_char_boundary(MAX_VALUE)).unwrap_or_default();
        self.to.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.to.push(b'\n');
            self.to.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.to.push(b'=');
        }
        self.to.extend_from_slice(value.as_bytes());
        self.to.push(b'\n');
    }

    /// Ends the entry.
    pub fn end(self) {
        let length = u32::try_from(self.to.len() - self.begin - LENGTH_BYTES).unwrap_or(u32::MAX);
        if let Some(bytes) = self.to.get_mut(self.begin..self.begin + LENGTH_BYTES) {
            bytes.copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Connection to the journal, which sends the entries of [`EntryBuffer`] one datagram each. It waits for nobody: without room it
/// returns [`io::ErrorKind::WouldBlock`]. An entry that the journal refuses is dropped, counted and logged.
#[derive(Debug)]
pub struct EntrySocket {
    address: SocketAddr,
    socket: UnixDatagram,
    /// Begin of an entry, or an entry that waits for room, with its length in front of it.
    pending: Vec<u8>,
    /// Number of refused entries since the last message on them.
    unreported: u64,
    /// Number of refused entries since the start.
    refused: Arc<AtomicU64>,
    /// Time of the last message on refused entries.
    told: Option<BootTime>,
}

impl EntrySocket {
    /// Connects to the journal that listens at `path`, usually [`SOCKET`].
    ///
    /// # Errors
    ///
    /// If no journal listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddr::from_pathname(path)?;
        let socket = datagram::connect(&address)?;
        Ok(Self { address, socket, pending: Vec::new(), unreported: 0, refused: Arc::default(), told: None })
    }

    /// Returns the count of refused entries, which other threads may read.
    pub fn refused(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refused)
    }

    /// Returns the number of bytes that are missing in the pending entry.
    fn missing(&self) -> usize {
        let wanted = match self.pending.first_chunk::<LENGTH_BYTES>() {
            Some(length) => LENGTH_BYTES + usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX),
            None => LENGTH_BYTES,
        };
        wanted - self.pending.len()
    }

    /// Sends the pending entry if it is complete.
    fn send(&mut self) -> io::Result<()> {
        if self.pending.len() < LENGTH_BYTES || self.missing() > 0 {
            return Ok(());
        }
        let entry = self.pending.get(LENGTH_BYTES..).unwrap_or_default();
        let mut sent = self.socket.send(entry);
        // The journal of a container, or one without socket activation, has been started again with a new socket.
        let is_gone = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            )
        };
        if sent.as_ref().is_err_and(is_gone)
            && let Ok(socket) = datagram::connect(&self.address)
        {
            self.socket = socket;
            sent = self.socket.send(entry);
        }
        match sent {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Err(error);
            }
            Err(error) => self.count_refused(&error),
        }
        self.pending.clear();
        Ok(())
    }

    fn count_refused(&mut self, error: &io::Error) {
        self.unreported += 1;
        self.refused.fetch_add(1, Ordering::AcqRel);
        let now = clock::now();
        if self.told.is_none_or(|told| now.since(told) >= MESSAGE_INTERVAL) {
            self.told = Some(now);
            let refused = entries(std::mem::take(&mut self.unreported));
            log::warn!(
                "the journal refused {refused}: {error}\nhint: check systemd-journald, and `journalctl --disk-usage`"
            );
        }
    }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

impl Drop for EntrySocket {
    /// Reports the entries that no message was about.
    fn drop(&mut self) {
        if self.unreported > 0 {
            let refused = entries(self.unreported);
            log::warn!("the journal refused {refused} since the last message\nhint: check systemd-journald");
        }
    }
}

impl Write for EntrySocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An entry that waits for room.
        self.send()?;
        let taken = bytes.get(..self.missing().min(bytes.len())).unwrap_or_default();
        self.pending.extend_from_slice(taken);
        match self.send() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            // The entry is sent by the next call.
            Ok(()) | Err(_) => Ok(taken.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl AsFd for EntrySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes of an entry with these fields.
    fn entry(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut entry = EntryBuffer::new(&mut bytes);
        fields.iter().for_each(|(name, value)| entry.field(name, value));
        entry.end();
        bytes
    }

    /// Socket of a journal, which is removed at the end.
    struct Place(std::path::PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    fn bind(path: &Path) -> UnixDatagram {
        let journal = UnixDatagram::bind(path).unwrap();
        journal.set_nonblocking(true).unwrap();
        journal
    }

    fn journal(name: &str) -> (Place, UnixDatagram, EntrySocket) {
        let path = env::temp_dir().join(format!("closewait-journal-{}-{name}", std::process::id()));
        let journal = bind(&path);
        let socket = EntrySocket::connect(&path).unwrap();
        (Place(path), journal, socket)
    }

    fn receive(journal: &UnixDatagram) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let length = journal.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn an_entry_is_a_datagram_however_its_bytes_arrive() {
        let (_place, journal, mut socket) = journal("parts");
        let both = [entry(&[("MESSAGE", "a"), ("PRIORITY", "4")]), entry(&[("MESSAGE", "two\nlines=1")])].concat();
        for size in [1, 3, 7, both.len()] {
            for mut part in both.chunks(size) {
                while !part.is_empty() {
                    let written = socket.write(part).unwrap();
                    part = &part[written..];
                }
            }
            assert_eq!(receive(&journal), b"MESSAGE=a\nPRIORITY=4\n", "in parts of {size}");
            assert_eq!(receive(&journal), b"MESSAGE\n\x0b\0\0\0\0\0\0\0two\nlines=1\n");
        }
    }

    #[test]
    fn a_full_journal_blocks_nobody_and_loses_nothing() {
        let (_place, journal, mut socket) = journal("full");
        let mut sent = 0_u32;
        let waiting = loop {
            let bytes = entry(&[("MESSAGE", &sent.to_string())]);
            let mut rest = &bytes[..];
            let error = loop {
                if rest.is_empty() {
                    break None;
                }
                match socket.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = error {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break rest.len();
            }
            sent += 1;
            assert!(sent < 100_000);
        };
        assert!(waiting > 0 && socket.flush().is_err());
        for number in 0..sent {
            assert_eq!(receive(&journal), format!("MESSAGE={number}\n").as_bytes());
            socket.flush().unwrap();
        }
    }

    #[test]
    fn a_journal_that_starts_again_gets_the_next_entry_and_one_that_is_gone_none() {
        let (place, first, mut socket) = journal("again");
        drop(first);
        std::fs::remove_file(&place.0).unwrap();
        for _ in 0..3 {
            socket.write_all(&entry(&[("MESSAGE", "lost")])).unwrap();
        }
        assert!(socket.told.is_some(), "it was logged");
        let refused = socket.refused();
        assert_eq!((refused.load(Ordering::Acquire), socket.unreported), (3, 2), "the end reports the others");
        let second = bind(&place.0);
        socket.write_all(&entry(&[("MESSAGE", "next")])).unwrap();
        assert_eq!(receive(&second), b"MESSAGE=next\n");
    }

    #[test]
    fn a_value_cannot_forge_a_field_and_is_cut() {
        let long = "\u{e9}".repeat(MAX_VALUE);
        let bytes = entry(&[("CLOSEWAIT_SERVICE", "a\nPRIORITY=0"), ("MESSAGE", &long)]);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("CLOSEWAIT_SERVICE\n\u{c}\0\0\0\0\0\0\0a\nPRIORITY=0\n"), "{text}");
        assert!(bytes.len() < MAX_VALUE + 100);
    }

    #[test]
    fn a_stream_is_two_decimal_numbers() {
        assert_eq!(parse("8:1029184"), Some((8, 1_029_184)));
        for text in ["", "8", "8:", ":8", "a:1", "8:0x10", "-8:1", "8:1:2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
