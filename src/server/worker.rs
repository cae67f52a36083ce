//! The worker role: whole virtqueues and whole NVMe queue pairs, and the passes that move requests between them.
//!
//! In a pass each session that has something to do has a turn: a bounded amount of work is taken from its virtqueues and
//! submitted, and where the controller runs on this worker, done and published. What that took is the session's to pay for
//! (`shares`): the clock is read once for each turn. Then each doorbell is rung once, completions are taken, and each used
//! ring is published once. Nothing is allocated and nothing is locked while there is work. Without work for a while a
//! virtqueue asks for kicks and has no turns.
//!
//! * `roster`: groups of sessions, sessions, and their virtqueues. `shares`: whose turn it is.
//! * `turns`: the turns of a pass. `submit`: one request of a turn. `quick`: requests as most are.
//! * `messages`: what control tells a worker.
//! * `limited`: turns of sessions with limits.
//! * `drains`: changes of memory. `split`: a session gets a worker of its own.
//! * `balance`: how much there is to do, where there are other workers. `leaving`: virtqueues that go to one of them.

mod balance;
mod drains;
mod leaving;
mod limited;
mod messages;
mod quick;
mod roster;
mod shares;
mod split;
mod submit;
mod turns;
mod waits;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Clock, Time, Window};
use nvme_session::memory::{DmaRange, Spares, Windows};
use nvme_session::queue::{Asked, BlkQueue, Fault, Tag};
use nvme_session::virtqueue::Broken;

use self::balance::Balance;
use self::drains::{Drain, TABLE_STEP};
use self::leaving::Leaving;
use self::quick::completions;
use self::roster::{Activity, Duty, Roster};
use self::shares::{OVERRUN, since};
pub use self::split::Split;
use self::submit::submit;
pub use self::waits::Waits;
use super::message::{FromWorker, PairId, Pass, QueueKey, SessionKey, StuckCommand};
use crate::nvme::{Came, Clients, QueuePair};

/// Most commands that a software controller executes, and most completions taken, for one pair in one pass.
const BATCH: u32 = 64;
/// How long a pass may be, as far as turns make it so: then messages and kicks are looked at.
const PASS: Duration = Duration::from_micros(200);
/// So many passes are measured closely after one that took too long, and as many more until so much time has passed: passes are short
/// while nobody has work, and whoever pays for a long turn has the next one many of them later.
const CLOSELY: u32 = 10_000;
const CLOSELY_FOR: Duration = Duration::from_secs(60);
/// How often deadlines and idle queues are looked at while there is work.
const CHECK_EVERY: Duration = Duration::from_millis(1);
/// About so many queues are looked at then: a part of a pass that many idle ones make no longer.
const SLEEPERS: usize = 512;

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
}

