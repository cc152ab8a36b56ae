//! Table of the tracked sockets: packed sockets by number, their numbers by key, and the values that they share.

use std::{collections::HashMap, hash::BuildHasher as _, net::Ipv6Addr, sync::Arc};

use hashbrown::{HashTable, hash_table::Entry};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    interner::Interner,
    packed::{Packed, Site, SocketParts},
    schedule::Schedule,
    slab::Slab,
};
use crate::{
    limits::shrink,
    model::{Opener, Since, Socket, SocketKey, Task},
    time::BootTime,
    track::hashing::FastState,
    track::socket_view::SocketView,
    track::tracked_socket::TrackedSocket,
};

/// Number of sockets for which there is memory up to which it is kept.
const SMALL: usize = 4096;

/// Values that packed sockets share.
#[derive(Clone, Debug, Default)]
pub(super) struct Interned {
    pub(super) sites: Interner<Site>,
    pub(super) addresses: Interner<Ipv6Addr>,
    pub(super) tasks: Interner<Task>,
}

/// All tracked sockets, in the order of their next reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    slab: Slab,
    /// Number of the socket with each key.
    table: HashTable<u32>,
    state: FastState,
    pub(super) interned: Interned,
    schedule: Schedule,
    /// Number of sockets that were reported as stuck.
    reported: usize,
    /// Sockets that do not fit into their packed form: those with several descriptors, or with values that are rare.
    pub(super) wide: HashMap<SocketKey, Arc<TrackedSocket>, FastState>,
    /// Earliest entries of packed sockets whose entry the agent did not see.
    pub(super) earliest: HashMap<SocketKey, BootTime, FastState>,
    /// Openers of packed sockets.
    pub(super) openers: HashMap<SocketKey, Opener, FastState>,
}

impl Sockets {
    /// Returns the number of sockets.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns a table with these sockets.
    #[cfg(test)]
    pub(crate) fn of(all: impl IntoIterator<Item = (u64, TrackedSocket)>) -> Self {
        let mut sockets = Self::default();
        all.into_iter().for_each(|(key, one)| sockets.insert(SocketKey(key), &one));
        sockets
    }

