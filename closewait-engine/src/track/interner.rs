//! Values that many sockets share, stored once, with the number of sockets that refer to each.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::HashTable;

use crate::track::hashing::KeyedState;

/// Value of a number; `None` if the number is free.
type InternedValue<T> = Option<(T, u32)>;

/// Values by number, with their reference counts. The last reference frees a value, unless it was the last one to be asked for: the next
/// socket often has the same, and most sockets are alone for the short time that they are there. So there is at most one value more
/// than sockets.
///
/// The hasher is keyed, because other hosts and users choose addresses, cgroups and names.
#[derive(Clone, Debug)]
pub(super) struct Interner<T> {
    slots: Vec<InternedValue<T>>,
    free: Vec<u32>,
    table: HashTable<u32>,
    state: KeyedState,
    /// Number of the last value: the next socket often has the same.
    recent: u32,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), table: HashTable::new(), state: KeyedState::default(), recent: 0 }
    }
}

fn is_value<T: Eq>(slots: &[InternedValue<T>], id: u32, value: &T) -> bool {
    slots.get(id as usize).and_then(Option::as_ref).is_some_and(|(known, _)| known == value)
}

impl<T: Hash + Eq + Clone> Interner<T> {
    /// Returns the number of a value, and counts one more reference to it.
    pub(super) fn acquire(&mut self, value: &T) -> u32 {
        if !is_value(&self.slots, self.recent, value) {
            let before = self.recent;
            self.recent = self.find_or_insert(value);
            // The new value can have the number of an earlier one.
            if before != self.recent && matches!(self.slots.get(before as usize), Some(Some((_, 0)))) {
                self.free(before);
            }
        }
        if let Some(Some((_, count))) = self.slots.get_mut(self.recent as usize) {
            *count += 1;
        }
        self.recent
    }

    fn find_or_insert(&mut self, value: &T) -> u32 {
        let Self { slots, free, table, state, .. } = self;
        let hash = |slot: Option<&T>| state.hash_one(slot);
        if let Some(id) = table.find(hash(Some(value)), |id| is_value(slots, *id, value)) {
            return *id;
        }
        let id = free.pop().unwrap_or_else(|| {
            slots.push(None);
            (slots.len() - 1) as u32
        });
        slots[id as usize] = Some((value.clone(), 0));
        let value_of = |id: &u32| slots.get(*id as usize).and_then(Option::as_ref).map(|(value, _)| value);
        table.insert_unique(hash(Some(value)), id, |id| hash(value_of(id)));
        id
    }

    /// Removes one reference to the value with this number.
    pub(super) fn release(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else { return };
        let Some((_, count)) = slot else { return };
        *count -= 1;
        if *count == 0 && id != self.recent {
            self.free(id);
        }
    }

    /// Frees a value without references.
    fn free(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else { return };
        let value = slot.take().map(|(value, _)| value);
        if let Ok(found) = self.table.find_entry(self.state.hash_one(value.as_ref()), |known| *known == id) {
            let _removed = found.remove();
        }
        if self.table.is_empty() {
            (self.slots, self.free, self.table) = Default::default();
        } else {
            self.free.push(id);
        }
    }

    /// Returns the value with a number.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize).and_then(Option::as_ref).map(|(value, _)| value)
    }

    /// Returns the number of values that sockets refer to.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.iter().flatten().filter(|(_, count)| *count > 0).count()
    }
}
