//! The rings, and who tells whom what.

use core::sync::atomic::{Ordering, fence};

use nvme_platform::{Entries, OutOfBounds, Table, Window};

use super::{Broken, RingError};
use crate::memory::MemoryTable;

/// Longest queue.
pub const QUEUE_MAX: u16 = 1024;

/// Available ring, flags (virtio 1.2, 2.7.6): the driver wants no notifications.
const NO_INTERRUPT: u16 = 1;
/// Used ring, flags (virtio 1.2, 2.7.8): the device wants no notifications.
const NO_NOTIFY: u16 = 1;

/// In both rings: flags at 0, index at 2, entries from 4.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// What kind of addresses the rings have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpace {
    /// Guest-physical, as in descriptors (L4virtio).
    Guest,
    /// The client's own process (vhost-user).
    Client,
}

/// Where the rings are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingAddresses {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    /// What kind of addresses these are.
    pub space: AddressSpace,
}

struct Rings {
    desc: Table<[u64; 2]>,
    avail: Window,
    /// The entries of the available ring.
    heads: Table<u16>,
    used: Window,
    /// The entries of the used ring: a head, and how many bytes were written to its chain.
    given: Table<[u32; 2]>,
}

impl Rings {
    fn resolve(at: &RingAddresses, size: u16, table: &MemoryTable) -> Result<Self, RingError> {
        let n = usize::from(size);
        // Address, length and alignment: virtio 1.2, 2.7. The event fields behind the rings are part of them.
        let parts = [(at.desc, 16 * n, 16), (at.avail, 6 + 2 * n, 2), (at.used, 6 + 8 * n, 4)];
        let [desc, avail, used] = parts.map(|(addr, len, align)| {
            if !addr.is_multiple_of(align) {
                return Err(RingError::Misaligned);
            }
            let found = match at.space {
                AddressSpace::Guest => table.guest_window(addr, len),
                AddressSpace::Client => table.user_window(addr, len),
            };
            let (window, writable) = found.ok_or(RingError::NotRegistered)?;
            // Atomic accesses go by our own address.
            let aligned = (window.address() as u64).is_multiple_of(align.min(8));
            if aligned { Ok((window, writable)) } else { Err(RingError::Misaligned) }
        });
        let (used, writable) = used?;
        if !writable {
            return Err(RingError::NotWritable);
        }
        let ((desc, _), (avail, _)) = (desc?, avail?);
        let table = || {
            let heads = Table::new(&avail, ENTRIES, size.into())?;
            let given = Table::new(&used, ENTRIES, size.into())?;
            Ok((Table::new(&desc, 0, size.into())?, heads, given))
        };
        let (desc, heads, given) = table().map_err(|_: OutOfBounds| RingError::Misaligned)?;
        Ok(Self { desc, avail, heads, used, given })
    }

    /// Lets go of the memory.
    #[cold]
    fn forget(&mut self) {
        let (avail, used) = (Window::empty(), Window::empty());
        *self = Self { desc: Table::gone(), avail, heads: Table::gone(), used, given: Table::gone() };
    }
}

/// One split virtqueue, from the device's side. Accesses to the rings cannot fail once they are resolved: all offsets
/// are masked or checked before; an error is answered as if the memory was gone.
pub struct Ring {
    rings: Rings,
    size: u16,
    event_idx: bool,
    /// Next available entry to take.
    next_avail: u16,
    /// The driver's available index, as last seen.
    seen_avail: u16,
    /// Next used entry to write.
    next_used: u16,
    /// The used index that the driver was last given.
    published: u16,
    /// Whether kicks are asked for.
    listening: bool,
}

impl Ring {
    /// Resolves the rings in `table`, without touching them: [`begin`](Self::begin) does. Available entries are taken from `next_avail` on.
    pub fn new(
        at: &RingAddresses,
        size: u16,
        next_avail: u16,
        event_idx: bool,
        table: &MemoryTable,
    ) -> Result<Self, RingError> {
        if !size.is_power_of_two() || size > QUEUE_MAX {
            return Err(RingError::BadSize);
        }
        let rings = Rings::resolve(at, size, table)?;
        Ok(Self {
            rings,
            size,
            event_idx,
            next_avail,
            seen_avail: next_avail,
            next_used: 0,
            published: 0,
            listening: true,
        })
    }

    /// Used entries go on where the used ring's own index says, and kicks are asked for. The first touch of the rings, which takes as long as
    /// their client likes.
    pub(crate) fn begin(&mut self) -> Result<(), Broken> {
        // The driver's claim; any value will do, as it is only ever used modulo the size.
        let used = self.rings.used.load16(INDEX).map_err(|_| Broken::MemoryGone)?;
        self.rings.used.store16(FLAGS, 0).map_err(|_| Broken::MemoryGone)?;
        (self.next_used, self.published) = (used, used);
        Ok(())
    }

    /// Resolves the rings in another table; indices stay. After an error the ring has no memory any more, and every
    /// access to it fails or comes to nothing.
    pub fn resolve(&mut self, at: &RingAddresses, table: &MemoryTable) -> Result<(), RingError> {
        match Rings::resolve(at, self.size, table) {
            Ok(rings) => {
                self.rings = rings;
                Ok(())
            }
            Err(why) => {
                // What is not registered any more is not to be kept mapped by a ring that serves nothing.
                self.rings.forget();
                Err(why)
            }
        }
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    #[inline(always)]
    pub(super) fn descriptors(&self) -> Entries<'_> {
        self.rings.desc.entries()
    }

