//! The commands of one queue pair that are in flight, by command identifier.
//!
//! An identifier is a slot and a sequence number: slots are used again, identifiers are not before the sequence
//! wraps. So a completion that is stale, repeated or made up finds nothing, as a rule, and can never index outside.

use alloc::vec::Vec;
use core::mem;

/// How many slots there are at first. When all are taken there are twice as many: so memory is asked for a few times in all.
const FIRST: u16 = 16;
/// No slot.
const NONE: u16 = u16::MAX;

/// Room for one command.
#[derive(Debug)]
struct Slot<T> {
    /// The identifier of the command here, or of the next one.
    cid: u16,
    /// While it is free: the slot that is free next.
    next: u16,
    command: Option<T>,
}

/// In-flight commands, at most as many as it was made for.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    /// Those that were needed so far, and some more: a pair that idles, or has few commands at a time, has memory for few.
    slots: Vec<Slot<T>>,
    max: u16,
    /// The slot that was free last.
    free: u16,
    count: usize,
    /// The bits of an identifier that are its slot.
    slot_mask: u16,
}

/// A place for a command, which nobody has taken meanwhile.
pub(super) struct Vacant<'a, T> {
    slot: &'a mut Slot<T>,
    free: &'a mut u16,
    count: &'a mut usize,
}

impl<T> Vacant<'_, T> {
    /// The identifier that a command has here.
    #[inline(always)]
    pub(super) fn cid(&self) -> u16 {
        self.slot.cid
    }

    /// Keeps a command here.
    #[inline(always)]
    pub(super) fn put(self, command: T) {
        *self.free = self.slot.next;
        *self.count += 1;
        // A free slot is empty, so there is nothing to be dropped. If there were, it would be kept for ever.
        mem::forget(self.slot.command.replace(command));
    }
}

impl<T> InFlight<T> {
    /// Room for `max` commands, 1 to 4095.
    pub(super) fn new(max: u16) -> Self {
        let max = max.clamp(1, 4095);
        // Wide enough for `max` itself, so that no slot is all ones: the identifier FFFFh, which means "no particular
        // command" in the error log (Base 5.16.1.2), is never given.
        let slot_bits = u16::BITS - max.leading_zeros();
        let mut table =
            Self { slots: Vec::new(), max, free: NONE, count: 0, slot_mask: (1 << slot_bits) - 1 };
        table.grow();
        table
    }

    /// Makes some more slots, when none is free and there may be more.
    #[inline(always)]
    fn grow(&mut self) {
        if self.free == NONE {
            self.grow_now();
        }
    }

    #[cold]
    #[inline(never)]
    fn grow_now(&mut self) {
        let first = self.slots.len() as u16;
        if first >= self.max {
            return;
        }
        let end = (2 * first).max(FIRST).min(self.max);
        // Those that are free already come behind them.
        let free = self.free;
        let next = |slot| if slot + 1 < end { slot + 1 } else { free };
        self.slots.reserve_exact(usize::from(end - first));
        self.slots.extend((first..end).map(|slot| Slot { cid: slot, next: next(slot), command: None }));
        self.free = first;
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many slots may have a command.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The slot that the next command takes; below the most that there can be. `None` when full.
    #[inline(always)]
    pub(super) fn next_slot(&mut self) -> Option<usize> {
        self.grow();
        (self.free != NONE).then_some(usize::from(self.free))
    }

    /// The slot and the identifier that [`put`](Self::put) takes next. `None` when full.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<(usize, u16)> {
        self.grow();
        let slot = usize::from(self.free);
        self.slots.get(slot).map(|free| (slot, free.cid))
    }

