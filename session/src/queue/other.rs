//! Requests that are no transfers: flush, name, discard, write-zeroes.

use core::mem;

use nvme_policy::{LbaRange, WritePermit};
use zerocopy::FromBytes;

use super::counts::Asked;
use super::decide::{BAD, Flow, Refused, UNSUPPORTED};
use super::flight::Plan;
use super::{BlkQueue, Next, Request};
use crate::blk::features;
use crate::blk::request::{Header, Kind, RANGE, RANGES, Range, Status, UNMAP};
use crate::blk::{RANGE_SECTORS_MAX, RANGES_MAX};
use crate::memory::{Pinned, Rights};
use crate::operation::Operation;
use crate::virtqueue::Buffer;

/// What becomes of a request that is no transfer.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Step {
    /// A flush.
    Flush(WritePermit),
    /// Something in several places; then a flush may have to follow.
    Places(Places, WritePermit, What),
    /// An answer at once; so many bytes of data were written.
    Answer(Status, u32),
}

type Places = heapless::Vec<(LbaRange, u32), { RANGES_MAX as usize }>;

/// What is done to blocks without data.
#[derive(Clone, Copy)]
enum What {
    Discard,
    WriteZeroes,
}

impl BlkQueue {
    /// Starts a request that is no transfer.
    pub(super) fn start_other(
        &mut self,
        head: u16,
        status: Pinned,
        header: &Header,
        data: &[Buffer],
    ) -> Next {
        let (kind, asked) = (Kind::from_wire(header.kind), Asked::of(header.kind));
        match self.parse(kind, data).unwrap_or_else(|Refused(status)| Step::Answer(status, 0)) {
            Step::Flush(permit) => {
                let tag = self.take_off(
                    head,
                    Plan { parts: 1, flush_after: false, data: 0, stamp: self.tally.stamp(asked) },
                    status,
                );
                Next::Request(Request::new(tag, Operation::Flush { permit }))
            }
            Step::Places(places, permit, what) => {
                self.start_places(head, status, places, permit, what);
                Next::Again
            }
            Step::Answer(answer, data) => self.answer_now(head, status, asked, answer, data),
        }
    }

    fn parse(&self, kind: Option<Kind>, data: &[Buffer]) -> Result<Step, Refused> {
        match kind {
            // Transfers are not for here.
            None | Some(Kind::In | Kind::Out) => Err(UNSUPPORTED),
            // Where FLUSH was not negotiated all changes are durable already; it is asked for, and it is done.
            Some(Kind::Flush) => Ok(match self.config.grant.write_permit() {
                Ok(permit) => Step::Flush(permit),
                Err(_) => Step::Answer(Status::Ok, 0),
            }),
            Some(Kind::GetId) => self.get_id(data),
            Some(Kind::Discard) => {
                let permit = self.permit()?;
                let places = self.places(data, features::DISCARD, self.config.limits.discard_blocks, 0)?;
                Ok(Step::Places(places, permit, What::Discard))
            }
            Some(Kind::WriteZeroes) => {
                let permit = self.permit()?;
                let limit = self.config.limits.write_zeroes_blocks;
                let places = self.places(data, features::WRITE_ZEROES, limit, UNMAP)?;
                Ok(Step::Places(places, permit, What::WriteZeroes))
            }
        }
    }

    /// The places become requests in `ready`, which all have to end. A discard cannot be durable by itself, so a flush
    /// follows where it has to be.
    fn start_places(&mut self, head: u16, status: Pinned, places: Places, permit: WritePermit, what: What) {
        let fua = self.durable;
        let flush_after = matches!(what, What::Discard) && fua;
        let asked = match what {
            What::Discard => Asked::Discard,
            What::WriteZeroes => Asked::WriteZeroes,
        };
        let stamp = self.tally.stamp(asked);
        let plan = Plan { parts: places.len() as u16, flush_after, data: 0, stamp };
        let tag = self.take_off(head, plan, status);
        let mut permit = permit;
        let zeroes = self.config.limits.unmaps_to_zeroes;
        for (place, flags) in places {
            let (this, next) = permit.split();
            permit = next;
            let operation = match what {
                What::Discard => Operation::Discard { place, permit: this },
                // UNMAP is a permission. It is made use of where blocks that were given back read as zeroes.
                What::WriteZeroes => {
                    let unmap = zeroes && flags & UNMAP != 0;
                    Operation::WriteZeroes { place, permit: this, fua, unmap }
                }
            };
            self.tally.zeroes(operation.burden());
            self.ready.push_back(Request::new(tag, operation));
        }
    }

    fn get_id(&self, data: &[Buffer]) -> Result<Step, Refused> {
        let flow = Flow::measure(data)?;
        self.goes(flow, Rights::Write)?;
        if flow.bytes == 0 {
            return Err(BAD);
        }
        let id = self.config.id;
        let mut rest = &id[..];
        for buffer in data {
            let now = rest.len().min(buffer.len as usize);
            let (part, behind) = rest.split_at(now);
            self.table.write(buffer.addr, part).map_err(|_| BAD)?;
            rest = behind;
        }
        Ok(Step::Answer(Status::Ok, (id.len() - rest.len()) as u32))
    }

    /// The segments of a discard or write-zeroes request as places on disk, each with its flags: all of them, or none.
    fn places(&self, data: &[Buffer], feature: u64, limit: u32, flags: u32) -> Result<Places, Refused> {
        if self.config.features & feature == 0 || limit == 0 {
            return Err(UNSUPPORTED);
        }
        let flow = Flow::measure(data)?;
        self.goes(flow, Rights::Read)?;
        let bytes = usize::try_from(flow.bytes).map_err(|_| BAD)?;
        if bytes == 0 || bytes > RANGES || !bytes.is_multiple_of(RANGE) {
            return Err(BAD);
        }
        // Copied once; the driver may change them behind our back.
        let mut copy = [0; RANGES];
        let (copy, _) = copy.split_at_mut(bytes);
        let mut rest = &mut *copy;
        for buffer in data {
            let (part, behind) = mem::take(&mut rest).split_at_mut(buffer.len as usize);
            self.table.read(buffer.addr, part).map_err(|_| BAD)?;
            rest = behind;
        }
        let mut places = Places::new();
        for bytes in copy.chunks_exact(RANGE) {
            let range = Range::read_from_bytes(bytes).map_err(|_| BAD)?;
            if range.flags.get() & !flags != 0 {
                return Err(UNSUPPORTED);
            }
            let sectors = range.sectors.get();
            if sectors > RANGE_SECTORS_MAX {
                return Err(BAD);
            }
            let bytes = u64::from(sectors) * nvme_policy::extent::SECTOR;
            let place = self.config.grant.confine(range.sector.get(), bytes).map_err(|_| BAD)?;
            places.push((place, range.flags.get())).map_err(|_| BAD)?;
        }
        Ok(places)
    }
}
