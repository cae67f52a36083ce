//! The NVM command set (NVM Express Base 1.4, 6): one command, from its entry to its status.

use nvme_platform::PAGE;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::namespace::Namespace;
use crate::transfer::{Access, Dma};
use crate::wire::{Sqe, Status, nvm};
use crate::world::View;

/// Every namespace (for Flush).
const ALL_NAMESPACES: u32 = u32::MAX;
/// FUSE in the flags of an entry.
const FUSED: u8 = 3;
/// Force Unit Access, in dword 12.
pub(crate) const FUA: u32 = 1 << 30;
/// Attribute, Deallocate, in dword 11 of Dataset Management.
pub(crate) const DEALLOCATE: u32 = 1 << 2;

/// A range of Dataset Management (6.7, figure 365).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DsmRange {
    attributes: U32,
    blocks: U32,
    lba: U64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);

impl DsmRange {
    /// Reads the ranges of a command.
    pub(crate) fn load<'r>(
        dma: &mut Dma<'_>,
        sqe: &Sqe,
        ranges: &'r mut [Self; 256],
    ) -> Result<&'r [Self], Status> {
        let count = (sqe.dword(10) & 0xff) as usize + 1;
        let ranges = ranges.get_mut(..count).unwrap_or_default();
        dma.load_all(sqe, ranges.as_mut_bytes())?;
        Ok(ranges)
    }

    /// First block and number of blocks.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.lba.get(), u64::from(self.blocks.get()))
    }
}

/// What a batch did.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) flushes: u64,
    pub(crate) faults: u64,
    pub(crate) media_errors: u64,
}

impl Counts {
    /// Another batch did this as well.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { reads, writes, bytes_read, bytes_written, flushes, faults, media_errors } = other;
        self.reads += reads;
        self.writes += writes;
        self.bytes_read += bytes_read;
        self.bytes_written += bytes_written;
        self.flushes += flushes;
        self.faults += faults;
        self.media_errors += media_errors;
    }

    /// A command failed.
    pub(crate) fn failed(&mut self, status: Status) {
        match status {
            Status::DATA_TRANSFER => self.faults += 1,
            Status::READ_ERROR | Status::WRITE_FAULT | Status::CAPACITY_EXCEEDED => self.media_errors += 1,
            _ => {}
        }
    }
}

/// Executes the commands of one batch.
pub(crate) struct Executor<'a> {
    pub(crate) dma: Dma<'a>,
    pub(crate) counts: Counts,
}

