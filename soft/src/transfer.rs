//! The data pointer of a command: PRP entries, PRP lists and SGLs (NVM Express Base 1.4, 4.3 and 4.4), walked piece
//! by piece. Everything read here was written by the driver, and may be anything.

use nvme_platform::PAGE;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::map::{Hits, Mapping};
use crate::wire::{Sqe, Status};
use crate::world::View;

/// Most SGL descriptors of one command, so that empty ones do not go on for ever.
const DESCRIPTORS_MAX: u32 = 8192;
/// How many list entries are read at once.
const CHUNK: usize = 16;

/// Direction of a transfer, as the controller sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// From memory: disk writes, ranges.
    Load,
    /// To memory: disk reads, Identify.
    Store,
}

/// An SGL descriptor (4.4).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    address: U64,
    len: U32,
    reserved: [u8; 3],
    /// Type in bits 7:4, subtype in 3:0 (0: the address is an address).
    kind: u8,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

impl Descriptor {
    const BLOCK: u8 = 0x00;
    const SEGMENT: u8 = 0x20;
    const LAST_SEGMENT: u8 = 0x30;
}

/// The controller's way to memory.
pub(crate) struct Dma<'a> {
    pub(crate) view: &'a View,
    /// Where mappings were found.
    pub(crate) hits: &'a mut Hits,
}

impl<'a> Dma<'a> {
    /// Hands over the memory behind `len` bytes at a bus address, mapping by mapping.
    #[inline]
    fn reach(
        &mut self,
        iova: u64,
        len: usize,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let (mut iova, mut len) = (iova, len);
        // Each turn covers at least a byte of a mapping; mappings are whole pages.
        while len > 0 {
            let (mapping, offset) = self.view.map.find(iova, self.hits).ok_or(Status::DATA_TRANSFER)?;
            if access == Access::Store && !mapping.writable {
                return Err(Status::DATA_TRANSFER);
            }
            let part = len.min(mapping.window.len() - offset);
            each(mapping, offset, part)?;
            len -= part;
            iova = iova.wrapping_add(part as u64);
        }
        Ok(())
    }

    /// Hands over a run of pages, probably of the mapping `near`, where the one before was found: it may be accessed like that.
    #[inline(always)]
    fn reach_near(
        &mut self,
        near: &mut Option<&'a Mapping>,
        run: &Run,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        if let Some((mapping, offset)) = near.and_then(|near| Some((near, near.offset(run.at)?)))
            && run.len <= mapping.window.len() - offset
        {
            return each(mapping, offset, run.len);
        }
        *near = None;
        let view = self.view;
        if let Some((mapping, offset)) = view.map.find(run.at, self.hits)
            && (access == Access::Load || mapping.writable)
            && run.len <= mapping.window.len() - offset
        {
            *near = Some(mapping);
            return each(mapping, offset, run.len);
        }
        self.reach(run.at, run.len, access, each)
    }

    /// Reads from memory into our own.
    fn load(&mut self, iova: u64, into: &mut [u8]) -> Result<(), Status> {
        let mut done = 0;
        self.reach(iova, into.len(), Access::Load, &mut |mapping, offset, len| {
            let window = &mapping.window;
            let part = into.get_mut(done..done + len).ok_or(Status::INTERNAL)?;
            done += len;
            window.read(offset, part).map_err(|_| Status::INTERNAL)?;
            if window.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        })
    }

