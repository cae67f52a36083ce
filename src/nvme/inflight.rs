//! The commands of one queue pair that are in flight, by command identifier.
//!
//! An identifier is a slot and a sequence number: slots are used again, identifiers are not before the sequence
//! wraps. So a completion that is stale, repeated or made up finds nothing, as a rule, and can never index outside.

use alloc::boxed::Box;
use alloc::vec;

use slab::Slab;

/// In-flight commands, at most as many as it was made for.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    slots: Slab<(u16, T)>,
    sequence: Box<[u16]>,
    slot_bits: u32,
    max: usize,
}

impl<T> InFlight<T> {
    /// Room for `max` commands, 1 to 4095.
    pub(super) fn new(max: u16) -> Self {
        let max = max.clamp(1, 4095);
        // Wide enough for `max` itself, so that no slot is all ones: the identifier FFFFh, which means "no particular
        // command" in the error log (Base 5.16.1.2), is never given.
        let slot_bits = u16::BITS - max.leading_zeros();
        Self {
            slots: Slab::with_capacity(usize::from(max)),
            sequence: vec![0; usize::from(max)].into_boxed_slice(),
            slot_bits,
            max: usize::from(max),
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= self.max
    }

    /// The slot that the next command takes; below the most that there can be. `None` when full.
    #[inline(always)]
    pub(super) fn next_slot(&self) -> Option<usize> {
        (!self.is_full()).then(|| self.slots.vacant_key())
    }

    /// The slot and the identifier that [`put`](Self::put) takes next. `None` when full.
    #[inline(always)]
    pub(super) fn next(&self) -> Option<(usize, u16)> {
        let slot = self.next_slot()?;
        let sequence = self.sequence.get(slot)?;
        Some((slot, (*sequence << self.slot_bits) | slot as u16))
    }

    /// Keeps a command under the identifier that [`next`](Self::next) just gave.
    #[inline(always)]
    pub(super) fn put(&mut self, cid: u16, command: T) {
        let slot = self.slots.insert((cid, command));
        if let Some(sequence) = self.sequence.get_mut(slot) {
            *sequence = sequence.wrapping_add(1);
        }
    }

    /// Keeps a command and gives it its identifier; hands it back when there is no room.
    pub(super) fn insert(&mut self, command: T) -> Result<u16, T> {
        match self.next() {
            Some((_, cid)) => {
                self.put(cid, command);
                Ok(cid)
            }
            None => Err(command),
        }
    }

    /// The slot of an identifier.
    #[inline]
    pub(super) fn slot(&self, cid: u16) -> usize {
        usize::from(cid) & ((1 << self.slot_bits) - 1)
    }

    /// Takes the command with this identifier, if it is in flight.
    #[inline(always)]
    pub(super) fn take(&mut self, cid: u16) -> Option<T> {
        self.take_if(cid, |_| true)
    }

    /// As [`take`](Self::take), if the command is what `which` says.
    #[inline(always)]
    pub(super) fn take_if(&mut self, cid: u16, which: impl FnOnce(&T) -> bool) -> Option<T> {
        let slot = self.slot(cid);
        match self.slots.get(slot) {
            Some((own, command)) if *own == cid && which(command) => {
                self.slots.try_remove(slot).map(|(_, command)| command)
            }
            _ => None,
        }
    }

    /// The command with this identifier, if it is in flight.
    pub(super) fn get(&self, cid: u16) -> Option<&T> {
        self.slots.get(self.slot(cid)).filter(|(own, _)| *own == cid).map(|(_, command)| command)
    }

    /// All of them, in any order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.slots.iter_mut().map(|(_, (cid, command))| (*cid, command))
    }

    /// All of them, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        self.slots.iter().map(|(_, (cid, command))| (*cid, command))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_an_identifier_that_is_in_flight_finds_its_command(
            max in 1_u16..40,
            steps in prop::collection::vec((any::<bool>(), any::<u16>()), 0..400),
        ) {
            let mut table = InFlight::new(max);
            let mut model: alloc::collections::BTreeMap<u16, usize> = Default::default();
            for (i, (add, pick)) in steps.into_iter().enumerate() {
                if add {
                    let slot = table.next_slot();
                    match table.insert(i) {
                        Ok(cid) => {
                            prop_assert_eq!(slot, Some(table.slot(cid)));
                            prop_assert!(cid != u16::MAX && model.insert(cid, i).is_none());
                        }
                        Err(_) => prop_assert!(model.len() == usize::from(max) && slot.is_none()),
                    }
                } else {
                    // Half of the time one that exists, else anything.
                    let cid = match model.keys().nth(usize::from(pick) % (2 * model.len()).max(1)) {
                        Some(cid) => *cid,
                        None => pick,
                    };
                    prop_assert_eq!(table.get(cid).copied(), model.get(&cid).copied());
                    prop_assert_eq!(table.take(cid), model.remove(&cid));
                }
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }

    #[test]
    fn an_identifier_is_not_given_again_at_once() {
        let mut table = InFlight::new(255);
        let mut seen = alloc::collections::BTreeSet::new();
        for i in 0..200 {
            let cid = table.insert(i).unwrap();
            assert!(seen.insert(cid));
            assert_eq!(table.take(cid), Some(i));
            assert_eq!(table.take(cid), None, "a second completion finds nothing");
        }
    }
}
