//! What is done for each request as most are, in loops of their own: nothing but that is in them, so that it stays in registers.

use nvme_platform::Time;
use nvme_session::queue::{BlkQueue, Onward, Request, Slow};

use super::roster::{Activity, Roster};
use crate::nvme::{Issuing, QueuePair};

/// Submits a request, or gives it back. Whether it was submitted.
struct Submit<'i, 'p> {
    issuing: &'i mut Issuing<'p>,
    back: &'i mut Option<Request>,
}

impl Onward for Submit<'_, '_> {
    type Answer = bool;

    #[inline(always)]
    fn go_on(self, request: Request) -> bool {
        self.issuing.submit(request, self.back)
    }
}

/// Takes requests from a virtqueue and submits them, up to `most`, as long as both go the fast way. How many. When it stopped before: with the
/// one in `back`, which is to be submitted the slow way, or with the next one, which is to be taken that way, if there is one.
#[inline(never)]
pub(super) fn quick(
    virtqueue: &mut BlkQueue,
    pair: &mut QueuePair,
    most: u32,
    now: Time,
    back: &mut Option<Request>,
) -> (u32, Option<Slow>) {
    let taken = virtqueue.taking(|mut taking| {
        let mut issuing = pair.issuing(now);
        let mut left = most;
        while left > 0 {
            match taking.next(Submit { issuing: &mut issuing, back }) {
                Ok(true) => left -= 1,
                Ok(false) => return (most - left, None),
                Err(slow) => return (most - left, Some(slow)),
            }
        }
        (most, None)
    });
    taken.unwrap_or_else(|slow| (0, Some(slow)))
}

/// Takes completions of a pair, up to `most`, as long as they are of the fast way, and gives each to its virtqueue. How many.
#[inline(never)]
pub(super) fn completions(pair: &mut QueuePair, roster: &mut Roster, most: u32, now: Time) -> u32 {
    let Some(mut ending) = pair.ending() else { return 0 };
    let mut left = most;
    // As a rule many of one virtqueue come one after the other: it is looked for once.
    while left > 0
        && let Some(tag) = ending.whose()
    {
        let Some(queue) = roster.get_mut(tag.token()) else {
            let Some(_) = ending.next_of(tag) else { break };
            left -= 1;
            continue;
        };
        let (mut completing, before) = (queue.virtqueue.completing(), left);
        let own = completing.tag();
        if own != tag {
            let Some(ended) = ending.next_of(tag) else { break };
            completing.foreign(ended);
            left -= 1;
            continue;
        }
        while left > 0
            && let Some(ended) = ending.next_of(own)
        {
            completing.one(ended, now);
            left -= 1;
        }
        if left == before {
            break;
        }
        // Its driver hears of that, and as a rule has more.
        if queue.activity == Activity::Asleep || !queue.news {
            roster.has_ended(tag.token());
        }
    }
    most - left
}
