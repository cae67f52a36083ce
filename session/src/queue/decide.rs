//! What a read or write may do, and how it begins: once, for whatever form a request has.

use nvme_policy::{LbaRange, NotConfined, WritePermit};

use super::counts::Asked;
use super::flight::Plan;
use super::{BlkQueue, Direction, Request, Tag};
use crate::blk::SEG_MAX;
use crate::blk::request::{Header, Kind, Status};
use crate::memory::{Lists, Pinned, Quiet, Ranges, Rights};
use crate::operation::{Operation, Transfer};
use crate::virtqueue::Buffer;

/// Most ranges of one request. Segments times regions would be far more than any controller's list holds, and the work of
/// many passes.
const REQUEST_RANGES_MAX: usize = 2048;
/// So few ranges, at the very most, are made first and given back should one of them be refused: about what a chain of this many descriptors costs.
const REQUEST_RANGES_FEW: usize = 256;

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
        let (mut bytes, mut written, mut segments) = (0_u64, 0_u64, 0);
        for buffer in data {
            bytes += u64::from(buffer.len);
            written += if buffer.write { buffer.len.into() } else { 0 };
            segments += u32::from(buffer.len != 0);
        }
        // The used length is 32 bits and counts the status too.
        if segments > SEG_MAX || bytes >= u64::from(u32::MAX) {
            return Err(BAD);
        }
        Ok(Self { bytes, to_memory: written > 0, from_memory: written < bytes })
    }
}

/// Which way a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the disk to memory.
    Read,
    /// From memory to the disk.
    Write,
}

impl Way {
    /// Of a request; `None` for one that is no transfer.
    #[inline]
    fn of(header: &Header) -> Option<Self> {
        match Kind::from_wire(header.kind)? {
            Kind::In => Some(Self::Read),
            Kind::Out => Some(Self::Write),
            Kind::Flush | Kind::GetId | Kind::Discard | Kind::WriteZeroes => None,
        }
    }

    /// What it does to memory.
    #[inline(always)]
    fn need(self) -> Rights {
        match self {
            Self::Read => Rights::Write,
            Self::Write => Rights::Read,
        }
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
    /// Decides about a read or write: the right to it, the way its data goes. The permit of a write.
    #[inline(always)]
    fn may(&self, way: Way, flow: Flow) -> Result<Option<WritePermit>, Refused> {
        let permit = match way {
            Way::Read => None,
            Way::Write => Some(self.permit()?),
        };
        self.goes(flow, way.need())?;
        Ok(permit)
    }

    /// Decides about a read or write of parts of blocks: how many bytes it has, and the permit of a write. `None` for any other kind of
    /// request, whose data is not looked at.
    pub(super) fn decide_parts(
        &self,
        header: &Header,
        data: &[Buffer],
    ) -> Result<Option<(u64, Option<WritePermit>)>, Refused> {
        let Some(way) = Way::of(header) else { return Ok(None) };
        let flow = Flow::measure(data)?;
        Ok(Some((flow.bytes, self.may(way, flow)?)))
    }

    /// Decides about a read or write of whole blocks, its place included. `None` for parts of blocks: see `parts`.
    #[inline(always)]
    pub(super) fn decide_whole(
        &self,
        way: Way,
        sector: u64,
        flow: Flow,
    ) -> Result<Option<Decision>, Refused> {
        let permit = self.may(way, flow)?;
        match self.config.grant.confine(sector, flow.bytes) {
            Ok(place) => Ok(Some(Decision { place, permit })),
            Err(NotConfined::Misaligned) => Ok(None),
            Err(NotConfined::Empty | NotConfined::Outside) => Err(BAD),
        }
    }

    /// Decides about a request of any kind. `None` for any but a read or write of whole blocks.
    pub(super) fn decide(&self, header: &Header, data: &[Buffer]) -> Result<Option<Decision>, Refused> {
        let Some(way) = Way::of(header) else { return Ok(None) };
        self.decide_whole(way, header.sector, Flow::measure(data)?)
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
        let (data, asked) = if permit.is_none() { (bytes, Asked::Read) } else { (0, Asked::Write) };
        self.tally.began(asked, bytes.into());
        let plan = Plan { parts: 1, flush_after: false, data, stamp: self.tally.stamp(asked) };
        let tag = self.take_off(head, plan, status);
        // Made last: so it is written once, where it goes.
        let operation = match permit {
            None => Operation::Read(transfer),
            Some(permit) => Operation::Write { transfer, permit, fua: self.durable },
        };
        Ok(Request::new(tag, operation))
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
        if wrong { self.goes_as_flagged() } else { Ok(()) }
    }

    /// Its flags say another way than its type. Whether they count.
    #[cold]
    #[inline(never)]
    fn goes_as_flagged(&self) -> Result<(), Refused> {
        if self.config.direction == Direction::AsFlagged { Err(BAD) } else { Ok(()) }
    }

    /// Mediates any number of buffers, in any number of regions.
    pub(super) fn mediate(
        &mut self,
        data: &[Buffer],
        need: Rights,
        lists: &mut Lists,
    ) -> Result<Ranges, Refused> {
        // Looked at before any range is made, unless they are few: a request that is refused costs what its descriptors do, wherever in it the reason is.
        let (write, buffers) = (need == Rights::Write, data.iter().filter(|b| b.len != 0));
        let few = data.len().saturating_mul(self.table.regions().len()) <= REQUEST_RANGES_FEW;
        let spans = || buffers.map(|b| self.table.span(b.addr, b.len, write)).sum::<Option<usize>>();
        if !few && spans().is_none_or(|spans| spans > REQUEST_RANGES_MAX) {
            self.walked = self.walked.saturating_add(data.len() as u32);
            return Err(BAD);
        }
        let mut memory = lists.take();
        let done = self.account.mediate_all(&self.table, data, need, &mut memory);
        self.walked = self.walked.saturating_add(memory.len() as u32);
        if done.is_err() {
            self.release(Ranges::Many(memory), &Quiet::never_submitted(), lists);
            return Err(BAD);
        }
        Ok(Ranges::Many(memory))
    }

    /// Lets go of memory for which nothing was begun.
    #[cold]
    pub(super) fn undo(&mut self, memory: Ranges) {
        self.release(memory, &Quiet::never_submitted(), &mut Lists::default());
    }
}
