//! Storage that is used again.

use alloc::vec::Vec;

use super::Segments;
use crate::virtqueue::Buffer;

/// Most empty lists kept.
const LISTS_MAX: usize = 1024;
/// Most room kept in all of them together, in ranges (of 16 bytes).
const ROOM_MAX: usize = 1 << 15;
/// Room of a list that is made new, in ranges.
const ROOM_NEW: usize = 16;

/// What a worker uses again and again: a stack of empty [`Segments`], and the room in which a chain is gathered. Once
/// warm, a request allocates nothing. What is kept is bounded.
#[derive(Debug, Default)]
pub struct Spares {
    pub(crate) lists: Lists,
    pub(crate) chain: Vec<Buffer>,
}

impl Spares {
    /// Nothing is kept yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list, an old one if there is one.
    #[inline]
    pub fn take(&mut self) -> Segments {
        self.lists.take()
    }

    /// Keeps a list's storage, within the bounds. The list should be empty: ranges in it must have gone back to
    /// their queue before.
    #[inline]
    pub fn give(&mut self, list: Segments) {
        self.lists.give(list);
    }
}

/// The stack.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: Vec<Segments>,
    room: usize,
}

impl Lists {
    /// An empty list, an old one if there is one.
    #[inline]
    pub(crate) fn take(&mut self) -> Segments {
        match self.lists.pop() {
            Some(list) => {
                self.room -= list.capacity();
                list
            }
            None => Segments::with_capacity(ROOM_NEW),
        }
    }

    /// Keeps a list's storage, within the bounds. The list should be empty: ranges in it must have gone back to
    /// their queue before.
    #[inline]
    pub(crate) fn give(&mut self, mut list: Segments) {
        debug_assert!(list.is_empty(), "ranges go back to their queue first");
        list.clear();
        let room = self.room + list.capacity();
        if self.lists.len() < LISTS_MAX && room <= ROOM_MAX {
            self.room = room;
            self.lists.push(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_used_again_and_what_is_kept_is_bounded() {
        let mut spares = Spares::new();
        let list = Segments::with_capacity(77);
        spares.give(list);
        let again = spares.take();
        assert!(again.capacity() >= 77);
        assert!(spares.take().capacity() < 77, "there was one");
        for _ in 0..2 * LISTS_MAX {
            spares.give(Segments::with_capacity(64));
        }
        assert!(
            spares.lists.room <= ROOM_MAX
                && spares.lists.lists.len() <= LISTS_MAX
                && !spares.lists.lists.is_empty()
        );
        spares.give(Segments::with_capacity(ROOM_MAX + 1));
        assert!(spares.lists.room <= ROOM_MAX);
    }
}