    /// The place that the next command takes. `None` when full, or when there must be more slots first, which
    /// [`next`](Self::next) sees to.
    #[inline(always)]
    pub(super) fn vacant(&mut self) -> Option<Vacant<'_, T>> {
        let Self { slots, free, count, .. } = self;
        slots.get_mut(usize::from(*free)).map(|slot| Vacant { slot, free, count })
    }

    /// Keeps a command under the identifier that [`next`](Self::next) just gave.
    #[inline(always)]
    pub(super) fn put(&mut self, command: T) {
        self.grow();
        if let Some(vacant) = self.vacant() {
            vacant.put(command);
        }
    }

    /// Keeps a command and gives it its identifier; hands it back when there is no room.
    pub(super) fn insert(&mut self, command: T) -> Result<u16, T> {
        match self.next() {
            Some((_, cid)) => {
                self.put(command);
                Ok(cid)
            }
            None => Err(command),
        }
    }

    /// Keeps a command that has its identifier already. False: its place is taken, or there is none.
    pub(super) fn adopt(&mut self, cid: u16, command: T) -> bool {
        let at = self.slot(cid) as u16;
        while usize::from(at) >= self.slots.len() {
            let before = self.slots.len();
            self.grow_now();
            if self.slots.len() == before {
                return false;
            }
        }
        // Out of the list of those that are free.
        let mut before = NONE;
        let mut free = self.free;
        while free != at {
            let Some(slot) = self.slots.get(usize::from(free)) else { return false };
            (before, free) = (free, slot.next);
        }
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return false };
        (slot.cid, slot.command) = (cid, Some(command));
        let next = slot.next;
        match self.slots.get_mut(usize::from(before)) {
            Some(before) => before.next = next,
            None => self.free = next,
        }
        self.count += 1;
        true
    }

    /// The slot of an identifier.
    #[inline(always)]
    pub(super) fn slot(&self, cid: u16) -> usize {
        usize::from(cid & self.slot_mask)
    }

    /// Takes the command with this identifier, if it is in flight.
    #[inline(always)]
    pub(super) fn take(&mut self, cid: u16) -> Option<T> {
        self.take_if(cid, |_| true)
    }

    /// As [`take`](Self::take), if the command is what `which` says.
    #[inline(always)]
    pub(super) fn take_if(&mut self, cid: u16, which: impl FnOnce(&T) -> bool) -> Option<T> {
        let at = self.slot(cid);
        let slot = self.slots.get_mut(at)?;
        if slot.cid != cid || !slot.command.as_ref().is_some_and(which) {
            return None;
        }
        // Before anything is written: so what was just looked at is not loaded again.
        let command = slot.command.take();
        // The next sequence number, above the slot's own bits.
        slot.cid = cid.wrapping_add(self.slot_mask).wrapping_add(1);
        slot.next = self.free;
        self.free = at as u16;
        self.count -= 1;
        command
    }

    /// The command with this identifier, if it is in flight.
    pub(super) fn get(&self, cid: u16) -> Option<&T> {
        self.slots.get(self.slot(cid)).filter(|slot| slot.cid == cid)?.command.as_ref()
    }

    /// As [`get`](Self::get), to be changed.
    pub(super) fn get_mut(&mut self, cid: u16) -> Option<&mut T> {
        let at = self.slot(cid);
        self.slots.get_mut(at).filter(|slot| slot.cid == cid)?.command.as_mut()
    }

    /// The command in this slot, with its identifier.
    pub(super) fn at(&self, slot: usize) -> Option<(u16, &T)> {
        self.slots.get(slot).and_then(|slot| Some((slot.cid, slot.command.as_ref()?)))
    }

    /// All of them, in any order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.slots.iter_mut().filter_map(|slot| slot.command.as_mut().map(|command| (slot.cid, command)))
    }

    /// All of them, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        self.slots.iter().filter_map(|slot| slot.command.as_ref().map(|command| (slot.cid, command)))
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
            let mut most = 0;
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
                most = most.max(model.len());
                prop_assert!(table.slots() <= usize::from(FIRST).max(2 * most));
            }
            // Another one goes on with what is in flight, and has room for the rest.
            let mut next = InFlight::new(max);
            for (cid, i) in &model {
                prop_assert!(next.adopt(*cid, *i) && !next.adopt(*cid, *i));
            }
            for i in model.len()..usize::from(max) {
                let cid = next.insert(i).unwrap();
                prop_assert!(model.insert(cid, i).is_none());
            }
            prop_assert_eq!((next.insert(0), next.len()), (Err(0), usize::from(max)));
            for (cid, i) in model {
                prop_assert_eq!(next.take(cid), Some(i));
            }
            prop_assert!(!next.adopt(max, 0), "no such slot");
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
