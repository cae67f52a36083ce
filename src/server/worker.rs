//! The worker role: whole virtqueues and whole NVMe queue pairs, and the passes that move requests between them.
//!
//! A pass takes a bounded number of requests from each active virtqueue, submits them, rings each doorbell once, takes
//! completions, and publishes each used ring once. Nothing is allocated and nothing is locked while there is work.
//! A queue is *active* while it is polled; without work for a while it asks for kicks and becomes inactive.

mod drains;
mod messages;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Notify, Time};
use nvme_session::memory::{Spares, Windows};
use nvme_session::queue::{BlkQueue, Next, Request, Tag};
use nvme_session::virtqueue::Broken;
use slab::Slab;

use self::drains::Drain;
use super::message::{FromWorker, PairId, Pass, QueueKey, SessionKey, StuckCommand};
use crate::nvme::{QueuePair, Submit};

/// Most requests taken from one virtqueue in one pass. A pass rings one doorbell for all of them, so many make it cheap.
const TAKE: u32 = 32;
/// The same where the controller runs on this worker, and a doorbell costs nothing. Few, so that a driver that offers many
/// hears of the first while the others are still worked on: the two overlap instead of waiting for each other.
const TAKE_HERE: u32 = 8;
/// Most commands that a software controller executes, and most completions taken, for one pair in one pass.
const BATCH: u32 = 64;
/// How often deadlines and idle queues are looked at while there is work.
const CHECK_EVERY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Serving,
    /// Finishing what was taken.
    Stopping,
    /// Its ring is broken: nothing is taken any more.
    Broken,
}

struct Queue {
    key: QueueKey,
    queue: Box<BlkQueue>,
    pair: PairId,
    notify: Box<dyn Notify>,
    state: State,
    /// Its device is lost: every request fails.
    lost: bool,
    /// Its pair is not here: nothing can be submitted.
    away: bool,
    /// It stands in its pair's line.
    in_line: bool,
    active: bool,
    /// Whether the used ring has entries that were not published.
    news: bool,
    last_work: Time,
}

struct Pair {
    id: PairId,
    pair: Box<QueuePair>,
    /// Virtqueues that found it full, the one that waits longest first.
    line: VecDeque<usize>,
}

/// One worker. The home gives it time, messages and kicks.
pub struct Worker {
    queues: Slab<Queue>,
    pairs: Vec<Pair>,
    active: Vec<usize>,
    turn: usize,
    spares: Spares,
    drains: Vec<Drain>,
    stopping: usize,
    /// Virtqueues that hold memory which nothing proves free.
    quarantined: Vec<(SessionKey, Box<BlkQueue>)>,
    outbox: VecDeque<FromWorker>,
    /// How many virtqueues there have been: what tells the next from those.
    lives: u32,
    poll_for: Duration,
    next_check: Time,
}

impl Worker {
    /// A worker without queues. A virtqueue is polled for `poll_for` after its last work.
    pub fn new(poll_for: Duration) -> Self {
        Self {
            queues: Slab::new(),
            pairs: Vec::new(),
            active: Vec::new(),
            turn: 0,
            spares: Spares::new(),
            drains: Vec::new(),
            stopping: 0,
            quarantined: Vec::new(),
            outbox: VecDeque::new(),
            lives: 0,
            poll_for,
            next_check: Time::default(),
        }
    }

    /// What control should know; to be emptied after each pass.
    pub fn take_message(&mut self) -> Option<FromWorker> {
        self.outbox.pop_front()
    }

    /// The token of a virtqueue, for [`Worker::kick`]. The home watches the driver's kicks under it.
    pub fn token(&self, key: QueueKey) -> Option<usize> {
        self.queues.iter().find(|(_, q)| q.key == key).map(|(token, _)| token)
    }

