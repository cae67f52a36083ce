//! Bytes from one thread to another. Stepped through every order of its accesses by `tests/threads`.

use super::sync::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// A ring of bytes with one writer and one reader, who never wait for each other.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Box<[AtomicU8]>,
    /// Bytes written and read since the beginning; they wrap together.
    written: AtomicUsize,
    read: AtomicUsize,
    lost: AtomicU64,
}

impl Ring {
    /// `capacity`: a power of two.
    pub(super) fn new(capacity: usize) -> Self {
        let bytes = (0..capacity.next_power_of_two()).map(|_| AtomicU8::new(0)).collect();
        Self { bytes, written: AtomicUsize::new(0), read: AtomicUsize::new(0), lost: AtomicU64::new(0) }
    }

    /// By the writer: puts a frame in as a whole, or counts it as lost.
    pub(super) fn push(&self, frame: &[u8]) {
        let written = self.written.load(Ordering::Relaxed);
        // Acquire: what the reader has read is ours to overwrite.
        let held = written.wrapping_sub(self.read.load(Ordering::Acquire));
        if frame.len() > self.bytes.len().saturating_sub(held) {
            self.lose();
            return;
        }
        for (index, byte) in frame.iter().enumerate() {
            self.at(written.wrapping_add(index), |place| place.store(*byte, Ordering::Relaxed));
        }
        // Release: the bytes above are there when the reader sees this.
        self.written.store(written.wrapping_add(frame.len()), Ordering::Release);
    }

    /// By the writer: a frame could not be made.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// By the reader: bytes that can be read now.
    pub(super) fn held(&self) -> usize {
        self.written.load(Ordering::Acquire).wrapping_sub(self.read.load(Ordering::Relaxed))
    }

    /// By the reader: moves as many bytes as there are and fit; how many.
    pub(super) fn pop(&self, into: &mut [u8]) -> usize {
        let read = self.read.load(Ordering::Relaxed);
        let length = self.held().min(into.len());
        for (index, byte) in into.iter_mut().take(length).enumerate() {
            self.at(read.wrapping_add(index), |place| *byte = place.load(Ordering::Relaxed));
        }
        // Release: the writer overwrites these only after we have them.
        self.read.store(read.wrapping_add(length), Ordering::Release);
        length
    }

    /// By the reader: frames lost since the last time.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    fn at(&self, position: usize, act: impl FnOnce(&AtomicU8)) {
        if let Some(place) = self.bytes.get(position & self.bytes.len().wrapping_sub(1)) {
            act(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn frames_go_round_in_order_and_a_full_ring_drops_whole_frames() {
        let ring = Ring::new(16);
        let mut out = [0; 16];
        for round in 0..100u8 {
            let frame = [round; 5];
            (0..4).for_each(|_| ring.push(&frame));
            assert_eq!(ring.take_lost(), 1);
            assert_eq!(ring.pop(&mut out[..7]), 7);
            assert_eq!(ring.pop(&mut out[7..]), 8);
            assert_eq!(out[..15], [round; 15]);
            assert_eq!(ring.pop(&mut out), 0);
        }
    }
}
