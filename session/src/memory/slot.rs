//! What an account knows about one slot.

use nvme_platform::Window;

/// What is known about one slot.
#[derive(Debug)]
pub(super) struct Slot {
    /// Bytes in flight. Counted from [`UNLISTED`] where the current table has not the slot, which is kept for what is in flight then: so
    /// whoever gives bytes back sees by the sign alone that there is more to do.
    pub(super) bytes: i64,
    pub(super) window: Option<Window>,
}

// It is looked for four times for each request.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Slot>() == 32);

/// Far below any count of bytes.
pub(super) const UNLISTED: i64 = i64::MIN / 2;

impl Slot {
    pub(super) const NONE: Self = Self { bytes: UNLISTED, window: None };

    /// How many bytes of it are in flight.
    pub(super) fn held(&self) -> u64 {
        (self.bytes - self.base()) as u64
    }

    /// What its bytes are counted from.
    fn base(&self) -> i64 {
        if self.bytes < 0 { UNLISTED } else { 0 }
    }

    /// Whether the current table has it, from now on.
    pub(super) fn list(&mut self, listed: bool) {
        self.bytes = self.bytes - self.base() + if listed { 0 } else { UNLISTED };
    }

    /// So many bytes more are in flight.
    #[inline(always)]
    pub(super) fn hold(&mut self, bytes: u32) {
        self.bytes += i64::from(bytes);
    }

    /// So many bytes are in flight no more.
    #[inline(always)]
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.give_back_all(bytes.into());
    }

    /// The same for several ranges together.
    #[inline(always)]
    pub(super) fn give_back_all(&mut self, bytes: i64) {
        self.bytes -= bytes;
        if self.bytes < 0 {
            self.settle(bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn settle(&mut self, given: i64) {
        // No more is ever given back than was held; if it were, it would come to nothing.
        let before = self.bytes + given;
        let base = if before < 0 { UNLISTED } else { 0 };
        self.bytes = self.bytes.max(base);
        self.forget_unless_needed();
    }

    pub(super) fn forget_unless_needed(&mut self) {
        if self.bytes == UNLISTED {
            self.window = None;
        }
    }
}
