//! A descriptor chain becomes operations, or an answer.

use core::mem;

use nvme_platform::trace;
use nvme_policy::{LbaRange, WritePermit};
use zerocopy::{FromBytes, transmute};

use super::{BlkQueue, Direction, Next};
use crate::blk::features;
use crate::blk::request::{HEADER, Header, Kind, RANGE, RANGES, Range, Status, UNMAP};
use crate::blk::{RANGE_SECTORS_MAX, RANGES_MAX, SEG_MAX};
use crate::memory::{Lists, Pinned, Quiet, Ranges, Rights, Spares};
use crate::operation::{Operation, Transfer};
use crate::virtqueue::{Broken, Buffer, Read, Three};

/// Most ranges of one request. Segments times regions would be far more than any controller's list holds, and the work of
/// a whole pass.
const REQUEST_RANGES_MAX: usize = 2048;

/// What becomes of a request that is no transfer.
enum Step {
    /// One operation.
    Start(Operation),
    /// Several, which wait in `ready`; all have to end, then a flush may have to follow.
    Started(u32, bool),
    /// An answer at once; so many bytes of data were written.
    Answer(Status, u32),
}

/// Why [`BlkQueue::next_usual`] has no operation. To be given to [`BlkQueue::next_rest`], which goes on from there.
#[derive(Debug)]
pub struct Unusual(pub(super) Rest);

/// How far a request was taken.
#[derive(Debug)]
pub(super) enum Rest {
    /// Nothing is available.
    Idle,
    /// The ring is broken.
    Fail(Broken),
    /// Nothing new is taken, or something old comes first.
    Old,
    /// Its chain is another; so much of it was read.
    Chain(u16, Read),
    /// It is no transfer, or one over several regions: header, status and data are known.
    Start(u16, Header, Pinned, Buffer),
    /// It is answered with an error.
    Answer(u16, Pinned, Status),
}

/// A request that is answered with an error.
struct Refused(Status);

const BAD: Refused = Refused(Status::IoErr);
const UNSUPPORTED: Refused = Refused(Status::Unsupported);

