//! A chain is taken from the ring, and becomes a request, or an answer.
//!
//! The fast way knows one form: three descriptors, which are header, data and status, the data in one region. What it does
//! not know it hands to the slow way, with what it has read, since nothing is read twice. What a request may do is decided
//! by the same code in both (`decide`).

use alloc::sync::Arc;
use core::mem;

use nvme_platform::trace;
use zerocopy::transmute;

use super::counts::Asked;
use super::decide::{BAD, Flow, Refused, Way};
use super::slow::{Slow, Why};
use super::tally::Tally;
use super::{BlkQueue, Direction, Here, Next, Onward, Request};
use crate::blk::request::{HEADER, Header, Kind, Status};
use crate::memory::{Account, Lists, MemoryTable, Near, Pinned, Ranges, Spares};
use crate::virtqueue::{Broken, Buffer, Descriptor, Keeping, Read, Three};

/// Does what is done seldom, out of the way of what is done often.
#[cold]
#[inline(never)]
fn aside<R>(what: impl FnOnce() -> R) -> R {
    what()
}

/// Keeps what was read of a chain that is of another form.
#[cold]
#[inline(never)]
fn keep(stopped: &mut Why, head: u16, first: Option<Descriptor>, behind: &[Descriptor]) {
    let read = first.map_or(Read::default(), |first| Read::new(first, behind));
    *stopped = Why::Chain(head, read);
}