    /// The pairs that have something in flight: whose interrupts are worth waiting for.
    pub fn busy_pairs(&self) -> impl Iterator<Item = PairId> + '_ {
        self.pairs.iter().filter(|p| p.pair.in_flight() > 0).map(|p| p.id)
    }

    /// The driver of a virtqueue says that there is something in its available ring.
    pub fn kick(&mut self, token: usize, now: Time) {
        if let Some(queue) = self.queues.get_mut(token)
            && !queue.active
            && queue.state == State::Serving
        {
            queue.last_work = now;
            self.activate(token);
        }
    }

    fn activate(&mut self, token: usize) {
        if let Some(queue) = self.queues.get_mut(token)
            && !queue.active
        {
            queue.queue.ignore_kicks();
            queue.active = true;
            self.active.push(token);
        }
    }

    /// Before a token is given to another virtqueue.
    fn leave_line(&mut self, token: usize) {
        for pair in &mut self.pairs {
            pair.line.retain(|t| *t != token);
        }
    }

    /// Whether that is news.
    fn break_queue(&mut self, token: usize, why: Broken) -> bool {
        let Some(queue) = self.queues.get_mut(token) else { return false };
        queue.queue.break_off(why);
        let news = queue.state == State::Serving;
        if news {
            queue.state = State::Broken;
            queue.notify.broken();
            self.outbox.push_back(FromWorker::QueueBroken(queue.key, why));
        }
        news
    }

    /// One pass over everything that is active. To be called again at once while it [worked](Pass::worked).
    pub fn pass(&mut self, now: Time) -> Pass {
        let mut worked = false;
        for at in 0..self.pairs.len() {
            if self.pairs.get(at).is_some_and(|p| !p.line.is_empty()) {
                worked |= self.serve_line(at, now);
            }
        }
        for i in 0..self.active.len() {
            let at = (self.turn + i) % self.active.len();
            if let Some(&token) = self.active.get(at) {
                worked |= self.take(token, now, false);
            }
        }
        // Another queue is first next time, so that a full pair starves nobody.
        self.turn = if self.turn + 1 < self.active.len() { self.turn + 1 } else { 0 };

        let mut wake = None;
        for at in 0..self.pairs.len() {
            let (more, again) = self.turn_pair(at, now);
            worked |= more;
            wake = earlier(wake, again);
        }
        for &token in &self.active {
            if let Some(queue) = self.queues.get_mut(token)
                && queue.news
            {
                queue.news = false;
                queue.last_work = now;
                if queue.queue.publish() {
                    queue.notify.used();
                }
            }
        }
        if self.stopping > 0 {
            worked |= self.finish_stopping();
        }
        if !self.drains.is_empty() {
            worked |= self.turn_drains();
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            self.check(now);
        }
        if !worked {
            for pair in &self.pairs {
                wake = earlier(wake, pair.pair.next_deadline());
            }
        }
        Pass { worked, wake }
    }

    /// Lets virtqueues that found their pair full have their turn, in the order in which they came.
    fn serve_line(&mut self, at: usize, now: Time) -> bool {
        let mut worked = false;
        let waiting = self.pairs.get(at).map_or(0, |p| p.line.len());
        for _ in 0..waiting {
            let Some(pair) = self.pairs.get_mut(at) else { break };
            if pair.pair.in_flight() >= u32::from(pair.pair.capacity()) {
                break;
            }
            let Some(token) = pair.line.pop_front() else { break };
            if let Some(queue) = self.queues.get_mut(token) {
                queue.in_line = false;
            }
            self.activate(token);
            worked |= self.take(token, now, true);
        }
        worked
    }

    /// Takes requests from one virtqueue and submits them. While others stand in line for its pair, only if it is
    /// its turn.
    fn take(&mut self, token: usize, now: Time, its_turn: bool) -> bool {
        let Some(queue) = self.queues.get_mut(token) else { return false };
        if queue.lost {
            return self.fail_requests(token, now);
        }
        let Some(pair) = self.pairs.iter_mut().find(|p| p.id == queue.pair) else {
            queue.away = true;
            return false;
        };
        if !pair.line.is_empty() && !its_turn {
            stand_in_line(queue, token, &mut pair.line);
            return false;
        }
        let mut took = false;
        let most = if pair.pair.runs_here() { TAKE_HERE } else { TAKE };
        for _ in 0..most {
            let slow = match queue.queue.next_fast() {
                Ok(request) => {
                    if let Err(request) = pair.pair.submit_fast(request, now)
                        && !submit(queue, &mut pair.pair, request, now, &mut self.spares)
                    {
                        stand_in_line(queue, token, &mut pair.line);
                        break;
                    }
                    took = true;
                    continue;
                }
                Err(slow) => slow,
            };
            match queue.queue.next_slow(slow, &mut self.spares) {
                Next::Request(request) => {
                    if !submit(queue, &mut pair.pair, request, now, &mut self.spares) {
                        stand_in_line(queue, token, &mut pair.line);
                        break;
                    }
                    took = true;
                }
                Next::Again => {
                    took = true;
                    queue.news = true;
                }
                Next::Idle => break,
                Next::Broken(why) => return self.break_queue(token, why) || took,
            }
        }
        if took {
            queue.last_work = now;
        }
        took
    }

    /// Ends the requests of a virtqueue whose device is lost.
    fn fail_requests(&mut self, token: usize, now: Time) -> bool {
        let Some(queue) = self.queues.get_mut(token) else { return false };
        let mut took = false;
        for _ in 0..TAKE {
            match queue.queue.next(&mut self.spares) {
                Next::Request(request) => {
                    queue.queue.put_back(request);
                    queue.queue.cancel(&mut self.spares);
                }
                Next::Again => {}
                Next::Idle => break,
                Next::Broken(why) => return self.break_queue(token, why) || took,
            }
            took = true;
            queue.news = true;
        }
        if took {
            queue.last_work = now;
        }
        took
    }

    /// Rings, runs and polls one pair.
    fn turn_pair(&mut self, at: usize, now: Time) -> (bool, Option<Time>) {
        let Some(Pair { pair, .. }) = self.pairs.get_mut(at) else { return (false, None) };
        if pair.in_flight() == 0 {
            return (false, None);
        }
        pair.ring();
        let again = pair.run(BATCH, now);
        let mut worked = again.is_some_and(|t| t <= now);
        for _ in 0..BATCH {
            let ended = match pair.next_fast() {
                Some(ended) => ended,
                None => {
                    let Some(ended) = pair.next_ended(&mut |tag: Tag, range| {
                        self.queues.get(tag.queue().token as usize).and_then(|q| q.queue.window(range))
                    }) else {
                        break;
                    };
                    ended
                }
            };
            worked = true;
            let token = ended.tag().queue().token as usize;
            let Some(queue) = self.queues.get_mut(token) else { continue };
            queue.news = true;
            if !queue.active {
                queue.active = true;
                queue.queue.ignore_kicks();
                self.active.push(token);
            }
            if let Some(next) = queue.queue.complete(ended, &mut self.spares) {
                submit(queue, pair, next, now, &mut self.spares);
            }
        }
        pair.finish_poll();
        (worked, again)
    }

    fn finish_stopping(&mut self) -> bool {
        let mut stopped = false;
        for i in (0..self.active.len()).rev() {
            let Some(&token) = self.active.get(i) else { continue };
            let Some(queue) = self.queues.get_mut(token) else { continue };
            if queue.state != State::Stopping || queue.queue.in_flight() > 0 {
                continue;
            }
            if queue.queue.publish() {
                queue.notify.used();
            }
            self.outbox.push_back(FromWorker::QueueStopped(queue.key, queue.queue.next_avail()));
            self.queues.remove(token);
            self.active.swap_remove(i);
            self.leave_line(token);
            self.stopping -= 1;
            stopped = true;
        }
        stopped
    }

    /// Reports commands that are late, and lets queues without work ask for kicks though others are busy.
    fn check(&mut self, now: Time) {
        for Pair { id, pair, .. } in &mut self.pairs {
            while let Some(expired) = pair.expired(now) {
                let command = StuckCommand { pair: *id, cid: expired.cid, token: expired.tag.queue() };
                self.outbox.push_back(FromWorker::Expired(command));
            }
        }
        if self.active.len() > 1 {
            self.rest(|queue, poll_for| now - queue.last_work > poll_for);
        }
    }

    /// Lets every virtqueue ask for kicks. True when nothing came meanwhile: the home may sleep until a kick, an
    /// interrupt, a message or the pass's [wake time](Pass::wake).
    pub fn sleep(&mut self) -> bool {
        self.rest(|_, _| true);
        self.active.is_empty()
    }

    /// How long the home should go on polling after the last work.
    pub fn poll_for(&self) -> Duration {
        self.poll_for
    }

    fn rest(&mut self, which: impl Fn(&Queue, Duration) -> bool) {
        let poll_for = self.poll_for;
        let queues = &mut self.queues;
        self.active.retain(|token| {
            let Some(queue) = queues.get_mut(*token) else { return false };
            // It can do nothing before its pair comes back or has room, which makes it active again.
            let parked = (queue.away || queue.in_line) && !queue.lost;
            let resting = match queue.state {
                State::Serving if !which(queue, poll_for) => false,
                // True from `listen` means that something came before the driver could know that we want kicks.
                State::Serving | State::Broken => parked || !queue.queue.listen(),
                // Its completions make it active again.
                State::Stopping => {
                    queue.queue.in_flight() > 0 && which(queue, poll_for) && (parked || !queue.queue.listen())
                }
            };
            queue.active = !resting;
            !resting
        });
    }
}

fn stand_in_line(queue: &mut Queue, token: usize, line: &mut VecDeque<usize>) {
    if !core::mem::replace(&mut queue.in_line, true) {
        line.push_back(token);
    }
}

/// Submits one request of a queue. False when the pair is full.
fn submit(queue: &mut Queue, pair: &mut QueuePair, request: Request, now: Time, spares: &mut Spares) -> bool {
    match pair.submit_slow(request, now, &*queue.queue, spares) {
        Submit::Issued => true,
        Submit::Part(rest) => {
            queue.queue.divided(rest);
            true
        }
        Submit::Full(request) => {
            queue.queue.put_back(request);
            false
        }
        Submit::Refused(ended) => {
            queue.news = true;
            let next = queue.queue.complete(ended, spares);
            // What cannot be done has nothing to follow it.
            debug_assert!(next.is_none());
            true
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
