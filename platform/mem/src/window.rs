//! The window itself: all reads and writes of shared memory are here.
#![expect(unsafe_code, reason = "shared memory is reached through pointers here and nowhere else")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem::{MaybeUninit, size_of};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, compiler_fence};

use zerocopy::{FromBytes, IntoBytes};

use crate::Owner;

/// An access outside the window, or an atomic access at an odd address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBounds;

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access outside the memory window")
    }
}

impl core::error::Error for OutOfBounds {}

/// A range of bytes that others may change while we look. Offsets and lengths are in bytes.
///
/// Cloning costs one reference count; do it when something is set up, not per request.
#[derive(Clone)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    owner: Arc<Owner>,
}

// SAFETY: M3, M4: no access of one thread through a window assumes that another has none; the owner is `Send` and `Sync` itself.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Makes a window of `len` bytes at `base`.
    ///
    /// # Safety
    /// M1 and M3 of the [crate's argument](crate#why-this-is-sound) are the caller's to keep: the bytes must stay mapped, readable
    /// and (if anything ever writes through this window) writable until the last clone of `owner` is gone, and no Rust reference to
    /// them may exist meanwhile. They must have been initialised: mapped memory is.
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Arc<Owner>) -> Self {
        Self { base, len, owner }
    }

    /// A window of no bytes, which keeps nothing alive.
    pub fn empty() -> Self {
        Self { base: NonNull::dangling(), len: 0, owner: Arc::new(Owner::new(Box::new(()))) }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the window holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the memory behind the window vanished ([`Owner::fail`]).
    #[inline]
    pub fn failed(&self) -> bool {
        self.owner.failed()
    }

    /// Whether both are the same bytes of the same mapping.
    #[inline]
    pub fn is(&self, other: &Window) -> bool {
        self.base == other.base && self.len == other.len && Arc::ptr_eq(&self.owner, &other.owner)
    }

    /// Who keeps the memory alive.
    pub fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// The address in this process, for the home's own calls (mapping for DMA). Not a licence to dereference.
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The part of `len` bytes at `offset`.
    pub fn sub(&self, offset: usize, len: usize) -> Result<Window, OutOfBounds> {
        let base = self.at(offset, len)?;
        Ok(Window { base, len, owner: Arc::clone(&self.owner) })
    }

    #[inline(always)]
    pub(crate) fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(OutOfBounds);
        }
        // SAFETY: this is where M2 is checked: `offset <= offset + len <= self.len`, so the result is inside the window or one past
        // its end.
        Ok(unsafe { self.base.add(offset) })
    }

    /// As [`at`](Self::at), for an offset that was probably compared with the length before: then half of the check is known.
    #[inline(always)]
    pub(crate) fn at_known(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if offset > self.len || len > self.len - offset {
            return Err(OutOfBounds);
        }
        // SAFETY: M2, by the same: `offset <= self.len`, and what is behind it is no shorter than `len`.
        Ok(unsafe { self.base.add(offset) })
    }

    /// For tests, and only in builds that assert: the eight bytes at `offset` become others as soon as the first of them was read, as if their
    /// client had been waiting for that.
    #[cfg(debug_assertions)]
    pub fn change_once_read(&self, offset: usize, to: u64) -> Result<(), OutOfBounds> {
        self.owner.change(self.at(offset, 8)?.as_ptr(), to);
        Ok(())
    }

    /// These bytes were read: what waits for that happens.
    #[cfg(debug_assertions)]
    #[inline]
    pub(crate) fn was_read(&self, from: NonNull<u8>, len: usize) {
        if let Some((at, to)) = self.owner.changed_by(from.as_ptr(), len) {
            // SAFETY: M1, M2: eight bytes from there on were checked when this was asked for, of a mapping of the same owner. M4: others read.
            unsafe { at.cast::<u64>().write_unaligned(to) };
        }
    }

    /// Nothing waits for that, in other builds.
    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "as in builds that assert")]
    #[inline(always)]
    pub(crate) const fn was_read(&self, _: NonNull<u8>, _: usize) {}

    /// Copies bytes out.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.at(offset, into.len())?;
        // SAFETY: M1, M2; M3: `into` is a reference, so the two cannot overlap. M4: the bytes may change meanwhile.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        // M4: what is looked at from here on is the copy. It costs no instruction.
        compiler_fence(Ordering::AcqRel);
        self.was_read(from, into.len());
        Ok(())
    }

    /// Copies bytes in.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let into = self.at(offset, from.len())?;
        if self.owner.is_spent() {
            return Ok(());
        }
        // SAFETY: M1, M2; M3: `from` is a reference, so the two cannot overlap. M4: others may read meanwhile.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets `len` bytes to `byte`.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let into = self.at(offset, len)?;
        if self.owner.is_spent() {
            return Ok(());
        }
        // SAFETY: M1, M2. M4: others may read meanwhile.
        unsafe { ptr::write_bytes(into.as_ptr(), byte, len) };
        Ok(())
    }

    /// Copies `len` bytes to another window. The two may overlap.
    #[inline]
    pub fn copy_to(
        &self,
        offset: usize,
        to: &Window,
        to_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let from = self.at_known(offset, len)?;
        let into = to.at_known(to_offset, len)?;
        // SAFETY: M1, M2 for both, and `copy` allows overlap. M4: nobody looks at what is copied here.
        unsafe { ptr::copy(from.as_ptr(), into.as_ptr(), len) };
        Ok(())
    }

    /// Reads a value, each of its bytes exactly once. Any address will do; eight-byte alignment is fast.
    #[inline]
    pub fn read_value<T: FromBytes>(&self, offset: usize) -> Result<T, OutOfBounds> {
        let start = self.at(offset, size_of::<T>())?;
        let from = start.as_ptr();
        let mut value = MaybeUninit::<T>::uninit();
        let into = value.as_mut_ptr().cast::<u8>();
        if size_of::<T>().is_multiple_of(8) && (from as usize).is_multiple_of(8) {
            for i in 0..size_of::<T>() / 8 {
                // SAFETY: M2: word `i` is inside the checked range.
                let at = unsafe { from.cast::<u64>().add(i) };
                // SAFETY: M1, M2, and its address is a multiple of eight. M4: any word will do, and it is read once.
                let word = unsafe { at.read_volatile() };
                // SAFETY: word `i` is inside `value`.
                let to = unsafe { into.cast::<u64>().add(i) };
                // SAFETY: as above; `value` may be less aligned than a word.
                unsafe { to.write_unaligned(word) };
            }
        } else {
            // SAFETY: M1, M2 for `from`; `into` is a value of ours of that size.
            unsafe { read_bytes(from, into, size_of::<T>()) };
        }
        self.was_read(start, size_of::<T>());
        // SAFETY: every byte was written, and `FromBytes` says that any bytes are a valid `T` (M4).
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a value.
    #[inline]
    pub fn write_value<T: IntoBytes + zerocopy::Immutable>(
        &self,
        offset: usize,
        value: &T,
    ) -> Result<(), OutOfBounds> {
        self.write(offset, value.as_bytes())
    }

    #[inline]
    fn atomic16(&self, offset: usize) -> Result<&AtomicU16, OutOfBounds> {
        let at = self.at(offset, 2)?.cast::<AtomicU16>();
        if !at.is_aligned() {
            return Err(OutOfBounds);
        }
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        Ok(unsafe { at.as_ref() })
    }

    #[inline]
    fn atomic32(&self, offset: usize) -> Result<&AtomicU32, OutOfBounds> {
        let at = self.at(offset, 4)?.cast::<AtomicU32>();
        if !at.is_aligned() {
            return Err(OutOfBounds);
        }
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        Ok(unsafe { at.as_ref() })
    }

    /// Loads a little-endian 16-bit word; what its writer released before it is visible afterwards.
    #[inline]
    pub fn load16(&self, offset: usize) -> Result<u16, OutOfBounds> {
        let word = self.atomic16(offset)?;
        let value = word.load(Ordering::Acquire);
        self.was_read(NonNull::from(word).cast(), 2);
        Ok(u16::from_le(value))
    }

    /// Stores a little-endian 16-bit word; what we wrote before it is visible to whoever acquires it.
    #[inline]
    pub fn store16(&self, offset: usize, value: u16) -> Result<(), OutOfBounds> {
        let word = self.atomic16(offset)?;
        if !self.owner.is_spent() {
            word.store(value.to_le(), Ordering::Release);
        }
        Ok(())
    }

    /// As [`Window::load16`], for 32 bits.
    #[inline]
    pub fn load32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        Ok(u32::from_le(self.atomic32(offset)?.load(Ordering::Acquire)))
    }

    /// As [`Window::store16`], for 32 bits.
    #[inline]
    pub fn store32(&self, offset: usize, value: u32) -> Result<(), OutOfBounds> {
        let word = self.atomic32(offset)?;
        if !self.owner.is_spent() {
            word.store(value.to_le(), Ordering::Release);
        }
        Ok(())
    }

    /// Sets bits in a little-endian 32-bit word and says what it held before.
    pub fn or32(&self, offset: usize, bits: u32) -> Result<u32, OutOfBounds> {
        Ok(u32::from_le(self.atomic32(offset)?.fetch_or(bits.to_le(), Ordering::AcqRel)))
    }
}