impl BlkQueue {
    /// Takes the next available chain, as far as it is a read or write as most are, and gives the request to `then`. Two kinds, so that
    /// each is one straight line down to the command.
    #[inline(always)]
    pub(super) fn take_fast<R>(
        &mut self,
        near: &mut Near<'_>,
        then: impl Onward<Answer = R>,
    ) -> Result<R, Slow> {
        let head = match self.ring.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Err(aside(|| self.stop(Why::Idle))),
            Err(why) => return Err(aside(move || self.stop(Why::Fail(why)))),
        };
        match self.flights.is_free(head) {
            Some(true) => self.ring.advance(),
            Some(false) => return Err(aside(|| self.stop(Why::Fail(Broken::HeadInFlight)))),
            None => return Err(aside(|| self.stop(Why::Fail(Broken::HeadOutOfRange)))),
        }
        if let Keeping::Entries(journal) = &mut self.journal {
            journal.taken(head);
        }
        self.take_head(head, near, then)
    }

    /// The same for a head that was taken before, by whoever served the queue then.
    #[inline(never)]
    pub(super) fn take_again(&mut self, head: u16) -> Result<Request, Slow> {
        match self.flights.is_free(head) {
            Some(true) => {
                let table = Arc::clone(&self.table);
                match Near::new(&table) {
                    Some(mut near) => self.take_head(head, &mut near, Here),
                    None => Err(self.stop(Why::Fail(Broken::RingsGone))),
                }
            }
            _ => Err(self.stop(Why::Fail(Broken::HeadInFlight))),
        }
    }

    /// The same for a head that was taken, and is free.
    #[inline(always)]
    fn take_head<R>(
        &mut self,
        head: u16,
        near: &mut Near<'_>,
        then: impl Onward<Answer = R>,
    ) -> Result<R, Slow> {
        let (stopped, table) = (&mut self.stopped, near.table);
        let left = |first: Option<Descriptor>, behind: &[Descriptor]| keep(stopped, head, first, behind);
        let Some(Three { header, data, status, near }) =
            self.ring.three(head, self.indirect_shape, near, left)
        else {
            return Err(Slow(()));
        };
        let Ok(status) = self.account.pin_near(table, near, status) else {
            return Err(aside(|| self.stop(Why::Fail(Broken::NoStatus))));
        };
        let Ok(words) = table.read_words_near(near, header) else {
            return Err(aside(move || self.stop(Why::Answer(head, status, Status::IoErr, Asked::Other))));
        };
        let header = Header::from_words(words);
        match Kind::from_wire(header.kind) {
            Some(Kind::In) => self.transfer_fast(Way::Read, table, head, header, status, data, then),
            Some(Kind::Out) => self.transfer_fast(Way::Write, table, head, header, status, data, then),
            _ => Err(aside(move || self.stop(Why::Start(head, header, status, data)))),
        }
    }

    /// Goes on with a read or write.
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "all that is known of the request, which stays in registers"
    )]
    fn transfer_fast<R>(
        &mut self,
        way: Way,
        table: &MemoryTable,
        head: u16,
        header: Header,
        status: Pinned,
        data: Buffer,
        then: impl Onward<Answer = R>,
    ) -> Result<R, Slow> {
        let decision = match self.decide_whole(way, header.sector, Flow::of(&data)) {
            Ok(Some(decision)) => decision,
            Ok(None) => return Err(aside(move || self.stop(Why::Start(head, header, status, data)))),
            Err(Refused(answer)) => {
                return Err(aside(move || {
                    self.stop(Why::Answer(head, status, answer, Asked::of(header.kind)))
                }));
            }
        };
        let need = decision.need();
        let Some(range) = self.account.mediate_whole(table, data.addr, data.len, need) else {
            return Err(aside(move || {
                let why = match Account::why_not_whole(table, data.addr, data.len, need) {
                    Ok(()) => Why::Start(head, header, status, data),
                    Err(_) => Why::Answer(head, status, Status::IoErr, Asked::of(header.kind)),
                };
                self.stop(why)
            }));
        };
        let memory = Ranges::One(range);
        match self.begin(head, status, decision, memory) {
            Ok(request) => Ok(then.go_on(request)),
            Err((status, memory)) => Err(aside(move || {
                self.undo(memory);
                self.stop(Why::Answer(head, status, Status::IoErr, Asked::of(header.kind)))
            })),
        }
    }

    /// Keeps how far a request was taken.
    #[inline(always)]
    pub(super) fn stop(&mut self, why: Why) -> Slow {
        self.stopped = why;
        Slow(())
    }

    /// What is to be done when [`take_fast`](Self::take_fast) does not know the request's form.
    #[inline(never)]
    pub(super) fn take_slow(&mut self, spares: &mut Spares) -> Next {
        let why = mem::take(&mut self.stopped);
        if matches!(why, Why::Old) {
            return self.next_old(spares);
        }
        if matches!(why, Why::Chain(..) | Why::Start(..) | Why::Answer(..)) {
            self.counts.slow();
        }
        let Spares { lists, chain } = spares;
        match why {
            Why::Idle | Why::Old => Next::Idle,
            Why::Fail(why) => self.fail(why),
            Why::Chain(head, read) => {
                chain.clear();
                let walked = self.ring.walk(head, self.indirect, &self.table, &read, chain);
                self.walked = self.walked.saturating_add(chain.len() as u32);
                match walked {
                    Ok(()) => self.take_any(head, chain, lists),
                    Err(why) => self.fail(why),
                }
            }
            Why::Start(head, header, status, data) => self.start(head, &header, status, &[data], lists),
            Why::Answer(head, at, status, asked) => self.answer_now(head, at, asked, status, 0),
        }
    }

    /// A chain of any form.
    fn take_any(&mut self, head: u16, chain: &mut [Buffer], lists: &mut Lists) -> Next {
        let status = match self.status(chain) {
            Ok(status) => status,
            Err(why) => return self.fail(why),
        };
        match self.header(chain) {
            Ok((header, behind)) => {
                self.start(head, &header, status, chain.get(behind..).unwrap_or_default(), lists)
            }
            Err(Refused(answer)) => self.answer_now(head, status, Asked::Other, answer, 0),
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
        let asked = Asked::of(header.kind);
        let decision = match self.decide(header, data) {
            Ok(Some(decision)) => decision,
            Ok(None) => {
                return match Kind::from_wire(header.kind) {
                    Some(Kind::In | Kind::Out) => self.start_parts(head, status, header, data, lists),
                    _ => self.start_other(head, status, header, data),
                };
            }
            Err(Refused(answer)) => return self.answer_now(head, status, asked, answer, 0),
        };
        let memory = match self.mediate(data, decision.need(), lists) {
            Ok(memory) => memory,
            Err(Refused(answer)) => return self.answer_now(head, status, asked, answer, 0),
        };
        match self.begin(head, status, decision, memory) {
            Ok(request) => Next::Request(request),
            Err((status, memory)) => {
                self.undo(memory);
                self.answer_now(head, status, asked, Status::IoErr, 0)
            }
        }
    }

    pub(super) fn answer_now(
        &mut self,
        head: u16,
        at: Pinned,
        asked: Asked,
        status: Status,
        data: u32,
    ) -> Next {
        Tally::at_once(asked, &self.counts);
        if status != Status::Ok {
            self.counts.refused(asked, status == Status::Unsupported);
        }
        trace!("request {} is answered at once: status {}", head, status as u8);
        if self.flights.count() > 0 {
            self.flights.all_are_overtaken();
        }
        self.answer(head, at, status, data);
        Next::Again
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
        self.account.pin(&self.table, at).map_err(|_| Broken::NoStatus)
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
}
