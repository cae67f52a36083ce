//! The worker role: whole virtqueues and whole NVMe queue pairs, and the passes that move requests between them.
//!
//! In a pass each session that has something to do has a turn (`roster`): a bounded number of requests is taken from its
//! virtqueues and submitted. Then each doorbell is rung once, completions are taken, and each used ring is published once.
//! Nothing is allocated and nothing is locked while there is work. Without work for a while a virtqueue asks for kicks and
//! has no turns.
//!
//! * `roster`: sessions, their virtqueues, and whose turn it is.
//! * `messages`: what control tells a worker.
//! * `drains`: changes of memory.

mod drains;
mod messages;
mod roster;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Time, Window};
use nvme_session::memory::{DmaRange, Spares, Windows};
use nvme_session::queue::{BlkQueue, Next, Request, Tag};
use nvme_session::virtqueue::Broken;

use self::drains::Drain;
use self::roster::{Activity, Duty, Queue, Roster, Turn};
use super::message::{FromWorker, PairId, Pass, QueueKey, SessionKey, StuckCommand};
use crate::nvme::{Came, Clients, QueuePair, Submit};

/// Most requests taken from one virtqueue in one pass. A pass rings one doorbell for all of them, so many make it cheap.
const TAKE: u32 = 32;
/// The same where the controller runs on this worker, and a doorbell costs nothing. Few, so that a driver that offers many
/// hears of the first while the others are still worked on: the two overlap instead of waiting for each other.
const TAKE_HERE: u32 = 8;
/// Most requests taken from one session in one pass, as many virtqueues as it may have: what four of them may offer.
const TURN: u32 = 4 * TAKE;
/// Most commands that a software controller executes, and most completions taken, for one pair in one pass.
const BATCH: u32 = 64;
/// How often deadlines and idle queues are looked at while there is work.
const CHECK_EVERY: Duration = Duration::from_millis(1);

struct Pair {
    id: PairId,
    queues: Box<QueuePair>,
    /// Sessions whose virtqueues found it full, the one that waits longest first.
    line: VecDeque<usize>,
}

impl Pair {
    fn has_room(&self) -> bool {
        self.queues.in_flight() < u32::from(self.queues.capacity())
    }

    /// Most requests for it from one virtqueue at once.
    #[inline]
    fn most(&self) -> u32 {
        if self.queues.runs_here() { TAKE_HERE } else { TAKE }
    }
}

/// One worker. The home gives it time, messages and kicks.
pub struct Worker {
    roster: Roster,
    pairs: Vec<Pair>,
    spares: Spares,
    drains: Vec<Drain>,
    /// Tokens of virtqueues that finish what was taken.
    stopping: Vec<usize>,
    /// Virtqueues that hold memory which nothing proves free.
    quarantined: Vec<(SessionKey, Box<BlkQueue>)>,
    outbox: VecDeque<FromWorker>,
    poll_for: Duration,
    next_check: Time,
}

impl Worker {
    /// A worker without queues. A virtqueue is polled for `poll_for` after its last work.
    pub fn new(poll_for: Duration) -> Self {
        Self {
            roster: Roster::default(),
            pairs: Vec::new(),
            spares: Spares::new(),
            drains: Vec::new(),
            stopping: Vec::new(),
            quarantined: Vec::new(),
            outbox: VecDeque::new(),
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
        self.roster.token(key)
    }

    /// The pairs that have something in flight: whose interrupts are worth waiting for.
    pub fn busy_pairs(&self) -> impl Iterator<Item = PairId> + '_ {
        self.pairs.iter().filter(|p| p.queues.in_flight() > 0).map(|p| p.id)
    }

    /// The driver of a virtqueue says that there is something in its available ring.
    pub fn kick(&mut self, token: usize, now: Time) {
        if let Some(queue) = self.roster.get_mut(token)
            && queue.activity == Activity::Asleep
            && queue.duty == Duty::Serve
        {
            queue.last_work = now;
            self.roster.wake(token);
        }
    }

    /// Before a token is given to another virtqueue, or when it need not wait any more.
    fn leave_line(&mut self, token: usize) {
        if let Some(session) = self.roster.leave_line(token) {
            for pair in &mut self.pairs {
                pair.line.retain(|place| *place != session);
            }
        }
    }

    /// Whether that is news.
    fn break_queue(&mut self, token: usize, why: Broken) -> bool {
        let Some(queue) = self.roster.get_mut(token) else { return false };
        queue.virtqueue.break_off(why);
        let news = queue.duty == Duty::Serve;
        if news {
            queue.duty = Duty::Broken;
            queue.notify.broken();
            self.outbox.push_back(FromWorker::QueueBroken(queue.key, why));
        }
        news
    }