impl BlkQueue {
    /// Takes the next available chain, as far as it is a usual read or write.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Result<(u16, Operation), Rest> {
        let head = match self.ring.take() {
            Ok(Some(head)) => head,
            Ok(None) => return Err(Rest::Idle),
            Err(why) => return Err(Rest::Fail(why)),
        };
        if !self.flights.is_free(head) {
            return Err(Rest::Fail(Broken::HeadInFlight));
        }
        let Three { header, data, status, near } = match self.ring.three(head, self.indirect, &self.table) {
            Ok(three) => three,
            Err(read) => return Err(Rest::Chain(head, read)),
        };
        let strict = self.config.direction == Direction::AsFlagged;
        let Ok(status) = self.held.pin_near(&self.table, near, status) else {
            return Err(Rest::Fail(Broken::NoStatus));
        };
        let Ok(words) = self.table.read_words_near(near, header) else {
            return Err(Rest::Answer(head, status, Status::IoErr));
        };
        let header = Header::from_words(words);
        let (need, permit) = match Kind::from_wire(header.kind) {
            Some(Kind::In) => (Rights::Write, None),
            Some(Kind::Out) => match self.permit() {
                Ok(permit) => (Rights::Read, Some(permit)),
                Err(Refused(answer)) => return Err(Rest::Answer(head, status, answer)),
            },
            _ => return Err(Rest::Start(head, header, status, data)),
        };
        if strict && data.write != (need == Rights::Write) {
            return Err(Rest::Answer(head, status, Status::IoErr));
        }
        let bytes = u64::from(data.len);
        let Ok(place) = self.config.grant.confine(header.sector, bytes) else {
            return Err(Rest::Answer(head, status, Status::IoErr));
        };
        let memory = match self.held.mediate_one(&self.table, data.addr, data.len, need) {
            Ok(Some(range)) => range,
            Ok(None) => return Err(Rest::Start(head, header, status, data)),
            Err(_) => return Err(Rest::Answer(head, status, Status::IoErr)),
        };
        let Ok(transfer) = Transfer::new(place, memory) else {
            // The place is as long as the buffer, and so is the range.
            return Err(Rest::Answer(head, status, Status::IoErr));
        };
        Ok(match permit {
            None => {
                // The used length tells it, and the status byte.
                self.flights.start(head, 1, false, data.len, status);
                (head, Operation::Read(transfer))
            }
            Some(permit) => {
                self.flights.start(head, 1, false, 0, status);
                (head, Operation::Write { transfer, permit, fua: self.durable })
            }
        })
    }

    /// What is to be done when [`take`](Self::take) found no usual request.
    #[inline(never)]
    pub(super) fn take_rest(&mut self, rest: Rest, spares: &mut Spares) -> Next {
        let Spares { lists, chain } = spares;
        match rest {
            Rest::Idle => Next::Idle,
            Rest::Fail(why) => self.fail(why),
            Rest::Old => self.next_old(),
            Rest::Chain(head, read) => {
                chain.clear();
                match self.ring.walk(head, self.indirect, &self.table, &read, chain) {
                    Ok(()) => self.take_any(head, chain, lists),
                    Err(why) => self.fail(why),
                }
            }
            Rest::Start(head, header, status, data) => self.start(head, &header, status, &[data], lists),
            Rest::Answer(head, at, status) => self.answer_now(head, at, status, 0),
        }
    }

    /// A chain of any shape.
    fn take_any(&mut self, head: u16, chain: &mut [Buffer], lists: &mut Lists) -> Next {
        let status = match self.status(chain) {
            Ok(status) => status,
            Err(why) => return self.fail(why),
        };
        match self.header(chain) {
            Ok((header, behind)) => {
                self.start(head, &header, status, chain.get(behind..).unwrap_or_default(), lists)
            }
            Err(Refused(answer)) => self.answer_now(head, status, answer, 0),
        }
    }

    /// Starts a request whose data is in these buffers.
    fn start(
        &mut self,
        head: u16,
        header: &Header,
        status: Pinned,
        data: &[Buffer],
        lists: &mut Lists,
    ) -> Next {
        let (need, permit) = match Kind::from_wire(header.kind) {
            Some(Kind::In) => (Rights::Write, None),
            Some(Kind::Out) => match self.permit() {
                Ok(permit) => (Rights::Read, Some(permit)),
                Err(Refused(answer)) => return self.answer_now(head, status, answer, 0),
            },
            kind => return self.no_transfer(head, status, kind, data),
        };
        match (self.transfer(data, header.sector, need, lists), permit) {
            (Ok(transfer), None) => {
                // `measure` saw to it that a used length can tell it.
                self.flights.start(head, 1, false, transfer.place().bytes() as u32, status);
                Next::Operation(head, Operation::Read(transfer))
            }
            (Ok(transfer), Some(permit)) => {
                self.flights.start(head, 1, false, 0, status);
                Next::Operation(head, Operation::Write { transfer, permit, fua: self.durable })
            }
            (Err(Refused(answer)), _) => self.answer_now(head, status, answer, 0),
        }
    }

    fn answer_now(&mut self, head: u16, at: Pinned, status: Status, data: u32) -> Next {
        trace!("request {} is answered at once: status {}", head, status as u8);
        self.answer(head, at, status, data);
        Next::Again
    }

    fn no_transfer(&mut self, head: u16, status: Pinned, kind: Option<Kind>, data: &[Buffer]) -> Next {
        let step = self.parse(head, kind, data).unwrap_or_else(|Refused(status)| Step::Answer(status, 0));
        match step {
            Step::Start(operation) => {
                self.flights.start(head, 1, false, 0, status);
                Next::Operation(head, operation)
            }
            Step::Started(parts, flush_after) => {
                self.flights.start(head, parts, flush_after, 0, status);
                Next::Again
            }
            Step::Answer(answer, data) => self.answer_now(head, status, answer, data),
        }
    }

    /// The last byte of the last buffer, which has to be the device's to write. The buffer is shortened by it.
    #[inline]
    fn status(&mut self, chain: &mut [Buffer]) -> Result<Pinned, Broken> {
        let last = chain.last_mut().ok_or(Broken::NoStatus)?;
        if !last.write && self.config.direction == Direction::AsFlagged {
            return Err(Broken::NoStatus);
        }
        last.len = last.len.checked_sub(1).ok_or(Broken::NoStatus)?;
        let at = last.addr.checked_add(last.len.into()).ok_or(Broken::NoStatus)?;
        self.held.pin(&self.table, at).map_err(|_| Broken::NoStatus)
    }

    /// The first 16 bytes, copied once; what is parsed is the copy. They may lie in several buffers. Answers the
    /// index of the first buffer behind; that buffer may have been shortened.
    #[inline]
    fn header(&mut self, chain: &mut [Buffer]) -> Result<(Header, usize), Refused> {
        let strict = self.config.direction == Direction::AsFlagged;
        if let Some(first) = chain.first()
            && first.len as usize == HEADER
            && !(first.write && strict)
        {
            let words = self.table.read_words(first.addr).map_err(|_| BAD)?;
            return Ok((Header::from_words(words), 1));
        }
        self.split_header(chain, strict)
    }

    #[cold]
    fn split_header(&mut self, chain: &mut [Buffer], strict: bool) -> Result<(Header, usize), Refused> {
        let mut bytes = [0; HEADER];
        let mut rest = &mut bytes[..];
        let mut index = 0;
        while !rest.is_empty() {
            let buffer = chain.get_mut(index).ok_or(BAD)?;
            if buffer.write && strict {
                return Err(BAD);
            }
            let now = rest.len().min(buffer.len as usize);
            let (part, behind) = mem::take(&mut rest).split_at_mut(now);
            self.table.read(buffer.addr, part).map_err(|_| BAD)?;
            rest = behind;
            // Neither wraps: so many bytes were just read there.
            buffer.addr = buffer.addr.wrapping_add(now as u64);
            buffer.len -= now as u32;
            index += usize::from(buffer.len == 0);
        }
        Ok((Header::from_words(transmute!(bytes)), index))
    }

    fn parse(&mut self, head: u16, kind: Option<Kind>, data: &[Buffer]) -> Result<Step, Refused> {
        match kind {
            None | Some(Kind::In | Kind::Out) => Err(UNSUPPORTED),
            // Where FLUSH was not negotiated all changes are durable already; it is asked for, and it is done.
            Some(Kind::Flush) => Ok(match self.config.grant.write_permit() {
                Ok(permit) => Step::Start(Operation::Flush { permit }),
                Err(_) => Step::Answer(Status::Ok, 0),
            }),
            Some(Kind::GetId) => self.get_id(data),
            Some(Kind::Discard) => {
                let permit = self.permit()?;
                let limit = self.config.limits.discard_blocks;
                let fua = self.durable;
                self.ranges(head, data, features::DISCARD, limit, 0, permit, |place, permit| {
                    Operation::Discard { place, permit }
                })
                .map(|parts| Step::Started(parts, fua))
            }
            Some(Kind::WriteZeroes) => {
                let permit = self.permit()?;
                let limit = self.config.limits.write_zeroes_blocks;
                let fua = self.durable;
                // UNMAP is a permission. It is not made use of: deallocated blocks need not read as zeroes.
                self.ranges(head, data, features::WRITE_ZEROES, limit, UNMAP, permit, |place, permit| {
                    Operation::WriteZeroes { place, permit, fua }
                })
                .map(|parts| Step::Started(parts, false))
            }
        }
    }

    /// Whatever the driver acknowledged: a read-only session changes nothing.
    #[inline]
    fn permit(&self) -> Result<WritePermit, Refused> {
        self.config.grant.write_permit().map_err(|_| BAD)
    }

    /// Counts the bytes of data and sees to it that all of it goes the right way. Buffers of no bytes are passed over.
    fn measure(&self, data: &[Buffer], need: Rights) -> Result<u64, Refused> {
        let written = need == Rights::Write;
        let strict = self.config.direction == Direction::AsFlagged;
        let (mut bytes, mut segments) = (0_u64, 0);
        for buffer in data.iter().filter(|b| b.len != 0) {
            if strict && buffer.write != written {
                return Err(BAD);
            }
            bytes += u64::from(buffer.len);
            segments += 1;
        }
        // The used length is 32 bits and counts the status too.
        if segments > SEG_MAX || bytes >= u64::from(u32::MAX) { Err(BAD) } else { Ok(bytes) }
    }

    /// Confines and mediates.
    fn transfer(
        &mut self,
        data: &[Buffer],
        sector: u64,
        need: Rights,
        lists: &mut Lists,
    ) -> Result<Transfer, Refused> {
        let bytes = self.measure(data, need)?;
        let place = self.config.grant.confine(sector, bytes).map_err(|_| BAD)?;
        let memory = self.mediate(data, need, lists)?;
        Transfer::new(place, memory).map_err(|(_, memory)| {
            self.release(memory, &Quiet::never_submitted(), lists);
            BAD
        })
    }

    /// Mediates any number of buffers, in any number of regions.
    fn mediate(&mut self, data: &[Buffer], need: Rights, lists: &mut Lists) -> Result<Ranges, Refused> {
        let mut memory = lists.take();
        for buffer in data.iter().filter(|b| b.len != 0) {
            let done = self.held.mediate(&self.table, buffer.addr, buffer.len, need, &mut memory);
            // A buffer has as many ranges as there are regions, at most.
            if done.is_err() || memory.len() > REQUEST_RANGES_MAX {
                self.release(Ranges::Many(memory), &Quiet::never_submitted(), lists);
                return Err(BAD);
            }
        }
        Ok(Ranges::Many(memory))
    }

    fn get_id(&mut self, data: &[Buffer]) -> Result<Step, Refused> {
        if self.measure(data, Rights::Write)? == 0 {
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

    /// The segments of a discard or write-zeroes request become operations in `ready`: all of them, or none. Answers
    /// how many.
    #[expect(clippy::too_many_arguments, reason = "what differs between the two kinds")]
    fn ranges(
        &mut self,
        head: u16,
        data: &[Buffer],
        feature: u64,
        limit: u32,
        flags: u32,
        permit: WritePermit,
        operation: impl Fn(LbaRange, WritePermit) -> Operation,
    ) -> Result<u32, Refused> {
        if self.config.features & feature == 0 || limit == 0 {
            return Err(UNSUPPORTED);
        }
        let bytes = self.measure(data, Rights::Read)? as usize;
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
        let mut places = heapless::Vec::<LbaRange, { RANGES_MAX as usize }>::new();
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
            places.push(place).map_err(|_| BAD)?;
        }
        let parts = places.len() as u32;
        let mut permit = permit;
        for place in places {
            let (this, next) = permit.split();
            permit = next;
            self.ready.push_back((head, operation(place, this)));
        }
        Ok(parts)
    }
}