/// Reads bytes one by one, each exactly once. Not inlined: otherwise the compiler takes the words of the fast path
/// to pieces as well.
///
/// # Safety
/// `from` must be valid for reads of `len` bytes, `into` for writes, and the two must not overlap.
#[cold]
#[inline(never)]
unsafe fn read_bytes(from: *const u8, into: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: M2: byte `i` is inside the range.
        let at = unsafe { from.add(i) };
        // SAFETY: M1, M2. M4: any byte will do, and it is read once.
        let byte = unsafe { at.read_volatile() };
        // SAFETY: byte `i` is inside the range.
        let to = unsafe { into.add(i) };
        // SAFETY: as above.
        unsafe { to.write(byte) };
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn an_access_over_the_end_is_refused_whatever_wraps() {
        let w = heap(64).unwrap();
        assert_eq!(w.read(60, &mut [0; 5]), Err(OutOfBounds));
        assert_eq!(w.write(usize::MAX, &[0; 2]), Err(OutOfBounds));
        assert!(w.sub(64, 0).is_ok() && w.sub(65, 0).is_err() && w.sub(1, usize::MAX).is_err());
        assert!(w.read_value::<u64>(57).is_err() && w.load16(63).is_err());
        assert!(w.copy_to(0, &w, 32, 33).is_err());
    }

    #[test]
    fn atomics_need_their_alignment() {
        let w = heap(64).unwrap();
        assert!(w.load16(1).is_err() && w.store32(2, 0).is_err() && w.store32(4, 7).is_ok());
        assert_eq!(w.load32(4), Ok(7));
        assert_eq!((w.or32(4, 8), w.load32(4)), (Ok(7), Ok(15)));
    }

    #[test]
    fn values_are_read_at_any_address() {
        let w = heap(64).unwrap();
        let bytes: [u8; 64] = core::array::from_fn(|i| i as u8);
        w.write(0, &bytes).unwrap();
        for at in 0..=48 {
            assert_eq!(w.read_value::<[u8; 16]>(at).unwrap(), bytes[at..at + 16]);
        }
    }

    #[test]
    fn a_narrowed_window_cannot_reach_its_neighbours() {
        let w = heap(64).unwrap();
        let s = w.sub(16, 16).unwrap();
        s.fill(0, 16, 0xff).unwrap();
        assert!(s.fill(0, 17, 0xee).is_err());
        let mut all = [0; 64];
        w.read(0, &mut all).unwrap();
        assert!(all.iter().enumerate().all(|(i, b)| (*b == 0xff) == (16..32).contains(&i)));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn what_waits_to_change_does_so_once_its_first_byte_was_read() {
        let w = heap(64).unwrap();
        let table = crate::Table::<u16>::new(&w, 0, 4).unwrap();
        assert!(w.change_once_read(57, 1).is_err());
        let looks: [(usize, &dyn Fn() -> u64); 6] = [
            (16, &|| w.read_value::<u64>(16).unwrap()),
            (17, &|| w.read_value::<[u8; 3]>(16).unwrap()[0].into()),
            (16, &|| w.load16(16).unwrap().into()),
            (24, &|| w.entries(16, 1).unwrap().get(0).unwrap()[1]),
            (24, &|| w.entries(16, 1).unwrap().get_parts(0).unwrap().1[0].into()),
            (4, &|| table.load_around(2).into()),
        ];
        for (at, look) in looks {
            w.fill(0, 64, 0).unwrap();
            w.change_once_read(at, u64::MAX).unwrap();
            // Beside it nobody waits.
            assert_eq!(w.read_value::<u32>(32), Ok(0));
            assert_eq!(look(), 0, "at {at}");
            let mut bytes = [0; 8];
            w.read(at, &mut bytes).unwrap();
            assert_eq!(bytes, [0xff; 8], "at {at}");
            w.fill(0, 64, 0).unwrap();
            look();
            assert_eq!(w.read_value::<u64>(at), Ok(0), "once");
        }
    }
}