    /// One pass over everything that has work. To be called again at once while it [worked](Pass::worked).
    pub fn pass(&mut self, now: Time) -> Pass {
        let mut worked = false;
        for at in 0..self.pairs.len() {
            if self.pairs.get(at).is_some_and(|p| !p.line.is_empty()) {
                worked |= self.serve_line(at, now);
            }
        }
        for at in 0..self.roster.turns() {
            if let Some(session) = self.roster.turn(at) {
                worked |= self.serve(session, now);
            }
        }
        self.roster.end_turns();

        let mut wake = None;
        for at in 0..self.pairs.len() {
            let (more, again) = self.turn_pair(at, now);
            worked |= more;
            wake = earlier(wake, again);
        }
        self.roster.publish(now);
        if !self.stopping.is_empty() {
            worked |= self.finish_stopping();
        }
        if !self.drains.is_empty() {
            worked |= self.turn_drains();
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            worked |= self.check(now);
        }
        if !worked {
            let deadlines = self.pairs.iter().filter_map(|pair| pair.queues.next_deadline());
            if let Some(first) = deadlines.min() {
                // Then they are looked at, however short a time ago they were.
                self.next_check = self.next_check.min(first);
                wake = earlier(wake, Some(first));
            }
        }
        Pass { worked, wake }
    }

    /// A session's turn: what its virtqueues offer, until the turn is spent.
    fn serve(&mut self, session: usize, now: Time) -> bool {
        let mut turn = Turn::of(TURN);
        let mut worked = false;
        let mut until = 1;
        for at in 0..self.roster.polled(session) {
            let Some(token) = self.roster.polled_at(session, at) else { break };
            let taken = self.take(token, &turn, now, false);
            worked |= taken > 0;
            if turn.spend(taken) {
                until = at + 1;
                break;
            }
        }
        self.roster.end_turn(session, until);
        worked
    }

    /// Lets sessions that found their pair full have their turn, in the order in which they came.
    fn serve_line(&mut self, at: usize, now: Time) -> bool {
        let mut worked = false;
        let waiting = self.pairs.get(at).map_or(0, |p| p.line.len());
        for _ in 0..waiting {
            let Some(pair) = self.pairs.get_mut(at).filter(|p| p.has_room()) else { break };
            let Some(session) = pair.line.pop_front() else { break };
            // A smaller turn than where there is room for all.
            let mut turn = Turn::of(pair.most());
            while let Some(token) = self.roster.next_waiting(session) {
                let taken = self.take(token, &turn, now, true);
                worked |= taken > 0;
                let waits = self.roster.get(token).is_some_and(|q| q.activity == Activity::InLine);
                if !waits {
                    self.roster.wake(token);
                }
                if turn.spend(taken) || waits {
                    break;
                }
            }
            if let Some(pair) = self.pairs.get_mut(at)
                && self.roster.waits(session)
                && !pair.line.contains(&session)
            {
                pair.line.push_back(session);
            }
        }
        worked
    }

    /// Takes requests from one virtqueue and submits them, as many as the turn allows. While others stand in line for its
    /// pair, only if it is its turn there. How many.
    fn take(&mut self, token: usize, turn: &Turn, now: Time, its_turn: bool) -> u32 {
        let Some((queue, served)) = self.roster.with_session(token) else { return 0 };
        if served.lost {
            return self.fail_requests(token, now);
        }
        let Some(pair) = self.pairs.iter_mut().find(|p| p.id == queue.pair) else {
            queue.activity = Activity::Away;
            return 0;
        };
        if !pair.line.is_empty() && !its_turn {
            queue.stand_in_line(token, served, &mut pair.line);
            return 0;
        }
        let most = turn.allows(pair.most());
        let mut taken = 0;
        let mut news = false;
        let mut full = false;
        let mut broken = None;
        while taken < most {
            let slow = match queue.virtqueue.next_fast() {
                Ok(request) => {
                    let spares = &mut self.spares;
                    let (queue, news) = (&mut *queue, &mut news);
                    let slow =
                        |pair: &mut QueuePair, request| submit(queue, pair, request, news, now, spares);
                    if pair.queues.submit_fast(request, now, slow) == Some(false) {
                        full = true;
                        break;
                    }
                    taken += 1;
                    continue;
                }
                Err(slow) => slow,
            };
            match queue.virtqueue.next_slow(slow, &mut self.spares) {
                Next::Request(request) => {
                    if !submit(queue, &mut pair.queues, request, &mut news, now, &mut self.spares) {
                        full = true;
                        break;
                    }
                }
                Next::Again => news = true,
                Next::Idle => break,
                Next::Broken(why) => {
                    broken = Some(why);
                    break;
                }
            }
            taken += 1;
        }
        if full {
            queue.stand_in_line(token, served, &mut pair.line);
        }
        if taken > 0 {
            queue.last_work = now;
        }
        if news {
            self.roster.has_news(token);
        }
        match broken {
            Some(why) => taken + u32::from(self.break_queue(token, why)),
            None => taken,
        }
    }

