//! The fast way of submission: a loop over it has nothing to do with any other.

use nvme_platform::{Time, trace};
use nvme_session::queue::Request;

use super::encode::{decide, fast, identified};
use super::issued::{Issued, Standing};
use super::pair::{QueuePair, State};
use super::transfer::How;

/// A pair by which requests are issued, by the fast way.
pub struct Issuing<'p> {
    pair: &'p mut QueuePair,
    /// Of what is issued.
    deadline: Time,
    /// Most bytes of one command; 0: the fast way is closed.
    limit: u32,
}

impl Issuing<'_> {
    /// Issues a read or write of one range of memory that the two PRP entries of a command can name. Any other request comes back, in `back`,
    /// or one for which there is no room: for [`submit_slow`](QueuePair::submit_slow). Whether it was issued.
    #[inline(always)]
    pub fn submit(&mut self, request: Request, back: &mut Option<Request>) -> bool {
        let Self { pair, deadline, limit } = self;
        let verb = decide(request.operation(), pair.config.controller);
        if let Some(words) = verb.and_then(|verb| fast(request.operation(), verb, *limit))
            && let Some(vacant) = pair.flight.vacant()
            && pair.sq.push_words(identified(words, vacant.cid())).is_ok()
        {
            trace!("pair {}: command {:#06x} opcode {:#04x}", pair.config.id, vacant.cid(), words[0] as u8);
            pair.counters.issued += 1;
            let standing = Standing::first(None);
            vacant.put(Issued { request, deadline: *deadline, how: How::Prp, standing });
            return true;
        }
        // Moved only here: so a request of the other kind goes from the virtqueue to its slot without a copy between.
        aside(move || *back = Some(request));
        false
    }
}

impl QueuePair {
    /// The fast way of [`submit`](Self::submit), for any number of requests at a time.
    #[inline(always)]
    pub fn issuing(&mut self, now: Time) -> Issuing<'_> {
        let deadline = now + self.config.timeout;
        self.earliest = self.earliest.min(deadline);
        let limit = if self.state == State::Running { self.config.caps.transfer } else { 0 };
        Issuing { pair: self, deadline, limit }
    }
}

/// Does what is done seldom, out of the way of what is done often.
#[cold]
#[inline(never)]
fn aside<R>(what: impl FnOnce() -> R) -> R {
    what()
}
