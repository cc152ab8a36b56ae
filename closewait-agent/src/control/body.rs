//! Answer in flight, in pieces that are freed as they are sent.
//!
//! An answer stays uncompressed while all answers together are small. Beyond that it is compressed while it is
//! written: the objects of `list` shrink to a twentieth, at a gigabyte per second. They are inflated again piece by
//! piece as they are sent.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::pool::{BytePool, Lease};

/// Size of a piece, bytes.
const PIECE: usize = 64 * 1024;

/// A complete answer.
#[derive(Debug)]
pub(super) struct Body {
    /// Uncompressed beginning.
    plain: VecDeque<Vec<u8>>,
    /// Compressed rest.
    deflated: VecDeque<Vec<u8>>,
    inflating: Option<Inflating>,
    /// Length of the text, bytes.
    length: u64,
    /// Size of the piece that was returned last, bytes; the next call releases it.
    out: usize,
    lease: Lease,
}

#[derive(Debug)]
struct Inflating {
    inflate: Decompress,
    /// Number of bytes of the first compressed piece that were read.
    offset: usize,
    ended: bool,
}

impl Body {
    /// Returns the length of the text in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the next piece of the text, and releases the previous one.
    ///
    /// # Errors
    ///
    /// If the compressed part is damaged.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.lease.release(std::mem::take(&mut self.out));
        if let Some(piece) = self.plain.pop_front() {
            self.out = piece.len();
            return Ok(Some(piece));
        }
        if self.deflated.is_empty() && self.inflating.is_none() {
            return Ok(None);
        }
        let Inflating { inflate, offset, ended } = self.inflating.get_or_insert_with(|| Inflating {
            inflate: Decompress::new(false),
            offset: 0,
            ended: false,
        });
        let mut piece = Vec::with_capacity(PIECE);
        while !*ended && piece.len() < PIECE {
            let input = self.deflated.front().and_then(|first| first.get(*offset..)).unwrap_or_default();
            let (read, written) = (inflate.total_in(), piece.len());
            let status = inflate.decompress_vec(input, &mut piece, FlushDecompress::None)?;
            let read = usize::try_from(inflate.total_in() - read).unwrap_or(usize::MAX);
            *ended = status == Status::StreamEnd;
            if read == 0 && piece.len() == written && !*ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *offset += read;
            if self.deflated.front().is_some_and(|first| first.len() <= *offset) {
                *offset = 0;
                let done = self.deflated.pop_front().map_or(0, |first| first.len());
                self.lease.release(done);
            }
        }
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Writer of an answer. A write fails if all answers in flight together exceed the limit.
#[derive(Debug)]
pub(super) struct BodyWriter {
    body: Body,
    /// Piece that is being filled.
    piece: Vec<u8>,
    deflate: Option<Compress>,
}

impl BodyWriter {
    pub(super) fn new(pool: Arc<BytePool>) -> Self {
        let body = Body {
            plain: VecDeque::new(),
            deflated: VecDeque::new(),
            inflating: None,
            length: 0,
            out: 0,
            lease: Lease::new(pool),
        };
        Self { body, piece: Vec::new(), deflate: None }
    }

    /// Ends the answer.
    ///
    /// # Errors
    ///
    /// If all answers in flight together are over the limit.
    pub(super) fn finish(mut self) -> io::Result<Body> {
        if self.deflate.is_some() {
            self.deflate(&[], FlushCompress::Finish)?;
        }
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            self.take(piece.len())?;
            let pieces = if self.deflate.is_some() { &mut self.body.deflated } else { &mut self.body.plain };
            pieces.push_back(piece);
        }
        Ok(self.body)
    }