    /// Returns the number of sockets for which there is memory.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.slab.capacity().max(self.table.capacity())
    }

    /// Returns the number of sockets that were reported as stuck.
    pub(crate) fn reported(&self) -> usize {
        self.reported
    }

    /// Returns the number of a socket.
    pub(crate) fn id(&self, key: SocketKey) -> Option<u32> {
        self.table.find(self.state.hash_one(key), |id| self.slab.get(*id).key == key).copied()
    }

    /// Returns the socket with a number.
    pub(crate) fn view(&self, id: u32) -> SocketView<'_> {
        SocketView::Tracked(self, self.slab.get(id))
    }

    /// Returns a socket.
    pub(crate) fn get(&self, key: SocketKey) -> Option<SocketView<'_>> {
        self.id(key).map(|id| self.view(id))
    }

    /// Iterates over all sockets, the one that is due first at first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.schedule.iter(&self.slab).map(|id| self.view(id))
    }

    /// Iterates over all sockets in the order of the memory that they are in, which is several times as fast.
    pub(crate) fn stored(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.slab.ids().map(|id| self.view(id))
    }

    /// Returns the socket that is due first.
    pub(crate) fn first(&self) -> Option<SocketView<'_>> {
        self.schedule.first(&self.slab).map(|id| self.view(id))
    }

    /// Returns the keys of all sockets, the one that is due first at first.
    pub(crate) fn keys(&self) -> Vec<SocketKey> {
        self.iter().map(SocketView::key).collect()
    }

    /// Packs a socket, and stores the parts that its packed form only marks.
    #[inline(always)]
    fn pack(&mut self, key: SocketKey, parts: &SocketParts<'_>) -> Packed {
        let Some(packed) = Packed::new(key, parts, &mut self.interned) else {
            let SocketParts { socket, since, seen, due, reported, refreshed, owners, found, touched } = *parts;
            let (socket, owners, found) = (socket.clone(), owners.map(<[_]>::to_vec), found.to_vec());
            let wide = TrackedSocket { socket, since, seen, due, reported, refreshed, owners, found, touched };
            self.wide.insert(key, Arc::new(wide));
            return Packed::wide(key, due);
        };
        self.store_marked(key, parts);
        packed
    }

    /// Stores the parts of a packed socket that its packed form only marks.
    fn store_marked(&mut self, key: SocketKey, parts: &SocketParts<'_>) {
        if let Since::Between { earliest: Some(earliest), .. } = parts.since {
            self.earliest.insert(key, earliest);
        }
        if let Some(opener) = &parts.socket.opener {
            self.openers.insert(key, (**opener).clone());
        }
    }

    /// Removes what [`Self::pack`] stored for a socket.
    fn unpack(&mut self, id: u32) {
        let packed = self.slab.get(id);
        let key = packed.key;
        packed.release(&mut self.interned);
        if packed.is_plain() {
            return;
        }
        if packed.is_wide() {
            self.wide.remove(&key);
            shrink(&mut self.wide);
        }
        if packed.has_earliest() {
            self.earliest.remove(&key);
            shrink(&mut self.earliest);
        }
        if packed.has_opener() {
            self.openers.remove(&key);
            shrink(&mut self.openers);
        }
    }

    /// Adds a socket, in place of one with the same key.
    pub(crate) fn insert(&mut self, key: SocketKey, one: &TrackedSocket) {
        self.insert_parts(key, &one.parts());
    }

    /// Adds a socket that was not reported and has no known owner, in place of one with the same key.
    pub(crate) fn insert_new(&mut self, key: SocketKey, socket: &Socket, since: Since, seen: BootTime, due: BootTime) {
        let (reported, refreshed, owners, found, touched) = (false, None, None, &[][..], seen);
        self.insert_parts(key, &SocketParts { socket, since, seen, due, reported, refreshed, owners, found, touched });
    }

    #[inline(always)]
    fn insert_parts(&mut self, key: SocketKey, parts: &SocketParts<'_>) {
        let id = self.slab.next_id();
        let Self { table, state, slab, .. } = self;
        let is_same = |id: &u32| slab.get(*id).key == key;
        match table.entry(state.hash_one(key), is_same, |id| state.hash_one(slab.get(*id).key)) {
            Entry::Vacant(vacant) => drop(vacant.insert(id)),
            Entry::Occupied(known) => {
                let before = std::mem::replace(known.into_mut(), id);
                self.remove_entry(before);
            }
        }
        let mut packed = self.pack(key, parts);
        packed.place = self.schedule.insert(&self.slab, id, (parts.due, key), !parts.reported);
        self.reported += usize::from(parts.reported);
        self.slab.put(id, packed);
    }

    /// Removes a socket.
    pub(crate) fn remove(&mut self, key: SocketKey) -> Option<TrackedSocket> {
        let id = self.id(key)?;
        let removed = self.view(id).to_tracked();
        self.remove_id(id);
        Some(removed)
    }

    /// Removes the socket with a number, which is not needed any more.
    pub(crate) fn delete(&mut self, id: u32) {
        self.remove_id(id);
    }

    fn remove_id(&mut self, id: u32) {
        let Self { slab, table, state, .. } = self;
        if let Ok(found) = table.find_entry(state.hash_one(slab.get(id).key), |known| *known == id) {
            let _removed = found.remove();
        }
        self.remove_entry(id);
    }

    /// Removes a socket that is no longer in the table of keys.
    fn remove_entry(&mut self, id: u32) {
        let Self { slab, schedule, .. } = self;
        schedule.remove(slab, id);
        self.reported -= usize::from(self.view(id).is_reported());
        self.unpack(id);
        self.slab.remove(id);
    }

    /// Changes a socket. Nothing is copied that a checkpoint shares, unless something changes.
    pub(crate) fn change<R>(&mut self, key: SocketKey, change: impl FnOnce(&mut TrackedSocket) -> R) -> Option<R> {
        let id = self.id(key)?;
        if let Some(mut wide) = self.wide.remove(&key) {
            // In place, because it can have many descriptors.
            let was_reported = wide.reported;
            let result = change(Arc::make_mut(&mut wide));
            let packed = self.pack_or_keep(key, wide);
            self.replace(id, packed, was_reported);
            return Some(result);
        }
        let before = self.view(id);
        let (was_reported, mut one) = (before.is_reported(), before.to_tracked());
        let result = change(&mut one);
        let packed = self.pack(key, &one.parts());
        // In this order, so that shared values are not freed and stored again.
        let before = self.slab.get(id);
        before.release(&mut self.interned);
        if before.has_earliest() && !packed.has_earliest() {
            self.earliest.remove(&key);
        }
        if before.has_opener() && !packed.has_opener() {
            self.openers.remove(&key);
        }
        self.replace(id, packed, was_reported);
        Some(result)
    }

    /// Notes that a socket had the facts of its last refresh at `at`, if it has had a refresh.
    pub(crate) fn unchanged(&mut self, key: SocketKey, at: BootTime) {
        let Some(id) = self.id(key) else { return };
        if self.view(id).refreshed().is_none_or(|refreshed| refreshed >= at) {
            return;
        }
        let mut packed = *self.slab.get(id);
        if !packed.is_wide() && packed.unchanged(at) {
            if let Some(to) = self.slab.get_mut(id) {
                *to = packed;
            }
            return;
        }
        // One that several programs own, or that a scan has seen since its last refresh.
        self.change(key, |one| (one.refreshed, one.seen) = (Some(at), one.seen.max(at)));
    }

    /// Packs a socket that did not fit before, or stores it again.
    fn pack_or_keep(&mut self, key: SocketKey, wide: Arc<TrackedSocket>) -> Packed {
        if let Some(packed) = Packed::new(key, &wide.parts(), &mut self.interned) {
            self.store_marked(key, &wide.parts());
            return packed;
        }
        let due = wide.due;
        self.wide.insert(key, wide);
        Packed::wide(key, due)
    }

    /// Stores the new packed form of a socket.
    fn replace(&mut self, id: u32, mut packed: Packed, was_reported: bool) {
        let before = self.slab.get(id);
        let is_reported = self.wide.get(&packed.key).map_or_else(|| packed.is_reported(), |wide| wide.reported);
        if (before.due, was_reported) == (packed.due, is_reported) {
            packed.place = before.place;
        } else {
            self.schedule.remove(&mut self.slab, id);
            packed.place = self.schedule.insert(&self.slab, id, (packed.due, packed.key), !is_reported);
            self.reported = self.reported + usize::from(is_reported) - usize::from(was_reported);
        }
        if packed != *self.slab.get(id)
            && let Some(to) = self.slab.get_mut(id)
        {
            *to = packed;
        }
    }

    /// Frees memory after a peak.
    pub(crate) fn shrink(&mut self) {
        let len = self.len();
        if self.table.capacity() > SMALL && len < self.table.capacity() / 8 {
            let Self { table, state, slab, .. } = self;
            table.shrink_to(2 * len, |id| state.hash_one(slab.get(*id).key));
            if slab.capacity() > SMALL && len < slab.capacity() / 8 {
                self.move_together();
            }
        }
    }

    /// Moves the sockets to as few chunks as possible.
    fn move_together(&mut self) {
        let before = std::mem::take(self);
        (self.state, self.wide, self.earliest, self.openers) = Default::default();
        before.iter().for_each(|one| self.insert(one.key(), &one.to_tracked()));
    }
}

impl Serialize for Sockets {
    /// Writes the sockets in the order of their keys, so that equal states have equal bytes.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut ids: Vec<u32> = self.slab.ids().collect();
        ids.sort_unstable_by_key(|id| self.slab.get(*id).key);
        to.collect_seq(ids.into_iter().map(|id| (self.slab.get(id).key, self.view(id).to_tracked())))
    }
}

impl<'de> Deserialize<'de> for Sockets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Vec::<(SocketKey, TrackedSocket)>::deserialize(from)?;
        // In the order in which they are due, so that those that were not reported are in the queue.
        all.sort_by_key(|(key, one)| (one.due, *key));
        let mut sockets = Self::default();
        all.iter().for_each(|(key, one)| sockets.insert(*key, one));
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests;
