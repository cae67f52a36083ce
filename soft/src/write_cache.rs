//! A volatile write cache that really loses what was not flushed.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use nvme_platform::Window;

use crate::medium::{Medium, MediumFailed, zero_window};

/// The cache's line, in bytes: one bit of the map of dirty lines.
const LINE: u64 = 4096;

/// Puts a volatile cache of the image's whole size before `backing`: what is written reaches `backing` only by
/// [`Medium::flush`]. For tests of durability; keep an `Arc` of it to call [`lose_power`](WriteCache::lose_power).
pub struct WriteCache<M> {
    backing: M,
    window: Window,
    /// One bit for each [`LINE`].
    dirty: Vec<AtomicU64>,
}

impl<M: Medium> WriteCache<M> {
    /// Wraps a medium. `None` when there is no memory.
    pub fn new(backing: M) -> Option<Self> {
        let len = backing.window().len();
        let window = nvme_mem::heap(len)?;
        backing.window().copy_to(0, &window, 0, len).ok()?;
        let words = (len as u64).div_ceil(LINE * 64);
        Some(Self { backing, window, dirty: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// What is behind the cache: what would be there after a loss of power.
    pub fn backing(&self) -> &M {
        &self.backing
    }

    /// Drops everything that was written and not flushed. The caller sees to it that no command is running.
    pub fn lose_power(&self) {
        self.drain(0, self.window.len() as u64, |offset, len| {
            let _ = self.backing.window().copy_to(offset, &self.window, offset, len);
        });
    }

    /// How many lines of 4096 bytes are not durable.
    pub fn dirty(&self) -> u64 {
        self.dirty.iter().map(|w| u64::from(w.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Takes the dirty lines that touch a range and hands each over.
    fn drain(&self, offset: u64, len: u64, mut line: impl FnMut(usize, usize)) {
        let whole = self.window.len() as u64;
        for (word, mask) in words(offset, len.min(whole.saturating_sub(offset))) {
            let Some(dirty) = self.dirty.get(word) else { continue };
            // Acquire: pairs with `wrote`, so that the bytes are seen that made the line dirty. A write that comes
            // after the swap marks the line again.
            let mut bits = dirty.fetch_and(!mask, Ordering::AcqRel) & mask;
            while bits != 0 {
                let start = (word as u64 * 64 + u64::from(bits.trailing_zeros())) * LINE;
                line(start as usize, LINE.min(whole.saturating_sub(start)) as usize);
                bits &= bits - 1;
            }
        }
    }
}

/// The words of the dirty map, each with its mask, that cover a range of bytes.
fn words(offset: u64, len: u64) -> impl Iterator<Item = (usize, u64)> {
    let first = offset / LINE;
    let last = if len == 0 { first } else { (offset + len).div_ceil(LINE) };
    (first / 64..last.div_ceil(64).max(first / 64)).map(move |word| {
        let low = first.saturating_sub(word * 64).min(63);
        let high = (last - word * 64).min(64);
        let upto = if high == 64 { u64::MAX } else { (1 << high) - 1 };
        (word as usize, upto & (u64::MAX << low))
    })
}

impl<M: Medium> Medium for WriteCache<M> {
    fn window(&self) -> &Window {
        &self.window
    }

    fn wrote(&self, offset: u64, len: u64) {
        for (word, mask) in words(offset, len) {
            if let Some(dirty) = self.dirty.get(word) {
                // Release: whoever takes the bit also sees the bytes.
                dirty.fetch_or(mask, Ordering::Release);
            }
        }
    }

    fn flush(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        let mut done = Ok(());
        self.drain(offset, len, |start, bytes| {
            let to = self.backing.window();
            let copied = self.window.copy_to(start, to, start, bytes).is_ok() && !to.failed();
            self.backing.wrote(start as u64, bytes as u64);
            if !copied {
                done = Err(MediumFailed);
            }
        });
        done.and(self.backing.flush(offset, len))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        self.zero(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        zero_window(&self.window, offset, len)?;
        self.wrote(offset, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryMedium;

    fn byte(w: &Window, at: usize) -> u8 {
        w.read_value::<u8>(at).unwrap()
    }

    #[test]
    fn the_words_cover_exactly_the_lines_of_a_range() {
        for (offset, len) in
            [(0, 0), (0, 1), (4095, 2), (4096 * 63, 8192), (512, 4096 * 200), (4096 * 64, 4096)]
        {
            let lines: Vec<u64> = words(offset, len)
                .flat_map(|(w, m)| (0..64).filter(move |b| m >> b & 1 == 1).map(move |b| w as u64 * 64 + b))
                .collect();
            let expected: Vec<u64> =
                if len == 0 { Vec::new() } else { (offset / LINE..=(offset + len - 1) / LINE).collect() };
            assert_eq!(lines, expected, "{offset} {len}");
        }
    }

    #[test]
    fn what_was_not_flushed_is_lost_and_what_was_is_kept() {
        let cache = WriteCache::new(MemoryMedium::new(1 << 20).unwrap()).unwrap();
        for at in [0, 300 * 1024, (1 << 20) - 512] {
            cache.window().fill(at, 512, 7).unwrap();
            cache.wrote(at as u64, 512);
        }
        assert_eq!(cache.dirty(), 3);
        cache.flush(300 * 1024, 512).unwrap();
        assert_eq!(byte(cache.backing().window(), 300 * 1024), 7);
        cache.lose_power();
        assert_eq!((byte(cache.window(), 0), byte(cache.window(), 300 * 1024)), (0, 7));
        assert_eq!((byte(cache.window(), (1 << 20) - 1), cache.dirty()), (0, 0));
    }
}
