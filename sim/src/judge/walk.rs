//! A command as it lies in a submission queue, and the bus addresses that it names (NVM Express Base 1.4, 4.2 to 4.4). A second opinion: nothing
//! of the driver's or the software controller's is used.

/// Bytes of an entry of a submission queue.
pub(crate) const ENTRY: usize = 64;
const PAGE: u64 = 4096;

/// A submission queue entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(pub(crate) [u8; ENTRY]);

impl Entry {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.0[0]
    }

    pub(crate) fn cid(&self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    pub(crate) fn nsid(&self) -> u32 {
        self.u32(4)
    }

    pub(crate) fn prp1(&self) -> u64 {
        self.u64(24)
    }

    /// Command dword 10 to 15.
    pub(crate) fn dword(&self, n: usize) -> u32 {
        self.u32(n * 4)
    }

    /// First block.
    pub(crate) fn lba(&self) -> u64 {
        self.u64(40)
    }

    /// How many blocks.
    pub(crate) fn blocks(&self) -> u64 {
        u64::from(self.dword(12) & 0xffff) + 1
    }

    /// Hands over each run of bus addresses of the `len` bytes of data. `read` reads the driver's lists. False: the pointer is malformed.
    pub(crate) fn data(
        &self,
        len: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
        each: &mut dyn FnMut(u64, u64) -> bool,
    ) -> bool {
        match self.0[1] >> 6 {
            0 => self.prps(len, read, each),
            _ => self.sgls(len, read, each),
        }
    }

    fn prps(
        &self,
        len: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
        each: &mut dyn FnMut(u64, u64) -> bool,
    ) -> bool {
        let (first, second) = (self.u64(24), self.u64(32));
        let here = len.min(PAGE - first % PAGE);
        if !each(first, here) {
            return false;
        }
        let mut rest = len - here;
        if rest == 0 {
            return true;
        }
        if rest <= PAGE {
            return second.is_multiple_of(PAGE) && each(second, rest);
        }
        let mut at = second;
        while rest > 0 {
            let mut word = [0; 8];
            if !read(at, &mut word) {
                return false;
            }
            let page = u64::from_le_bytes(word);
            // The last entry of a page of list says where the list goes on, while more than a page is left.
            if at % PAGE == PAGE - 8 && rest > PAGE {
                at = page;
                continue;
            }
            let now = rest.min(PAGE);
            if !page.is_multiple_of(PAGE) || !each(page, now) {
                return false;
            }
            rest -= now;
            at += 8;
        }
        true
    }

    fn sgls(
        &self,
        len: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
        each: &mut dyn FnMut(u64, u64) -> bool,
    ) -> bool {
        let parse = |bytes: &[u8]| {
            let (at, tail) = bytes.split_at(8);
            let mut word = [0; 8];
            word.copy_from_slice(at);
            let count = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
            (u64::from_le_bytes(word), u64::from(count), tail[7])
        };
        let mut rest = len;
        let (mut at, mut bytes, mut kind) = parse(&self.0[24..40]);
        for _ in 0..4096 {
            match kind {
                0x00 => {
                    if bytes > rest || !each(at, bytes) {
                        return false;
                    }
                    return rest == bytes;
                }
                0x20 | 0x30 => {
                    let (from, count, last) = (at, bytes / 16, kind == 0x30);
                    for i in 0..count {
                        let mut entry = [0; 16];
                        if !read(from + i * 16, &mut entry) {
                            return false;
                        }
                        let (to, some, what) = parse(&entry);
                        if !last && i + 1 == count {
                            (at, bytes, kind) = (to, some, what);
                            break;
                        }
                        if what != 0 || some > rest || !each(to, some) {
                            return false;
                        }
                        rest -= some;
                    }
                    if last {
                        return rest == 0;
                    }
                }
                _ => return false,
            }
        }
        false
    }
}