    /// Adds to the uncompressed part as far as its limit allows. Returns the rest.
    fn plain<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        while self.deflate.is_none() && !bytes.is_empty() {
            if self.piece.len() == PIECE {
                let limit = self.body.lease.pool().plain_limit();
                if !self.body.lease.take(PIECE, limit) {
                    // Fast, because the event loop waits meanwhile. Without a header and a checksum.
                    self.deflate = Some(Compress::new(Compression::fast(), false));
                    break;
                }
                self.body.plain.push_back(std::mem::take(&mut self.piece));
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
        bytes
    }

    fn deflate(&mut self, mut bytes: &[u8], flush: FlushCompress) -> io::Result<()> {
        let Some(deflate) = &mut self.deflate else { return Ok(()) };
        loop {
            self.piece.reserve_exact(PIECE - self.piece.len());
            let before = deflate.total_in();
            let status = deflate.compress_vec(bytes, &mut self.piece, flush)?;
            let read = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
            bytes = bytes.get(read..).unwrap_or_default();
            if self.piece.len() >= PIECE {
                let piece = std::mem::take(&mut self.piece);
                if !self.body.lease.take(piece.len(), self.body.lease.pool().limit()) {
                    return Err(full(self.body.lease.pool()));
                }
                self.body.deflated.push_back(piece);
            } else if status == Status::StreamEnd || (flush == FlushCompress::None && bytes.is_empty()) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: usize) -> io::Result<()> {
        let limit = self.body.lease.pool().limit();
        if self.body.lease.take(bytes, limit) { Ok(()) } else { Err(full(self.body.lease.pool())) }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let was_plain = self.deflate.is_none();
        let rest = self.plain(bytes);
        if self.deflate.is_some() {
            if was_plain {
                // The last uncompressed piece goes first.
                let piece = std::mem::take(&mut self.piece);
                self.deflate(&piece, FlushCompress::None)?;
            }
            self.deflate(rest, FlushCompress::None)?;
        }
        self.body.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the error of an answer that exceeds the limit.
pub(super) fn full(pool: &BytePool) -> io::Error {
    io::Error::other(format!(
        "it does not fit into the {} MiB that the agent keeps for answers, of which other clients have not taken theirs; \
         narrow the filters, or ask again later",
        pool.limit() >> 20
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(mut body: Body) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = body.next().unwrap() {
            assert!(piece.len() <= PIECE);
            all.extend(piece);
        }
        all
    }

    /// Like the objects of `list`.
    fn lines(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|number| {
                format!("{{\"schema_version\":1,\"port\":{},\"inode\":{}}}\n", number % 7, number * 31).into_bytes()
            })
            .collect()
    }

    #[test]
    fn a_small_answer_takes_what_it_is_long_and_gives_it_back() {
        let pool = BytePool::new(1 << 20);
        let mut writer = BodyWriter::new(Arc::clone(&pool));
        writer.write_all(b"one ").unwrap();
        writer.write_all(b"two").unwrap();
        let body = writer.finish().unwrap();
        assert_eq!((body.length(), pool.used()), (7, 7));
        assert_eq!(take(body), b"one two");
        assert_eq!(pool.used(), 0);
        assert_eq!(take(BodyWriter::new(pool).finish().unwrap()), b"", "an empty one is one");
    }

    #[test]
    fn a_large_answer_takes_a_fraction_and_is_freed_as_it_is_sent() {
        let pool = BytePool::new(4 << 20);
        let text = lines(400_000);
        assert!(text.len() > 16 << 20, "{}", text.len());
        let mut writer = BodyWriter::new(Arc::clone(&pool));
        writer.write_all(&text).unwrap();
        let mut body = writer.finish().unwrap();
        assert_eq!(body.length(), text.len() as u64);
        let (plain, all) = (pool.plain_limit(), pool.used());
        assert!(all > plain / 2 && all < 4 << 20, "{all} of {}", text.len());
        let mut taken = Vec::new();
        while let Some(piece) = body.next().unwrap() {
            taken.extend(piece);
            // The uncompressed part is freed piece by piece.
            assert!(taken.len() > plain || pool.used() + taken.len() <= all + 2 * PIECE);
        }
        assert_eq!(pool.used(), 0);
        assert!(taken == text);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
        let pool = BytePool::new(256 * 1024);
        let mut state = 1_u64;
        // Data that does not compress.
        let noise: Vec<u8> = (0..1 << 20)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut writer = BodyWriter::new(Arc::clone(&pool));
        let error = writer.write_all(&noise).unwrap_err().to_string();
        assert!(error.contains("narrow the filters"), "{error}");
        drop(writer);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn one_that_is_dropped_half_way_gives_all_back() {
        let pool = BytePool::new(1 << 20);
        let mut writer = BodyWriter::new(Arc::clone(&pool));
        writer.write_all(&lines(50_000)).unwrap();
        let mut body = writer.finish().unwrap();
        for _ in 0..6 {
            body.next().unwrap().unwrap();
        }
        assert!(pool.used() > 0);
        drop(body);
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_in_any_pieces_comes_out_the_same(
            seed in prop::collection::vec(any::<u8>(), 1..600),
            times in 1_usize..1500,
            step in 1_usize..200_000,
        ) {
            let text = seed.repeat(times);
            // Small enough to compress nearly all of it, and large enough for text that does not compress.
            let pool = BytePool::new(2 << 20);
            let mut writer = BodyWriter::new(Arc::clone(&pool));
            for part in text.chunks(step) {
                writer.write_all(part).unwrap();
            }
            let body = writer.finish().unwrap();
            prop_assert_eq!(body.length(), text.len() as u64);
            prop_assert!(take(body) == text);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
