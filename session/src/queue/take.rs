//! A chain is taken from the ring, and becomes a request, or an answer.
//!
//! The fast way knows one form: three descriptors, which are header, data and status, the data in one region. What it does
//! not know it hands to the slow way, with what it has read, since nothing is read twice. What a request may do is decided
//! by the same code in both (`decide`).

use core::mem;

use nvme_platform::trace;
use zerocopy::transmute;

use super::decide::{BAD, Flow, Refused};
use super::slow::{Slow, Why};
use super::{BlkQueue, Direction, Next, Request};
use crate::blk::request::{HEADER, Header, Kind, Status};
use crate::memory::{Lists, Pinned, Ranges, Spares};
use crate::virtqueue::{Broken, Buffer, Three};

impl BlkQueue {
    /// Takes the next available chain, as far as it is a read or write as most are.
    #[inline(always)]
    pub(super) fn take_fast(&mut self) -> Result<Request, Slow> {
        let head = match self.ring.take() {
            Ok(Some(head)) => head,
            Ok(None) => return Err(self.stop(Why::Idle)),
            Err(why) => return Err(self.stop(Why::Fail(why))),
        };
        if !self.flights.is_free(head) {
            return Err(self.stop(Why::Fail(Broken::HeadInFlight)));
        }
        let Three { header, data, status, near } = match self.ring.three(head, self.indirect, &self.table) {
            Ok(three) => three,
            Err(read) => return Err(self.stop(Why::Chain(head, read))),
        };
        let Ok(status) = self.account.pin_near(&self.table, near, status) else {
            return Err(self.stop(Why::Fail(Broken::NoStatus)));
        };
        let Ok(words) = self.table.read_words_near(near, header) else {
            return Err(self.stop(Why::Answer(head, status, Status::IoErr)));
        };
        let header = Header::from_words(words);
        let decision = match self.decide(&header, || Ok(Flow::of(&data))) {
            Ok(Some(decision)) => decision,
            Ok(None) => return Err(self.stop(Why::Start(head, header, status, data))),
            Err(Refused(answer)) => return Err(self.stop(Why::Answer(head, status, answer))),
        };
        let memory = match self.account.mediate_one(&self.table, data.addr, data.len, decision.need()) {
            Ok(Some(range)) => Ranges::One(range),
            Ok(None) => return Err(self.stop(Why::Start(head, header, status, data))),
            Err(_) => return Err(self.stop(Why::Answer(head, status, Status::IoErr))),
        };
        match self.begin(head, status, decision, memory) {
            Ok(request) => Ok(request),
            Err((status, memory)) => {
                self.undo(memory);
                Err(self.stop(Why::Answer(head, status, Status::IoErr)))
            }
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
        let Spares { lists, chain } = spares;
        match mem::take(&mut self.stopped) {
            Why::Idle => Next::Idle,
            Why::Fail(why) => self.fail(why),
            Why::Old => self.next_old(),
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
            Why::Answer(head, at, status) => self.answer_now(head, at, status, 0),
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
        let decision = match self.decide(header, || Flow::measure(data)) {
            Ok(Some(decision)) => decision,
            Ok(None) => {
                return match Kind::from_wire(header.kind) {
                    Some(Kind::In | Kind::Out) => self.start_parts(head, status, header, data, lists),
                    _ => self.start_other(head, status, header, data),
                };
            }
            Err(Refused(answer)) => return self.answer_now(head, status, answer, 0),
        };
        let memory = match self.mediate(data, decision.need(), lists) {
            Ok(memory) => memory,
            Err(Refused(answer)) => return self.answer_now(head, status, answer, 0),
        };
        match self.begin(head, status, decision, memory) {
            Ok(request) => Next::Request(request),
            Err((status, memory)) => {
                self.undo(memory);
                self.answer_now(head, status, Status::IoErr, 0)
            }
        }
    }

    pub(super) fn answer_now(&mut self, head: u16, at: Pinned, status: Status, data: u32) -> Next {
        trace!("request {} is answered at once: status {}", head, status as u8);
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