/// One worker. The home gives it time, messages and kicks.
pub struct Worker {
    roster: Roster,
    pairs: Vec<Pair>,
    spares: Spares,
    drains: Vec<Drain>,
    /// Tokens of virtqueues that finish what was taken.
    stopping: Vec<usize>,
    /// Virtqueues that go to another worker, and finish what was taken.
    leaving: Vec<Leaving>,
    balance: Balance,
    /// It serves one session, which is not to be with others.
    apart: bool,
    /// Sessions that are held, and finish what was taken.
    holding: Vec<SessionKey>,
    /// Virtqueues that hold memory which nothing proves free.
    quarantined: Vec<(SessionKey, Box<BlkQueue>)>,
    /// Virtqueues that wait because their session did all that it may for now, and until when.
    held: Vec<(Time, usize)>,
    /// The first of these times.
    held_until: Option<Time>,
    outbox: VecDeque<FromWorker>,
    poll_for: Duration,
    next_check: Time,
    /// For how long the host had kept this thread from running when it was asked last.
    preempted: Duration,
    /// How often its thread had had memory brought then.
    faults: u64,
    /// Passes in which all is measured, and until when there are more of them.
    closely: u32,
    closely_until: Time,
    /// Whether sessions without work were looked at since the clock was read.
    looked: bool,
    /// Sessions whose memory held it up, and for how long, in nanoseconds.
    overran: Vec<(SessionKey, u64)>,
    waits: Waits,
    /// Where it says whose turn it is, in case that the server crashes in it.
    turn_of: Option<Window>,
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
            leaving: Vec::new(),
            balance: Balance::default(),
            apart: false,
            holding: Vec::new(),
            quarantined: Vec::new(),
            held: Vec::new(),
            held_until: None,
            outbox: VecDeque::new(),
            poll_for,
            next_check: Time::default(),
            preempted: Duration::ZERO,
            faults: 0,
            closely: 0,
            closely_until: Time::default(),
            looked: false,
            overran: Vec::new(),
            waits: Waits::default(),
            turn_of: None,
        }
    }

    /// Whether it has neither virtqueues nor queue pairs.
    pub fn is_vacant(&self) -> bool {
        self.pairs.is_empty() && self.roster.is_empty() && self.quarantined.is_empty()
    }

    /// Has it say there whose turn it is: the session's number of 64 bits, or 0.
    pub fn tell_turns(&mut self, window: Window) {
        self.turn_of = Some(window);
    }

    /// What control should know; to be emptied after each pass.
    pub fn take_message(&mut self) -> Option<FromWorker> {
        self.outbox.pop_front()
    }

    /// A session whose memory held the worker up for longer than a turn may take, and for how long; to be asked after each pass. The home
    /// can give it a worker of its own ([`split_off`](Self::split_off)), on another thread.
    #[inline]
    pub fn take_overrun(&mut self) -> Option<(SessionKey, Duration)> {
        self.overran.pop().map(|(session, nanos)| (session, Duration::from_nanos(nanos)))
    }

    /// When a pass began and ended: whose memory made it long is found out, should that come again.
    #[inline]
    pub fn took(&mut self, began: Time, ended: Time) {
        if since(began, ended) > OVERRUN {
            self.measure_closely(ended);
        }
    }

    /// All is measured for a while.
    #[cold]
    fn measure_closely(&mut self, now: Time) {
        (self.closely, self.closely_until) = (CLOSELY, now + CLOSELY_FOR);
    }

    /// What was done for a session beside its turns, a message about it being taken, took from then till now: it is the session's to pay for.
    pub fn heard(&mut self, session: SessionKey, began: Time, ended: Time, clock: &dyn Clock) {
        let Some(place) = self.roster.place_of(session) else { return };
        let took = since(began, ended);
        if took > OVERRUN {
            self.looked = false;
            self.pay_for_long(place, began, ended, clock);
        } else {
            self.roster.pay(place, took);
        }
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
            && queue.duty == Duty::Serve
        {
            queue.kicked.get_or_insert(now);
            if queue.activity == Activity::Asleep {
                queue.last_work = now;
                self.roster.rouse(token);
            }
        }
    }

    /// How long kicks waited so far.
    pub fn waits(&self) -> Waits {
        self.waits
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

    /// One pass over everything that has work. To be called again at once while it [worked](Pass::worked). `clock` is read
    /// once for each turn; `now` is a time that was read just before.
    pub fn pass(&mut self, now: Time, clock: &dyn Clock) -> Pass {
        let (mut time, mut worked) = (now, false);
        self.looked = false;
        self.balance.begins(now);
        if now >= self.next_check {
            self.preempted(clock);
        }
        if self.held_until.is_some_and(|until| now >= until) {
            self.release_held(now);
        }
        for at in 0..self.pairs.len() {
            if self.pairs.get(at).is_some_and(|p| !p.line.is_empty()) {
                worked |= self.serve_line(at, &mut time, clock);
            }
        }
        worked |= self.turns(now + PASS, &mut time, clock);

        let mut wake = None;
        for at in 0..self.pairs.len() {
            if self.pairs.get(at).is_none_or(|pair| pair.queues.in_flight() == 0) {
                continue;
            }
            let (more, again) = self.turn_pair(at, now);
            worked |= more;
            wake = earlier(wake, again);
            if self.closely > 0 {
                let own = self.pairs.get(at).and_then(|pair| self.roster.alone_on(pair.id));
                self.look_closely(own, &mut time, clock);
            }
        }
        if let Some((session, then, end)) = self.roster.publish_on_account(&mut time, clock) {
            self.pay_for_long(session, then, end, clock);
        }
        if self.closely > 0 {
            self.closely -= 1;
            if self.closely == 0 && now < self.closely_until {
                self.closely = CLOSELY;
            }
        }
        if !self.stopping.is_empty() {
            worked |= self.finish_stopping(time);
        }
        if !self.leaving.is_empty() {
            worked |= self.finish_leaving(time);
        }
        if !self.holding.is_empty() {
            self.finish_holding();
        }
        if !self.drains.is_empty() {
            worked |= self.turn_drains(clock);
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
        wake = earlier(wake, self.held_until);
        if worked && self.balance.is_on() {
            self.balance.worked(now);
        }
        if !self.leaving.is_empty() {
            wake = earlier(wake, Some(now + CHECK_EVERY));
        }
        Pass { worked, wake }
    }

    /// Takes the next steps of changes of memory: a bounded part of each.
    fn turn_drains(&mut self, clock: &dyn Clock) -> bool {
        let mut worked = false;
        for at in 0..self.drains.len() {
            let began = clock.now();
            if self.update_tables(at, TABLE_STEP) {
                worked = true;
                if let Some(session) = self.drains.get(at).map(|drain| drain.session) {
                    self.heard(session, began, clock.now(), clock);
                }
            }
        }
        let (queues, kept, outbox) = (&self.roster, &self.quarantined, &mut self.outbox);
        self.drains.retain_mut(|drain| {
            if drain.updated < drain.queues.len() {
                return true;
            }
            let before = drain.removed.len();
            let done = drain.is_over(queues, kept);
            if done {
                outbox.push_back(FromWorker::TableSet(drain.session, drain.generation));
            }
            worked |= done || drain.removed.len() < before;
            !done
        });
        worked
    }

    /// Gives some of a session's queues their new table. Whether there were any left.
    fn update_tables(&mut self, at: usize, step: usize) -> bool {
        let Some(drain) = self.drains.get_mut(at) else { return false };
        let count = (step / drain.table.regions().len().max(1)).max(1);
        let some: Vec<(usize, QueueKey)> =
            drain.queues.iter().skip(drain.updated).take(count).copied().collect();
        drain.updated += some.len();
        let table = Arc::clone(&drain.table);
        for (token, key) in &some {
            let queue = self.roster.get_mut(*token).filter(|q| q.key == *key);
            if let Some(Err(_)) = queue.map(|q| q.virtqueue.set_table(Arc::clone(&table))) {
                self.break_queue(*token, Broken::RingsGone);
            }
        }
        !some.is_empty()
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
        let mut left = BATCH;
        while left > 0 {
            let taken = completions(pair, &mut self.roster, left, now);
            worked |= taken > 0;
            left -= taken;
            if left == 0 || pair.is_silent() {
                break;
            }
            left -= 1;
            let ended = match pair.next_ended(now, &self.roster) {
                None => break,
                Some(Came::Ended(ended)) => ended,
                Some(Came::Again) => {
                    worked = true;
                    continue;
                }
            };
            worked = true;
            let token = ended.tag().queue().token();
            let Some(queue) = self.roster.get_mut(token) else { continue };
            let next = queue.virtqueue.complete_at(ended, now, &mut self.spares);
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

    fn finish_stopping(&mut self, now: Time) -> bool {
        let mut stopped = false;
        for i in (0..self.stopping.len()).rev() {
            let Some(&token) = self.stopping.get(i) else { continue };
            let Some(queue) = self.roster.get_mut(token) else { continue };
            if queue.virtqueue.in_flight() > 0 || queue.virtqueue.has_old() {
                continue;
            }
            if queue.virtqueue.publish() {
                queue.virtqueue.counts().notified();
                queue.notify.used();
            }
            queue.virtqueue.settle(now);
            self.outbox.push_back(FromWorker::QueueStopped(queue.key, queue.virtqueue.next_avail()));
            self.stopping.swap_remove(i);
            self.leave_line(token);
            self.roster.remove(token);
            stopped = true;
        }
        stopped
    }

    /// Says which sessions that are held have nothing in flight any more.
    fn finish_holding(&mut self) {
        let (roster, outbox) = (&self.roster, &mut self.outbox);
        self.holding.retain(|key| {
            let queues = roster.tokens_of(*key);
            let busy =
                queues.iter().filter_map(|token| roster.get(*token)).any(|q| q.virtqueue.in_flight() > 0);
            if !busy {
                outbox.push_back(FromWorker::Held(*key));
            }
            busy
        });
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
            if let Some(mishap) = queues.take_mishap(now) {
                self.outbox.push_back(FromWorker::Failed(mishap));
            }
        }
        self.look_at_balance(now);
        // Whether the only one goes on polling is the home's to say.
        if self.roster.is_crowded() {
            let poll_for = self.poll_for;
            self.roster.let_some_sleep(SLEEPERS, |queue| now - queue.last_work > poll_for);
        }
        issued
    }

    /// Lets every virtqueue ask for kicks. True when nothing came meanwhile: the home may sleep until a kick, an
    /// interrupt, a message or the pass's [wake time](Pass::wake).
    pub fn sleep(&mut self) -> bool {
        self.roster.let_sleep(|_| true)
    }

    /// Whether more than so many sessions had something done here lately.
    pub fn has_served_more_than(&self, sessions: usize, now: Time, lately: Duration) -> bool {
        self.roster.sessions_at_work(now, lately).nth(sessions).is_some()
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

    fn session(&self, tag: Tag) -> Option<u64> {
        self.get(tag.queue().token()).map(|queue| queue.key.session.0)
    }

    fn failed(&self, tag: Tag, asked: Asked, fault: Fault) {
        if let Some(queue) = self.get(tag.queue().token()) {
            queue.virtqueue.counts().device_failed(asked, fault);
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
