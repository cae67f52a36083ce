//! Numbers from a seed: the only source of chance in here.

/// Numbers: from a seed, by xorshift64*, which is good enough to choose by, and the same on every machine; or the bytes that somebody chose.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64, Option<Bytes>);

/// Bytes, and how many of them were taken.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>, usize);

impl Bytes {
    /// A number of so many bytes. Behind the end there are zeroes.
    fn take(&mut self, len: usize) -> u64 {
        let mut word = [0; 8];
        for byte in word.iter_mut().take(len) {
            *byte = self.0.get(self.1).copied().unwrap_or(0);
            self.1 += 1;
        }
        u64::from_le_bytes(word)
    }
}

impl Random {
    /// Seeds that lie side by side begin far apart.
    pub(crate) fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ z >> 31) | 1, None)
    }

    /// Others, by the same seed, of which these know nothing.
    pub(crate) fn aside(&self) -> Self {
        Self::new(self.0)
    }

    /// Of bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(1, Some(Bytes(bytes.to_vec(), 0)))
    }

    /// Whether its bytes have come to their end.
    pub(crate) fn is_over(&self) -> bool {
        self.1.as_ref().is_some_and(|bytes| bytes.1 >= bytes.0.len())
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        if let Some(bytes) = &mut self.1 {
            return bytes.take(8);
        }
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `most`, which is not 0.
    #[inline]
    pub(crate) fn below(&mut self, most: u32) -> u32 {
        if let Some(bytes) = &mut self.1 {
            let len = if most <= 1 << 8 { 1 } else { 2 };
            return (bytes.take(len) % u64::from(most)) as u32;
        }
        (((self.next() >> 32) * u64::from(most)) >> 32) as u32
    }

    /// So many times out of a thousand.
    #[inline]
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille
    }

    /// One of them; there is at least one.
    #[inline]
    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }
}