impl Executor<'_> {
    /// Executes one I/O command.
    #[inline(never)]
    pub(crate) fn execute(&mut self, sqe: &Sqe) -> Status {
        match self.io(sqe) {
            Ok(()) => Status::SUCCESS,
            Err(status) => {
                self.counts.failed(status);
                status
            }
        }
    }

    /// The fast way of [`execute`](Self::execute): a read into one page, by words 0, 3, 5 and 6 of its entry. How many bytes. `None`: it is
    /// another, or something is wrong with it, and nothing was counted; it is to be executed as any is. `STORED`: the blocks may be storage's.
    #[inline(always)]
    pub(crate) fn read_fast<const STORED: bool>(&mut self, words: [u64; 4]) -> Option<u64> {
        let [first, prp1, lba, blocks] = words.map(u64::from_le);
        let view = self.dma.view;
        // The opcode, and no flags; and no FUA.
        if first & 0xffff != u64::from(nvm::READ) || blocks & u64::from(FUA) != 0 {
            return None;
        }
        let namespace = view.namespace((first >> 32) as u32)?;
        let (offset, len) = namespace.bytes(lba, (blocks & 0xffff) + 1)?;
        let (offset, len) = (offset as usize, len as usize);
        let in_page = (prp1 & (PAGE as u64 - 1)) as usize;
        if prp1 & 3 != 0 || len > PAGE - in_page || len > view.transfer_max {
            return None;
        }
        let (mapping, at) = view.map.find(prp1, self.dma.hits)?;
        let (image, memory) = (&namespace.window, &mapping.window);
        let missing = namespace.missing.as_ref().filter(|_| STORED).map(|missing| (missing, missing.back()));
        if !mapping.writable || image.copy_to(offset, memory, at, len).is_err() {
            return None;
        }
        // After the copy: it is then that a page turns out to be gone.
        if memory.failed() || image.failed() || missing.is_some_and(|(pages, back)| !pages.none_since(back)) {
            return None;
        }
        self.counts.reads += 1;
        self.counts.bytes_read += len as u64;
        Some(len as u64)
    }

    /// Reads from storage that is memory, or writes to it, as [`execute`](Self::execute) does. `None`: that takes a request, whatever was
    /// copied; nothing was counted.
    pub(crate) fn copy(&mut self, sqe: &Sqe) -> Option<Status> {
        let view = self.dma.view;
        let (namespace, offset, len) = self.place(view, sqe).ok()?;
        let missing = namespace.missing.as_ref()?;
        let (mut at, image) = (offset as usize, &namespace.window);
        let (reads, forced) = (sqe.opcode == nvm::READ, sqe.dword(12) & FUA != 0);
        // What is to be durable is a request.
        let durable = forced || !reads && !view.write_back;
        if !reads && sqe.opcode != nvm::WRITE || durable || sqe.flags & FUSED != 0 {
            return None;
        }
        if len as usize > view.transfer_max || !reads && namespace.read_only {
            return None;
        }
        let access = if reads { Access::Store } else { Access::Load };
        let back = missing.back();
        let copied = self.dma.walk(sqe, len as usize, access, |mapping, offset, len| {
            let memory = &mapping.window;
            let copied = if reads {
                image.copy_to(at, memory, offset, len)
            } else {
                memory.copy_to(offset, image, at, len)
            };
            at += len;
            if copied.is_err() || memory.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        });
        if copied.is_err() || image.failed() || !missing.none_since(back) {
            return None;
        }
        if reads {
            self.counts.reads += 1;
            self.counts.bytes_read += len;
        } else {
            self.counts.writes += 1;
            self.counts.bytes_written += len;
        }
        Some(Status::SUCCESS)
    }

    #[inline]
    fn io(&mut self, sqe: &Sqe) -> Result<(), Status> {
        if sqe.flags & FUSED != 0 {
            return Err(Status::INVALID_FIELD);
        }
        match sqe.opcode {
            nvm::READ => self.read(sqe),
            nvm::WRITE => self.write(sqe),
            nvm::FLUSH => self.flush(sqe.nsid.get()),
            nvm::WRITE_ZEROES if self.dma.view.write_zeroes => self.write_zeroes(sqe),
            nvm::DATASET_MANAGEMENT if self.dma.view.dataset_management => self.dataset_management(sqe),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// The namespace of a command, and the bytes that its dwords 10 to 12 name.
    #[inline]
    fn place<'v>(&self, view: &'v View, sqe: &Sqe) -> Result<(&'v Namespace, u64, u64), Status> {
        let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
        let lba = u64::from(sqe.dword(10)) | u64::from(sqe.dword(11)) << 32;
        let blocks = u64::from(sqe.dword(12) & 0xffff) + 1;
        let (offset, len) = namespace.bytes(lba, blocks).ok_or(Status::LBA_RANGE)?;
        Ok((namespace, offset, len))
    }

    #[inline]
    fn read(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let view = self.dma.view;
        let (namespace, offset, len) = self.place(view, sqe)?;
        if len as usize > view.transfer_max {
            return Err(Status::INVALID_FIELD);
        }
        if sqe.dword(12) & FUA != 0 && view.write_back {
            namespace.medium.flush(offset, len).map_err(|_| Status::READ_ERROR)?;
        }
        let mut at = offset as usize;
        let image = &namespace.window;
        self.dma.walk(sqe, len as usize, Access::Store, |mapping, offset, len| {
            let memory = &mapping.window;
            image.copy_to(at, memory, offset, len).map_err(|_| Status::INTERNAL)?;
            at += len;
            if memory.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        })?;
        // After the copy: it is then that a page turns out to be gone.
        if image.failed() {
            return Err(Status::READ_ERROR);
        }
        self.counts.reads += 1;
        self.counts.bytes_read += len;
        Ok(())
    }

    #[inline]
    fn write(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let view = self.dma.view;
        let (namespace, offset, len) = self.place(view, sqe)?;
        if len as usize > view.transfer_max {
            return Err(Status::INVALID_FIELD);
        }
        if namespace.read_only {
            return Err(Status::WRITE_PROTECTED);
        }
        let mut at = offset as usize;
        let image = &namespace.window;
        let copied = self.dma.walk(sqe, len as usize, Access::Load, |mapping, offset, len| {
            let memory = &mapping.window;
            memory.copy_to(offset, image, at, len).map_err(|_| Status::INTERNAL)?;
            at += len;
            if memory.failed() { Err(Status::DATA_TRANSFER) } else { Ok(()) }
        });
        // What was copied before a fault is in the image too.
        namespace.medium.wrote(offset, len);
        copied?;
        self.settle(namespace, sqe, offset, len)?;
        self.counts.writes += 1;
        self.counts.bytes_written += len;
        Ok(())
    }

    /// Makes blocks durable that were just changed, if they must be.
    #[inline]
    fn settle(&self, namespace: &Namespace, sqe: &Sqe, offset: u64, len: u64) -> Result<(), Status> {
        let durable = sqe.dword(12) & FUA != 0 || !self.dma.view.write_back;
        if durable && namespace.medium.flush(offset, len).is_err() || namespace.window.failed() {
            return Err(Status::WRITE_FAULT);
        }
        Ok(())
    }

    fn flush(&mut self, nsid: u32) -> Result<(), Status> {
        let view = self.dma.view;
        let one = |namespace: &Namespace| {
            let flushed =
                namespace.read_only || namespace.medium.flush(0, namespace.window.len() as u64).is_ok();
            if flushed && !namespace.window.failed() { Ok(()) } else { Err(Status::WRITE_FAULT) }
        };
        self.counts.flushes += 1;
        if nsid == ALL_NAMESPACES {
            return view.namespaces.iter().flatten().try_for_each(|n| one(n));
        }
        one(view.namespace(nsid).ok_or(Status::INVALID_NAMESPACE)?)
    }

    fn write_zeroes(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let view = self.dma.view;
        let (namespace, offset, len) = self.place(view, sqe)?;
        if namespace.read_only {
            return Err(Status::WRITE_PROTECTED);
        }
        namespace.medium.zero(offset, len).map_err(|_| Status::WRITE_FAULT)?;
        self.settle(namespace, sqe, offset, len)
    }

    fn dataset_management(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let view = self.dma.view;
        let namespace = view.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE)?;
        let deallocate = sqe.dword(11) & DEALLOCATE != 0;
        if deallocate && namespace.read_only {
            return Err(Status::WRITE_PROTECTED);
        }
        let mut ranges = [DsmRange::default(); 256];
        let ranges = DsmRange::load(&mut self.dma, sqe, &mut ranges)?;
        // All are checked before any is touched.
        for range in ranges.iter() {
            namespace.bytes(range.lba.get(), u64::from(range.blocks.get())).ok_or(Status::LBA_RANGE)?;
        }
        if !deallocate {
            return Ok(());
        }
        for range in ranges.iter() {
            if let Some((offset, len @ 1..)) = namespace.bytes(range.lba.get(), u64::from(range.blocks.get()))
            {
                namespace.medium.discard(offset, len).map_err(|_| Status::WRITE_FAULT)?;
            }
        }
        if namespace.window.failed() { Err(Status::WRITE_FAULT) } else { Ok(()) }
    }
}
