//! What a read or write may do, and how it begins: once, for whatever form a request has.

use nvme_policy::{LbaRange, NotConfined, WritePermit};

use super::flight::Plan;
use super::{BlkQueue, Direction, Request, Tag};
use crate::blk::SEG_MAX;
use crate::blk::request::{Header, Kind, Status};
use crate::memory::{Lists, Pinned, Quiet, Ranges, Rights};
use crate::operation::{Operation, Transfer};
use crate::virtqueue::Buffer;

/// Most ranges of one request. Segments times regions would be far more than any controller's list holds, and the work of
/// a whole pass.
const REQUEST_RANGES_MAX: usize = 2048;

/// A request that is answered with an error.
pub(super) struct Refused(pub(super) Status);

pub(super) const BAD: Refused = Refused(Status::IoErr);
pub(super) const UNSUPPORTED: Refused = Refused(Status::Unsupported);

/// How much data a request has, and which way its descriptors say it goes. Buffers of no bytes go nowhere.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) bytes: u64,
    /// Some of it is flagged as written by the device.
    to_memory: bool,
    /// Some of it is not.
    from_memory: bool,
}

impl Flow {
    /// In one buffer.
    #[inline(always)]
    pub(super) fn of(data: &Buffer) -> Self {
        Self { bytes: data.len.into(), to_memory: data.write, from_memory: !data.write }
    }

    /// In any number of them, as far as a request may have so many.
    pub(super) fn measure(data: &[Buffer]) -> Result<Self, Refused> {
        let mut all = Self { bytes: 0, to_memory: false, from_memory: false };
        let mut segments = 0;
        for one in data.iter().filter(|b| b.len != 0).map(Self::of) {
            all.bytes += one.bytes;
            all.to_memory |= one.to_memory;
            all.from_memory |= one.from_memory;
            segments += 1;
        }
        // The used length is 32 bits and counts the status too.
        if segments > SEG_MAX || all.bytes >= u64::from(u32::MAX) { Err(BAD) } else { Ok(all) }
    }
}

/// A read or write that may be: what [`BlkQueue::begin`] needs besides the memory.
pub(super) struct Decision {
    place: LbaRange,
    /// Of a write.
    permit: Option<WritePermit>,
}

impl Decision {
    /// What it does to memory.
    #[inline(always)]
    pub(super) fn need(&self) -> Rights {
        if self.permit.is_none() { Rights::Write } else { Rights::Read }
    }
}

impl BlkQueue {
    /// Decides about a read or write: the right to it, the way its data goes. How many bytes it has, and the permit of a
    /// write. `None` for any other kind of request, whose data is not looked at.
    #[inline(always)]
    pub(super) fn may(
        &self,
        header: &Header,
        flow: impl FnOnce() -> Result<Flow, Refused>,
    ) -> Result<Option<(u64, Option<WritePermit>)>, Refused> {
        let (need, permit) = match Kind::from_wire(header.kind) {
            Some(Kind::In) => (Rights::Write, None),
            Some(Kind::Out) => (Rights::Read, Some(self.permit()?)),
            _ => return Ok(None),
        };
        let flow = flow()?;
        self.goes(flow, need)?;
        Ok(Some((flow.bytes, permit)))
    }

    /// Decides about a read or write of whole blocks, its place included. `None` for any other request.
    #[inline(always)]
    pub(super) fn decide(
        &self,
        header: &Header,
        flow: impl FnOnce() -> Result<Flow, Refused>,
    ) -> Result<Option<Decision>, Refused> {
        let Some((bytes, permit)) = self.may(header, flow)? else { return Ok(None) };
        match self.config.grant.confine(header.sector, bytes) {
            Ok(place) => Ok(Some(Decision { place, permit })),
            // Parts of blocks: see `parts`.
            Err(NotConfined::Misaligned) => Ok(None),
            Err(NotConfined::Empty | NotConfined::Outside) => Err(BAD),
        }
    }

    /// Begins what was decided, with memory of as many bytes. Otherwise that comes back.
    #[inline(always)]
    pub(super) fn begin(
        &mut self,
        head: u16,
        status: Pinned,
        decision: Decision,
        memory: Ranges,
    ) -> Result<Request, (Pinned, Ranges)> {
        let Decision { place, permit } = decision;
        // `measure` saw to it that a used length can tell it.
        let bytes = place.bytes() as u32;
        let transfer = match Transfer::new(place, memory) {
            Ok(transfer) => transfer,
            Err((_, memory)) => return Err((status, memory)),
        };
        let (data, operation) = match permit {
            None => (bytes, Operation::Read(transfer)),
            Some(permit) => (0, Operation::Write { transfer, permit, fua: self.durable }),
        };
        Ok(Request::new(self.take_off(head, Plan { parts: 1, flush_after: false, data }, status), operation))
    }

    /// A request is in flight from now on. The tag of all its parts.
    #[inline(always)]
    pub(super) fn take_off(&mut self, head: u16, plan: Plan, status: Pinned) -> Tag {
        Tag::new(self.tag, self.flights.start(head, plan, status))
    }

    /// Whatever the driver acknowledged: a read-only session changes nothing.
    #[inline(always)]
    pub(super) fn permit(&self) -> Result<WritePermit, Refused> {
        self.config.grant.write_permit().map_err(|_| BAD)
    }

    /// All of the data goes the way that the request needs.
    #[inline(always)]
    pub(super) fn goes(&self, flow: Flow, need: Rights) -> Result<(), Refused> {
        let wrong = if need == Rights::Write { flow.from_memory } else { flow.to_memory };
        if wrong && self.config.direction == Direction::AsFlagged { Err(BAD) } else { Ok(()) }
    }

    /// Mediates any number of buffers, in any number of regions.
    pub(super) fn mediate(
        &mut self,
        data: &[Buffer],
        need: Rights,
        lists: &mut Lists,
    ) -> Result<Ranges, Refused> {
        let mut memory = lists.take();
        for buffer in data.iter().filter(|b| b.len != 0) {
            let before = memory.len();
            let done = self.account.mediate(&self.table, buffer.addr, buffer.len, need, &mut memory);
            self.walked = self.walked.saturating_add((memory.len() - before) as u32);
            // A buffer has as many ranges as there are regions, at most.
            if done.is_err() || memory.len() > REQUEST_RANGES_MAX {
                self.release(Ranges::Many(memory), &Quiet::never_submitted(), lists);
                return Err(BAD);
            }
        }
        Ok(Ranges::Many(memory))
    }

    /// Lets go of memory for which nothing was begun.
    #[cold]
    pub(super) fn undo(&mut self, memory: Ranges) {
        self.release(memory, &Quiet::never_submitted(), &mut Lists::default());
    }
}