    /// The next available entry that will be taken.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Goes on from another available entry. Before the first is taken.
    pub(crate) fn start_at(&mut self, next_avail: u16) {
        (self.next_avail, self.seen_avail) = (next_avail, next_avail);
    }

    /// The used index as the driver sees it.
    #[inline]
    pub(crate) fn used(&self) -> u16 {
        self.published
    }

    /// Reads the driver's available index. Acquire: the entries and descriptors before it are visible then.
    #[inline]
    fn look(&mut self) -> Result<bool, Broken> {
        let seen = self.rings.avail.load16(INDEX).map_err(|_| Broken::MemoryGone)?;
        if seen.wrapping_sub(self.next_avail) > self.size {
            return Err(Broken::AvailableJump);
        }
        // Kept only when it was found good: `take` goes on without another look.
        self.seen_avail = seen;
        Ok(self.seen_avail != self.next_avail)
    }

    /// The next available head, as the driver wrote it: it may be no descriptor of this queue. [`advance`](Self::advance) takes it.
    #[inline(always)]
    pub(crate) fn head(&mut self) -> Result<Option<u16>, Broken> {
        if self.seen_avail == self.next_avail && !self.look()? {
            return Ok(None);
        }
        let head = self.rings.heads.load_around(self.next_avail.into());
        // Asked after the bytes were read, before they are believed.
        if self.rings.heads.failed() { Err(Broken::MemoryGone) } else { Ok(Some(head)) }
    }

    /// The head that [`head`](Self::head) showed was taken.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Writes a used entry: `len` bytes were written to the chain of `head`. The driver sees it after
    /// [`publish`](Self::publish).
    #[inline(always)]
    pub fn give(&mut self, head: u16, len: u32) {
        self.rings.given.write_around(self.next_used.into(), [u32::from(head).to_le(), len.to_le()]);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether there are used entries that the driver does not see yet.
    #[inline(always)]
    pub(crate) fn is_to_publish(&self) -> bool {
        self.published != self.next_used
    }

    /// The heads in the used entries that the driver does not see yet, as they are there: the client may have changed them, and they may be
    /// no descriptors of this queue.
    #[inline(always)]
    pub(crate) fn unpublished(&self) -> impl ExactSizeIterator<Item = u16> + use<'_> {
        self.given(self.published, self.next_used)
    }

    /// How many there are of them.
    pub(crate) fn to_publish(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// The heads that were taken last, so many of them but no more than there are, as they are in the available ring: as above.
    pub(crate) fn taken_last(&self, count: u16) -> impl Iterator<Item = u16> + use<'_> {
        let count = count.min(self.size);
        let first = self.next_avail.wrapping_sub(count);
        (0..count).map(move |i| self.rings.heads.load_around(first.wrapping_add(i).into()))
    }

    /// The same in the used entries from one index to another.
    #[inline(always)]
    pub(crate) fn given(&self, from: u16, to: u16) -> impl ExactSizeIterator<Item = u16> + use<'_> {
        let at = move |i| from.wrapping_add(i).into();
        (0..to.wrapping_sub(from)).map(move |i| self.rings.given.load_first_around(at(i)) as u16)
    }

    /// Publishes the used entries, and says whether the driver wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        // Release: the entries before it, and the requests' data and status, are visible with it.
        let _ = self.rings.used.store16(INDEX, new);
        self.published = new;
        // The index must be visible before we look whether the driver waits; else both could miss each other
        // (virtio 1.2, 2.7.13.4.1 and 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.rings.avail.load16(ENTRIES + 2 * usize::from(self.size)).unwrap_or_default();
            // virtio 1.2, 2.7.10: whether `event` is one of the entries from `old` up to `new`.
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.rings.avail.load16(FLAGS).unwrap_or_default() & NO_INTERRUPT == 0
        }
    }

    /// Whether something is available, or broken.
    pub fn has_next(&mut self) -> bool {
        // An error will be found again, and reported, by `take`.
        self.seen_avail != self.next_avail || self.look().unwrap_or(true)
    }

    /// How many heads are available, as far as was seen, which is to be believed no more than the ring's index is.
    #[inline]
    pub fn offered(&mut self) -> u16 {
        if self.seen_avail == self.next_avail {
            // An error will be found again, and reported, by `take`.
            let _ = self.look();
        }
        self.seen_avail.wrapping_sub(self.next_avail)
    }

    /// Asks for kicks. True: something is available (or broken) already, so nobody will kick for it.
    pub fn listen(&mut self) -> bool {
        if self.event_idx {
            let _ = self.rings.used.store16(ENTRIES + 8 * usize::from(self.size), self.next_avail);
        } else if !self.listening {
            let _ = self.rings.used.store16(FLAGS, 0);
        }
        self.listening = true;
        // Our wish must be visible before we look for what came meanwhile (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        // An error will be found again, and reported, by `take`.
        self.look().unwrap_or(true)
    }

    /// Says that no kicks are needed for now. It is a hint: they may come all the same.
    pub fn ignore_kicks(&mut self) {
        // With an event index it is enough not to move it.
        if !self.event_idx && self.listening {
            let _ = self.rings.used.store16(FLAGS, NO_NOTIFY);
        }
        self.listening = false;
    }
}
