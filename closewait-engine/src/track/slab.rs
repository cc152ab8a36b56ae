//! Storage of packed sockets in chunks, by number.

use std::sync::Arc;

use super::packed::Packed;

/// Number of sockets in a chunk: 32 KB.
const CHUNK: usize = 256;
const WORDS: usize = CHUNK / 64;

#[derive(Clone, Debug, Default)]
struct SocketChunk {
    /// The sockets. Behind a pointer that a checkpoint shares: a chunk that changes before the checkpoint is written is copied then.
    /// `None` while the chunk is empty.
    sockets: Option<Arc<[Packed]>>,
    /// One bit for each socket that is there.
    used: [u64; WORDS],
    /// Whether [`Slab::open`] has the chunk.
    is_open: bool,
}

/// Sockets by number. A number stays the same as long as the socket is there; later, another socket gets it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slab {
    chunks: Vec<SocketChunk>,
    /// Chunks that are not full. The last one gets the next socket.
    open: Vec<u32>,
    len: usize,
}

fn place(id: u32) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

impl Slab {
    /// Returns the number of sockets.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of sockets for which there is memory.
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.sockets.is_some()).count() * CHUNK
    }

    /// Returns the socket with a number, which is there.
    pub(super) fn get(&self, id: u32) -> &Packed {
        let (chunk, index) = place(id);
        let sockets = self.chunks.get(chunk).and_then(|chunk| chunk.sockets.as_ref());
        debug_assert!(sockets.is_some(), "{id} is dangling");
        sockets.map_or(&Packed::EMPTY, |sockets| &sockets[index])
    }

    /// Returns the socket with a number, to change it. A chunk that a checkpoint shares is copied.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Packed> {
        let (chunk, index) = place(id);
        let sockets = self.chunks.get_mut(chunk)?.sockets.as_mut()?;
        Some(&mut Arc::make_mut(sockets)[index])
    }

    /// Returns the number that the next socket gets.
    pub(super) fn next_id(&mut self) -> u32 {
        while let Some(chunk) = self.open.last() {
            let used = &self.chunks[*chunk as usize].used;
            if let Some(word) = used.iter().position(|word| *word != u64::MAX) {
                return *chunk * CHUNK as u32 + word as u32 * 64 + used[word].trailing_ones();
            }
            let full = self.open.pop();
            if let Some(chunk) = full.and_then(|full| self.chunks.get_mut(full as usize)) {
                chunk.is_open = false;
            }
        }
        let chunk = self.chunks.len() as u32;
        self.chunks.push(SocketChunk { is_open: true, ..SocketChunk::default() });
        self.open.push(chunk);
        chunk * CHUNK as u32
    }

    /// Stores a socket under a number that [`Self::next_id`] returned.
    pub(super) fn put(&mut self, id: u32, packed: Packed) {
        let (chunk, index) = place(id);
        let Some(chunk) = self.chunks.get_mut(chunk) else { return };
        chunk.used[index / 64] |= 1 << (index % 64);
        let sockets = chunk.sockets.get_or_insert_with(|| std::iter::repeat_n(Packed::EMPTY, CHUNK).collect());
        Arc::make_mut(sockets)[index] = packed;
        self.len += 1;
    }

    /// Removes the socket with a number. The memory of a chunk is freed with its last socket, except for the next socket's chunk.
    pub(super) fn remove(&mut self, id: u32) {
        let (number, index) = place(id);
        let Some(chunk) = self.chunks.get_mut(number) else { return };
        chunk.used[index / 64] &= !(1 << (index % 64));
        self.len -= 1;
        if !chunk.is_open {
            chunk.is_open = true;
            let before = self.open.last().map(|before| *before as usize);
            self.open.push(number as u32);
            if let Some(before) = before.and_then(|before| self.chunks.get_mut(before))
                && before.used == [0; WORDS]
            {
                before.sockets = None;
            }
        } else if chunk.used == [0; WORDS] && self.open.last() != Some(&(number as u32)) {
            chunk.sockets = None;
        }
    }

    /// Returns the numbers of all sockets, in ascending order.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        let words = self.chunks.iter().flat_map(|chunk| chunk.used).zip(0_u32..);
        words.flat_map(|(mut word, number)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.checked_sub(1)?;
                Some(number * 64 + bit)
            })
        })
    }
}