    /// Ends the requests of a virtqueue whose device is lost. How many.
    fn fail_requests(&mut self, token: usize, now: Time) -> u32 {
        let Some(queue) = self.roster.get_mut(token) else { return 0 };
        let mut taken = 0;
        let mut broken = None;
        while taken < TAKE {
            match queue.virtqueue.next(&mut self.spares) {
                Next::Request(request) => {
                    queue.virtqueue.put_back(request);
                    queue.virtqueue.cancel(&mut self.spares);
                }
                Next::Again => {}
                Next::Idle => break,
                Next::Broken(why) => {
                    broken = Some(why);
                    break;
                }
            }
            taken += 1;
        }
        if taken > 0 {
            queue.last_work = now;
            self.roster.has_news(token);
        }
        match broken {
            Some(why) => taken + u32::from(self.break_queue(token, why)),
            None => taken,
        }
    }

    /// Rings, runs and polls one pair.
    fn turn_pair(&mut self, at: usize, now: Time) -> (bool, Option<Time>) {
        let Some(Pair { queues: pair, .. }) = self.pairs.get_mut(at) else { return (false, None) };
        if pair.in_flight() == 0 {
            return (false, None);
        }
        pair.ring();
        let again = pair.run(BATCH, now);
        let mut worked = again.is_some_and(|t| t <= now);
        for _ in 0..BATCH {
            let ended = match pair.next_fast() {
                Some(ended) => ended,
                None => match pair.next_ended(now, &self.roster) {
                    None => break,
                    Some(Came::Ended(ended)) => ended,
                    Some(Came::Again) => {
                        worked = true;
                        continue;
                    }
                },
            };
            worked = true;
            let token = ended.tag().queue().token();
            let Some(queue) = self.roster.get_mut(token) else { continue };
            let next = queue.virtqueue.complete(ended, &mut self.spares);
            if let Some(next) = next {
                submit(queue, pair, next, &mut false, now, &mut self.spares);
            }
            // Its driver hears of that, and as a rule has more.
            if queue.activity == Activity::Asleep || !queue.news {
                self.roster.has_ended(token);
            }
        }
        pair.finish_poll();
        (worked, again)
    }

    fn finish_stopping(&mut self) -> bool {
        let mut stopped = false;
        for i in (0..self.stopping.len()).rev() {
            let Some(&token) = self.stopping.get(i) else { continue };
            let Some(queue) = self.roster.get_mut(token) else { continue };
            if queue.virtqueue.in_flight() > 0 {
                continue;
            }
            if queue.virtqueue.publish() {
                queue.notify.used();
            }
            self.outbox.push_back(FromWorker::QueueStopped(queue.key, queue.virtqueue.next_avail()));
            self.stopping.swap_remove(i);
            self.leave_line(token);
            self.roster.remove(token);
            stopped = true;
        }
        stopped
    }

    /// Issues commands again whose time has come, reports those that are late, and lets queues without work ask for kicks
    /// though others are busy. Whether there is anything to ring for.
    fn check(&mut self, now: Time) -> bool {
        let mut issued = false;
        for Pair { id, queues, .. } in &mut self.pairs {
            issued |= queues.issue_due(now);
            while let Some(expired) = queues.expired(now) {
                let command = StuckCommand { pair: *id, cid: expired.cid, token: expired.tag.queue() };
                self.outbox.push_back(FromWorker::Expired(command));
            }
        }
        // Whether the only one goes on polling is the home's to say.
        if self.roster.is_crowded() {
            let poll_for = self.poll_for;
            self.roster.let_sleep(|queue| now - queue.last_work > poll_for);
        }
        issued
    }

    /// Lets every virtqueue ask for kicks. True when nothing came meanwhile: the home may sleep until a kick, an
    /// interrupt, a message or the pass's [wake time](Pass::wake).
    pub fn sleep(&mut self) -> bool {
        self.roster.let_sleep(|_| true)
    }

    /// How long the home should go on polling after the last work.
    pub fn poll_for(&self) -> Duration {
        self.poll_for
    }
}

impl Clients for Roster {
    fn window(&self, tag: Tag, range: &DmaRange) -> Option<Window> {
        self.get(tag.queue().token()).and_then(|queue| queue.virtqueue.window(range))
    }

    fn wants(&self, tag: Tag) -> bool {
        self.is_wanted(tag.queue().token())
    }
}

/// Submits one request of a queue. False when the pair is full. `news` becomes true when something is to be published.
fn submit(
    queue: &mut Queue,
    pair: &mut QueuePair,
    request: Request,
    news: &mut bool,
    now: Time,
    spares: &mut Spares,
) -> bool {
    match pair.submit_slow(request, now, &*queue.virtqueue, spares) {
        Submit::Issued => true,
        Submit::Part(rest) => {
            queue.virtqueue.divided(rest);
            true
        }
        Submit::Full(request) => {
            queue.virtqueue.put_back(request);
            false
        }
        Submit::Refused(ended) => {
            *news = true;
            let next = queue.virtqueue.complete(ended, spares);
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
