//! The NVM command set (NVM Express Base 1.4, 6): one command, from its entry to its status.

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
    #[inline]
    pub(crate) fn execute(&mut self, sqe: &Sqe) -> Status {
        match self.io(sqe) {
            Ok(()) => Status::SUCCESS,
            Err(status) => {
                self.counts.failed(status);
                status
            }
        }
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
