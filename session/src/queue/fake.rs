//! A virtqueue's stand-in, for tests of a driver: requests of any operation, also of those that no virtqueue would make,
//! and an account of what came back. It is as strict as a virtqueue: whatever it does not wait for fails the test.

use alloc::collections::BTreeMap;

use nvme_platform::Window;
use nvme_policy::{LbaRange, WritePermit};

use super::request::Take;
use super::{Ended, QueueTag, Request, Spares, Tag};
use crate::memory::{Account, DmaRange, MemoryTable, Rights, Segments, Windows};
use crate::operation::{Operation, Outcome, Part, Transfer};

/// Mediates, makes requests and takes them back.
pub struct Desk {
    tag: QueueTag,
    account: Account,
    table: MemoryTable,
    /// The parts of each request.
    parts: BTreeMap<Take, u32>,
    before: u64,
}

impl Desk {
    /// Over this memory.
    pub fn new(table: MemoryTable, tag: QueueTag) -> Self {
        let account = Account::new(&table, tag.life());
        Self { tag, account, table, parts: BTreeMap::new(), before: 0 }
    }

    /// Memory at guest addresses, with their lengths.
    ///
    /// # Panics
    /// Where it is not registered.
    pub fn memory(&mut self, parts: &[(u64, u32)], need: Rights) -> Segments {
        let mut segments = Segments::new();
        for (at, len) in parts {
            let done = self.account.mediate(&self.table, *at, *len, need, &mut segments);
            assert_eq!(done, Ok(()), "{len} bytes at {at:#x}");
        }
        segments
    }

    /// A read into that memory.
    pub fn read(&mut self, place: LbaRange, parts: &[(u64, u32)]) -> Operation {
        let memory = self.memory(parts, Rights::Write);
        Operation::Read(Transfer::new(place, memory).expect("as many bytes"))
    }

    /// A write from that memory.
    pub fn write(
        &mut self,
        place: LbaRange,
        permit: WritePermit,
        fua: bool,
        parts: &[(u64, u32)],
    ) -> Operation {
        let memory = self.memory(parts, Rights::Read);
        Operation::Write { transfer: Transfer::new(place, memory).expect("as many bytes"), permit, fua }
    }

    /// A read of a part of a block into that memory.
    pub fn read_part(&mut self, place: LbaRange, skip: u32, parts: &[(u64, u32)]) -> Operation {
        let memory = self.memory(parts, Rights::Write);
        Operation::ReadPart(Part::new(place, skip, memory).expect("a part of a block"))
    }

    /// A write of a part of a block from that memory.
    pub fn write_part(
        &mut self,
        place: LbaRange,
        skip: u32,
        permit: WritePermit,
        fua: bool,
        parts: &[(u64, u32)],
    ) -> Operation {
        let memory = self.memory(parts, Rights::Read);
        let part = Part::new(place, skip, memory).expect("a part of a block");
        Operation::WritePart { part, permit, fua }
    }

    /// A request.
    pub fn request(&mut self, head: u16, operation: Operation) -> Request {
        let take = Take::new(head, self.before);
        self.before += 1;
        self.parts.insert(take, 1);
        Request::new(Tag::new(self.tag, take), operation)
    }

    /// It was divided, so there is one more part.
    ///
    /// # Panics
    /// When it is not in flight.
    pub fn divided(&mut self, tag: Tag) {
        *self.parts.get_mut(&tag.take()).expect("it is in flight") += 1;
    }

    /// Takes back what ended; how.
    ///
    /// # Panics
    /// When it was not waited for.
    pub fn complete(&mut self, ended: Ended, spares: &mut Spares) -> Outcome {
        let Ended { request, outcome, quiet } = ended;
        let (tag, operation) = request.into_parts();
        assert_eq!(tag.queue(), self.tag, "another queue's");
        let left = self.parts.get_mut(&tag.take()).expect("it is in flight");
        *left -= 1;
        if *left == 0 {
            self.parts.remove(&tag.take());
        }
        let memory = match operation {
            Operation::Read(transfer) | Operation::Write { transfer, .. } => Some(transfer.into_parts().1),
            Operation::ReadPart(part) | Operation::WritePart { part, .. } => Some(part.into_memory()),
            Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => None,
        };
        if let Some(memory) = memory {
            let mut memory = memory.into_segments(spares.take());
            for range in memory.drain(..) {
                self.account.release(range, &quiet).expect("its own memory");
            }
            spares.give(memory);
        }
        outcome
    }

    /// Bytes of memory in flight.
    pub fn bytes_held(&self) -> u64 {
        self.account.bytes()
    }
}

impl Windows for Desk {
    fn window(&self, range: &DmaRange) -> Option<Window> {
        self.account.window(range)
    }
}