    /// Walks the `len` bytes that a command's data pointer describes, in order, and hands over each piece of memory.
    #[inline(always)]
    pub(crate) fn walk(
        &mut self,
        sqe: &Sqe,
        len: usize,
        access: Access,
        mut each: impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let [first, second] = sqe.data;
        let (kind, first) = (sqe.flags >> 6, first.get());
        // Most transfers stay in one page; whatever is wrong with this one is found below.
        if kind == 0
            && first & 3 == 0
            && in_page(first) + len <= PAGE
            && let Some((mapping, offset)) = self.view.map.find(first, self.hits)
            && (access == Access::Load || mapping.writable)
            && len <= mapping.window.len() - offset
        {
            return each(mapping, offset, len);
        }
        match kind {
            0 => self.prp(first, second.get(), len, access, &mut each),
            1 | 2 if self.view.sgl => self.sgl(sqe, len, access, &mut each),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    #[inline(never)]
    fn prp(
        &mut self,
        prp1: u64,
        prp2: u64,
        len: usize,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        if prp1 & 3 != 0 {
            return Err(Status::PRP_OFFSET);
        }
        let first = len.min(PAGE - in_page(prp1));
        let rest = len - first;
        if rest == 0 {
            return self.reach(prp1, first, access, each);
        }
        if rest > PAGE {
            return self.list(Run { at: prp1, len: first }, prp2, rest, access, each);
        }
        if in_page(prp2) != 0 {
            return Err(Status::PRP_OFFSET);
        }
        if prp2 == prp1.wrapping_add(first as u64) {
            return self.reach(prp1, len, access, each);
        }
        self.reach(prp1, first, access, each)?;
        self.reach(prp2, rest, access, each)
    }

    /// A PRP list: neighbouring pages are handed over as one run.
    #[inline(never)]
    fn list(
        &mut self,
        mut run: Run,
        list: u64,
        len: usize,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let (mut at, mut rest, mut near) = (list, len, None);
        if at & 7 != 0 {
            return Err(Status::PRP_OFFSET);
        }
        loop {
            // In the last entry of a list's page is where the list goes on, unless it is the last of all.
            let need = rest.div_ceil(PAGE);
            let there = (PAGE - in_page(at)) / 8;
            let chained = need > there;
            let mut left = if chained { there - 1 } else { need };
            while left > 0 {
                let mut entries = [U64::ZERO; CHUNK];
                let count = left.min(CHUNK);
                let chunk = entries.get_mut(..count).unwrap_or_default();
                self.load(at, chunk.as_mut_bytes())?;
                at = at.wrapping_add(count as u64 * 8);
                left -= count;
                for page in chunk {
                    let page = page.get();
                    if in_page(page) != 0 {
                        return Err(Status::PRP_OFFSET);
                    }
                    let part = rest.min(PAGE);
                    rest -= part;
                    if page == run.at.wrapping_add(run.len as u64) {
                        run.len += part;
                    } else {
                        self.reach_near(&mut near, &run, access, each)?;
                        run = Run { at: page, len: part };
                    }
                }
            }
            if !chained {
                return self.reach_near(&mut near, &run, access, each);
            }
            let mut next = U64::ZERO;
            self.load(at, next.as_mut_bytes())?;
            at = next.get();
            // A whole page of list is 511 pages of data, so this comes to an end.
            if in_page(at) != 0 {
                return Err(Status::PRP_OFFSET);
            }
        }
    }

    #[inline(never)]
    fn sgl(
        &mut self,
        sqe: &Sqe,
        len: usize,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut now = Descriptor::read_from_bytes(sqe.data.as_bytes()).map_err(|_| Status::INTERNAL)?;
        let mut rest = len;
        if now.kind == Descriptor::BLOCK {
            return if now.len.get() as usize == len {
                self.reach(now.address.get(), len, access, each)
            } else {
                Err(Status::SGL_LENGTH)
            };
        }
        let mut seen = 0u32;
        loop {
            // `now` points to a segment.
            let last = match now.kind {
                Descriptor::SEGMENT => false,
                Descriptor::LAST_SEGMENT => true,
                _ => return Err(Status::SGL_TYPE),
            };
            let bytes = now.len.get();
            if bytes == 0 || !bytes.is_multiple_of(16) {
                return Err(Status::SGL_SEGMENT);
            }
            let count = bytes / 16;
            seen = seen.saturating_add(count);
            if seen > DESCRIPTORS_MAX {
                return Err(Status::SGL_COUNT);
            }
            let blocks = if last { count } else { count - 1 };
            let at = now.address.get();
            self.blocks(at, blocks, &mut rest, access, each)?;
            if last {
                return if rest == 0 { Ok(()) } else { Err(Status::SGL_LENGTH) };
            }
            self.load(at.wrapping_add(u64::from(blocks) * 16), now.as_mut_bytes())?;
            if now.kind == Descriptor::BLOCK {
                return Err(Status::SGL_SEGMENT);
            }
        }
    }

    /// The data blocks of one segment.
    fn blocks(
        &mut self,
        at: u64,
        count: u32,
        rest: &mut usize,
        access: Access,
        each: &mut impl FnMut(&Mapping, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let (mut at, mut left) = (at, count as usize);
        while left > 0 {
            let mut chunk = [Descriptor::default(); CHUNK];
            let chunk = chunk.get_mut(..left.min(CHUNK)).unwrap_or_default();
            self.load(at, chunk.as_mut_bytes())?;
            at = at.wrapping_add(chunk.len() as u64 * 16);
            left -= chunk.len();
            for block in chunk {
                match block.kind {
                    Descriptor::BLOCK => {}
                    // A pointer that is not the last of its segment, or in the last segment.
                    Descriptor::SEGMENT | Descriptor::LAST_SEGMENT => return Err(Status::SGL_SEGMENT),
                    _ => return Err(Status::SGL_TYPE),
                }
                let len = block.len.get() as usize;
                *rest = rest.checked_sub(len).ok_or(Status::SGL_LENGTH)?;
                self.reach(block.address.get(), len, access, each)?;
            }
        }
        Ok(())
    }

    /// Writes our own bytes to where a command wants them.
    pub(crate) fn store_all(&mut self, sqe: &Sqe, bytes: &[u8]) -> Result<(), Status> {
        let mut done = 0;
        self.walk(sqe, bytes.len(), Access::Store, |mapping, offset, len| {
            let window = &mapping.window;
            let part = bytes.get(done..done + len).ok_or(Status::INTERNAL)?;
            done += len;
            window.write(offset, part).map_err(|_| Status::INTERNAL)?;
            if window.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        })
    }

    /// Reads all bytes that a command points to.
    pub(crate) fn load_all(&mut self, sqe: &Sqe, into: &mut [u8]) -> Result<(), Status> {
        let mut done = 0;
        self.walk(sqe, into.len(), Access::Load, |mapping, offset, len| {
            let window = &mapping.window;
            let part = into.get_mut(done..done + len).ok_or(Status::INTERNAL)?;
            done += len;
            window.read(offset, part).map_err(|_| Status::INTERNAL)?;
            if window.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        })
    }
}

/// Pages that lie side by side.
struct Run {
    at: u64,
    len: usize,
}

#[inline]
fn in_page(address: u64) -> usize {
    (address & (PAGE as u64 - 1)) as usize
}
