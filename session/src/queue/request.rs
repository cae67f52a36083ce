//! A descriptor chain becomes operations, or an answer.

use alloc::vec::Vec;
use core::mem;

use nvme_policy::{LbaRange, WritePermit};
use zerocopy::{FromBytes, transmute};

use super::{BlkQueue, Direction, Next};
use crate::blk::features;
use crate::blk::request::{HEADER, Header, Kind, RANGE, RANGES, Range, Status, UNMAP};
use crate::blk::{RANGE_SECTORS_MAX, RANGES_MAX, SEG_MAX};
use crate::memory::{Pinned, Quiet, Rights, Spares};
use crate::operation::{Operation, Transfer};
use crate::virtqueue::{Broken, Buffer};

/// What becomes of a request.
enum Step {
    /// One operation; so many bytes of data are written by it.
    Start(Operation, u32),
    /// Several, which wait in `ready`; all have to end, then a flush may have to follow.
    Started(u32, bool),
    /// An answer at once; so many bytes of data were written.
    Answer(Status, u32),
}

/// A request that is answered with an error.
struct Refused(Status);

const BAD: Refused = Refused(Status::IoErr);
const UNSUPPORTED: Refused = Refused(Status::Unsupported);

impl BlkQueue {
    /// Takes the next available chain.
    #[inline]
    pub(super) fn take(&mut self, spares: &mut Spares) -> Result<Next, Broken> {
        let Some(head) = self.ring.take()? else { return Ok(Next::Idle) };
        if !self.flights.is_free(head) {
            return Err(Broken::HeadInFlight);
        }
        let mut chain = mem::take(&mut spares.chain);
        chain.clear();
        let next = self.take_chain(head, &mut chain, spares);
        spares.chain = chain;
        next
    }

    #[inline]
    fn take_chain(
        &mut self,
        head: u16,
        chain: &mut Vec<Buffer>,
        spares: &mut Spares,
    ) -> Result<Next, Broken> {
        self.ring.walk(head, self.indirect, &mut self.held, &self.table, chain)?;
        let status = self.status(chain)?;
        let step = match self.parse(head, chain, spares) {
            Ok(step) => step,
            Err(Refused(status)) => Step::Answer(status, 0),
        };
        Ok(match step {
            Step::Start(operation, data) => {
                self.flights.start(head, 1, false, data, status);
                Next::Operation(head, operation)
            }
            Step::Started(parts, flush_after) => {
                self.flights.start(head, parts, flush_after, 0, status);
                Next::Again
            }
            Step::Answer(answer, data) => {
                self.answer(head, status, answer, data);
                Next::Again
            }
        })
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
            let bytes = self.held.read16(&self.table, first.addr).map_err(|_| BAD)?;
            return Ok((transmute!(bytes), 1));
        }
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
            self.held.read(&self.table, buffer.addr, part).map_err(|_| BAD)?;
            rest = behind;
            // Neither wraps: so many bytes were just read there.
            buffer.addr = buffer.addr.wrapping_add(now as u64);
            buffer.len -= now as u32;
            index += usize::from(buffer.len == 0);
        }
        Ok((transmute!(bytes), index))
    }

    #[inline]
    fn parse(&mut self, head: u16, chain: &mut [Buffer], spares: &mut Spares) -> Result<Step, Refused> {
        let (header, behind) = self.header(chain)?;
        let data = chain.get(behind..).unwrap_or_default();
        let kind = Kind::from_wire(header.kind.get()).ok_or(UNSUPPORTED)?;
        let sector = header.sector.get();
        match kind {
            Kind::In => {
                let transfer = self.transfer(data, sector, Rights::Write, spares)?;
                // `transfer` saw to it that a used length can tell it.
                let bytes = transfer.place().bytes() as u32;
                Ok(Step::Start(Operation::Read(transfer), bytes))
            }
            Kind::Out => {
                let permit = self.permit()?;
                let transfer = self.transfer(data, sector, Rights::Read, spares)?;
                Ok(Step::Start(Operation::Write { transfer, permit, fua: self.durable }, 0))
            }
            // Where FLUSH was not negotiated all changes are durable already; it is asked for, and it is done.
            Kind::Flush => Ok(match self.config.grant.write_permit() {
                Ok(permit) => Step::Start(Operation::Flush { permit }, 0),
                Err(_) => Step::Answer(Status::Ok, 0),
            }),
            Kind::GetId => self.get_id(data),
            Kind::Discard => {
                let permit = self.permit()?;
                let limit = self.config.limits.discard_blocks;
                let fua = self.durable;
                self.ranges(head, data, features::DISCARD, limit, 0, permit, |place, permit| {
                    Operation::Discard { place, permit }
                })
                .map(|parts| Step::Started(parts, fua))
            }
            Kind::WriteZeroes => {
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
    #[inline]
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
    #[inline]
    fn transfer(
        &mut self,
        data: &[Buffer],
        sector: u64,
        need: Rights,
        spares: &mut Spares,
    ) -> Result<Transfer, Refused> {
        let bytes = self.measure(data, need)?;
        let place = self.config.grant.confine(sector, bytes).map_err(|_| BAD)?;
        let mut memory = spares.take();
        for buffer in data {
            if buffer.len == 0 {
                continue;
            }
            let done = self.held.mediate(&self.table, buffer.addr, buffer.len, need, &mut memory);
            if done.is_err() {
                self.release(memory, &Quiet::never_submitted(), spares);
                return Err(BAD);
            }
        }
        Transfer::new(place, memory).map_err(|(_, memory)| {
            self.release(memory, &Quiet::never_submitted(), spares);
            BAD
        })
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
            self.held.write(&self.table, buffer.addr, part).map_err(|_| BAD)?;
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
            self.held.read(&self.table, buffer.addr, part).map_err(|_| BAD)?;
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
