//! A worker thread: the core's worker role, its messages, and what it sleeps on.

mod apart;
mod kicks;
mod pulses;
mod times;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nvme_core::nvme::QueuePair;
use nvme_core::server::Polling;
use nvme_core::server::message::{About, FromWorker, NewQueue, PairId, QueueKey, SessionKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_linux::dispose::{self, ClientFd};
use nvme_linux::events::{
    Closed, Doorbell, Epoll, Interest, Ready, Receiver, SendError, Sender, ThreadClock, channel,
    guard_this_thread, now,
};
use nvme_linux::storage::{Seed, station};
use nvme_platform::Time;

pub(crate) use self::apart::{Apart, DESCRIPTORS as APART_DESCRIPTORS, count as apart_count};
use self::apart::{Given, Home, Moved};
use self::kicks::Kicks;
use self::pulses::Pulses;
use self::times::Shown;
use crate::devices::AllInterrupts;
use crate::frames;
use crate::keep::{Place, Turns};

/// Messages that wait in one direction, at most.
const MESSAGES: usize = 4096;
/// The token of the thread's own bell; virtqueues have those that the worker gave them.
const BELL: u64 = u64::MAX;
/// The token of all interrupt vectors: being awake is all that they ask for.
const INTERRUPT: u64 = u64::MAX - 1;
/// How long kicks of queues that sleep may go unnoticed while others are busy.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// What so many kicks took is not the next session's turn.
const MANY_KICKS: usize = 16;
/// Who had something done so long ago may soon want more.
const LATELY: Duration = Duration::from_millis(10);
/// Messages that a worker takes before it turns to its queues again.
const MESSAGES_PER_PASS: usize = 256;
/// How long it takes them for.
const MESSAGES_TIME: Duration = Duration::from_micros(50);
/// How soon control looks again whether there is room in a worker's inbox.
pub(crate) const ROOM_STEP: Duration = Duration::from_millis(1);
/// A worker never sleeps longer than this, so that a late command is noticed in time.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// One that serves nobody, as most of those do that wait for a session of their own.
const SLEEP_VACANT: Duration = Duration::from_secs(3600);

/// A message for a worker thread: one of the core's, or one that brings a descriptor.
pub(crate) enum Message {
    Core(ToWorker),
    /// A virtqueue with its kick.
    Queue(NewQueue, Arc<ClientFd>),
    /// Another kick for a virtqueue.
    Kick(QueueKey, Arc<ClientFd>),
    /// The server ends: nobody reaches images from here any more.
    Leave,
    /// To a thread for one session: serve this one.
    Serve(Box<Moved>),
    /// From such a thread, in that place: its session has ended, and these are its pairs.
    Back(usize, Vec<(PairId, Box<QueuePair>)>),
}

impl Message {
    /// Whose time it takes, where that is one session's.
    fn session(&self) -> Option<SessionKey> {
        match self {
            Self::Core(message) => match message.about() {
                About::Session(session) => Some(session),
                About::Pair(_) => None,
            },
            Self::Queue(new, _) => Some(new.key.session),
            Self::Kick(key, _) => Some(key.session),
            Self::Serve(_) | Self::Back(..) | Self::Leave => None,
        }
    }
}

/// What a worker's pulse was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pulse {
    /// It is awake, and has gone round so often.
    Round(u64),
    /// It sleeps: nobody wants anything of it.
    Asleep,
}

/// A worker's news: the core's, or the home's.
pub(crate) enum News {
    Core(FromWorker),
    /// Answers [`Message::Kick`].
    KickTaken(QueueKey),
    /// A session's memory held the worker up for so long. Whether it has a thread of its own from now on.
    HeldUp(SessionKey, Duration, bool),
}

/// Control's end of a worker.
pub(crate) struct Handle {
    messages: Sender<Message>,
    /// What the inbox has no room for: a worker may be in the kernel for a while. There are never more than a few for each
    /// virtqueue, since who asks for more waits until the worker has taken the last.
    unsent: RefCell<VecDeque<Message>>,
    news: Receiver<News>,
    pulses: Pulses,
    shown: Shown,
}

/// The thread is gone: the server cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("a worker thread does not answer")]
pub(crate) struct WorkerLost;

impl Handle {
    /// Starts a worker. Its news ring `bell`. `others`: there are more of them. `turns`: where it says whose turn it is.
    pub(crate) fn start(
        index: usize,
        poll_for: Duration,
        bell: &Arc<Doorbell>,
        interrupts: &Arc<AllInterrupts>,
        ring: Option<Seed>,
        apart: &Arc<Apart>,
        (others, turns): (bool, &Turns),
    ) -> io::Result<Self> {
        let own = Arc::new(Doorbell::new()?);
        let (messages, inbox) = channel(MESSAGES, &own);
        let (outbox, news) = channel(MESSAGES, bell);
        let epoll = Epoll::new()?;
        epoll.add(&*own, BELL, Interest::ReadEdge)?;
        let mut worker = Worker::new(poll_for);
        if others {
            worker.share_work();
        }
        let pulses = Pulses::default();
        let mut thread = Thread::new(worker, epoll, own, inbox, outbox, interrupts, pulses.clone());
        thread.apart = Some((Arc::clone(apart), messages.clone()));
        let (ready, is_ready) = mpsc::sync_channel(1);
        let place = turns.worker(index);
        thread::Builder::new()
            .name(format!("worker{index}"))
            .spawn(move || thread.start(ring, place, &ready))?;
        // The ring is enabled by the thread that uses it, and before the sandbox closes.
        is_ready.recv().map_err(|_| io::Error::other("a worker did not start"))??;
        Ok(Self { messages, unsent: RefCell::default(), news, pulses, shown: Shown::default() })
    }

    /// Sends a message, or keeps it until there is room. Control waits for no worker.
    pub(crate) fn send(&self, message: Message) -> Result<(), WorkerLost> {
        self.unsent.borrow_mut().push_back(message);
        self.send_on().map(|_| ())
    }

    /// Sends what there is room for. Whether that is all.
    pub(crate) fn send_on(&self) -> Result<bool, WorkerLost> {
        let mut unsent = self.unsent.borrow_mut();
        while let Some(message) = unsent.pop_front() {
            match self.messages.send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => {
                    unsent.push_front(message);
                    return Ok(false);
                }
                Err(SendError::Closed(_)) => return Err(WorkerLost),
            }
        }
        Ok(true)
    }

    /// Whether something waits for room.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    /// How long kicks ever waited from the worker's seeing them to taking what they were for: at most; at most, but for what long turns held
    /// up; and how many of these there were.
    pub(crate) fn waits(&self) -> (Duration, Duration, u64) {
        self.pulses.waits()
    }

    /// How long kicks ever went unseen while the worker was awake, without the round in which they were seen. A look sees all that were there
    /// when it began, but for those of sessions with many rings, which come by turns where there are very many: these are not counted.
    pub(crate) fn longest_unseen(&self) -> Duration {
        Duration::from_nanos(self.pulses.longest_unseen.load(Ordering::Relaxed))
    }

    /// How long it did something, and how long it slept until now.
    pub(crate) fn times(&self) -> (Duration, Duration) {
        self.pulses.times.read(now(), &self.shown)
    }

    /// Whether it goes round.
    pub(crate) fn pulse(&self) -> Pulse {
        match self.pulses.pulse.load(Ordering::Relaxed) {
            rounds if rounds.is_multiple_of(2) => Pulse::Round(rounds / 2),
            _ => Pulse::Asleep,
        }
    }

    /// The next news; an error when the thread is gone.
    pub(crate) fn receive(&self) -> Result<Option<News>, WorkerLost> {
        self.news.receive().map_err(|Closed| WorkerLost)
    }
}

struct Thread {
    worker: Worker,
    /// Each virtqueue's kick; closed when the queue is gone.
    kicks: Kicks,
    bell: Arc<Doorbell>,
    inbox: Receiver<Message>,
    outbox: Sender<News>,
    /// News that control has no room for now.
    unsent: VecDeque<News>,
    interrupts: Arc<AllInterrupts>,
    /// The vectors (controller and number) that are watched, and the pairs here that use each.
    vectors: HashMap<(u16, u16), Vec<PairId>>,
    pulses: Pulses,
    /// Messages for other threads.
    forward: VecDeque<(Sender<Message>, Message)>,
    /// Of a worker: the threads for sessions that held it up, and the way to itself.
    apart: Option<(Arc<Apart>, Sender<Message>)>,
    given: Given,
    /// Of a thread for one session: where that comes from.
    home: Option<Home>,
    /// Its session has ended.
    over: bool,
}

impl Thread {
    fn new(
        worker: Worker,
        epoll: Epoll,
        bell: Arc<Doorbell>,
        inbox: Receiver<Message>,
        outbox: Sender<News>,
        interrupts: &Arc<AllInterrupts>,
        pulses: Pulses,
    ) -> Self {
        Self {
            worker,
            kicks: Kicks::new(epoll),
            bell,
            inbox,
            outbox,
            unsent: VecDeque::new(),
            interrupts: Arc::clone(interrupts),
            vectors: HashMap::new(),
            pulses,
            forward: VecDeque::new(),
            apart: None,
            given: Given::default(),
            home: None,
            over: false,
        }
    }

    fn start(mut self, ring: Option<Seed>, place: Option<Place>, ready: &mpsc::SyncSender<io::Result<()>>) {
        self.says_turns(place);
        let mut taken = station::take(ring, &self.bell);
        if taken.is_ok()
            && let Some(event) = station::event()
        {
            taken = self.kicks.epoll().add(&event, INTERRUPT, Interest::ReadEdge);
        }
        let good = taken.is_ok();
        if ready.send(taken).is_ok() && good {
            self.run();
        }
    }

    fn says_turns(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            place.take();
            self.worker.tell_turns(place.window);
        }
    }

    /// As a thread for one session at a time.
    fn start_apart(mut self, place: Option<Place>, ready: &mpsc::Sender<io::Result<()>>) {
        self.says_turns(place);
        let taken = station::take(None, &self.bell);
        let good = taken.is_ok();
        if ready.send(taken).is_ok() && good {
            self.run();
        }
    }

    fn run(mut self) {
        guard_this_thread();
        dispose::never_here();
        frames::on_this_thread();
        let clock = ThreadClock::of_this_thread();
        let mut time = now();
        let mut last_work = time;
        let mut last_look = time;
        let mut polling = Polling::new(self.worker.poll_for());
        // Whether others than those who wait for storage had something done lately, and when that was looked at.
        let (mut others, mut counted) = (false, time);
        let mut rounds: u64 = 0;
        loop {
            rounds = rounds.wrapping_add(2);
            self.pulses.pulse.store(rounds, Ordering::Relaxed);
            let began = time;
            if self.bell.take() {
                if !self.receive(time, &clock) {
                    return;
                }
                // What that took is no session's turn.
                time = now();
            }
            let turned = time;
            let pass = self.worker.pass(time, &clock);
            self.part();
            self.report();
            // What the pass began goes out, and what came back is the next pass's.
            let worked = station::turn(turned) || pass.worked;
            time = now();
            self.worker.took(turned, time);
            self.pulses.waited(&self.worker.waits());
            if worked {
                last_work = time;
                self.pulses.times.worked(time - began);
            }
            // Others may have been kicked meanwhile, whatever keeps this thread awake.
            let looked = time - last_look >= LOOK_EVERY;
            let mut came = false;
            if looked {
                let unseen = u64::try_from((began - last_look).as_nanos()).unwrap_or(u64::MAX);
                self.pulses.longest_unseen.fetch_max(unseen, Ordering::Relaxed);
                last_look = time;
                let kicks = self.look(Duration::ZERO, time);
                came = kicks > 0;
                if kicks >= MANY_KICKS {
                    // It is a part of the round, as what it found is.
                    time = now();
                    last_look = time;
                }
            }
            // Where nobody but storage that has much to do is waited for, neither its answers nor its drivers are polled for.
            let deep = match station::deep(time) {
                Some(queues) => {
                    if time - counted >= LOOK_EVERY {
                        counted = time;
                        others = self.worker.has_served_more_than(queues, time, LATELY);
                    }
                    !others
                }
                None => false,
            };
            let window = if deep { Duration::ZERO } else { polling.window() };
            if goes_round(worked, came, time - last_work, window) {
                if !worked && !looked {
                    core::hint::spin_loop();
                }
                continue;
            }
            let rest = if deep { station::rest(time) } else { None };
            if !self.worker.sleep() || !(rest.is_some() || station::arm()) {
                continue;
            }
            if !self.bell.arm() {
                station::disarm();
                continue;
            }
            let longest = if self.has_nothing() { SLEEP_VACANT } else { rest.unwrap_or(SLEEP_MAX) };
            let sleep = pass.wake.map_or(longest, |t| (t - time).min(longest));
            self.pulses.pulse.store(rounds.wrapping_add(1), Ordering::Relaxed);
            self.pulses.times.sleeps(time);
            self.look(sleep, time);
            self.bell.disarm();
            station::disarm();
            let begin = time;
            time = now();
            clock.slept(time - begin);
            self.pulses.times.woke(time);
            last_look = time;
            if !deep {
                polling.slept(time - last_work, time);
            }
        }
    }

    /// Whether it serves nobody, and owes nobody a message.
    fn has_nothing(&self) -> bool {
        self.worker.is_vacant() && self.forward.is_empty() && self.unsent.is_empty()
    }

    /// Waits so long at most. How many events came.
    fn look(&mut self, timeout: Duration, time: Time) -> usize {
        let worker = &mut self.worker;
        self.kicks.look(timeout, |Ready { token, .. }| {
            if token < INTERRUPT {
                worker.kick(token as usize, time);
            }
        })
    }

    /// Takes the messages that wait; false when control is gone.
    fn receive(&mut self, time: Time, clock: &ThreadClock) -> bool {
        self.send_forward();
        let start = now();
        let mut began = start;
        for _ in 0..MESSAGES_PER_PASS {
            let message = match self.inbox.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                Err(Closed) => return false,
            };
            let session = message.session();
            self.hear(message, time);
            let ended = now();
            if let Some(session) = session {
                self.worker.heard(session, began, ended, clock);
            }
            began = ended;
            if ended - start >= MESSAGES_TIME {
                break;
            }
        }
        // The rest in the next pass.
        self.bell.ring();
        true
    }

    fn hear(&mut self, message: Message, time: Time) {
        if let Some(to) = self.elsewhere(&message) {
            self.forget_given(&message);
            self.forward.push_back((to, message));
            return self.send_forward();
        }
        match message {
            Message::Core(ToWorker::Release(_)) => self.is_over(),
            Message::Core(message) => self.take_core(message, time),
            Message::Queue(new, kick) => {
                let key = new.key;
                self.worker.handle(ToWorker::AddQueue(new), time);
                self.watch(key, kick);
            }
            Message::Kick(key, kick) => {
                self.watch(key, kick);
                self.unsent.push_back(News::KickTaken(key));
            }
            Message::Leave => station::leave(),
            Message::Serve(moved) => self.serve_alone(*moved),
            Message::Back(index, pairs) => self.take_back(index, pairs, time),
        }
    }

    fn take_core(&mut self, message: ToWorker, time: Time) {
        self.watch_vectors(&message);
        self.worker.handle(message, time);
    }

    /// Watches the vectors of the pairs that are here, and no others: interrupts of theirs would only wake this thread.
    fn watch_vectors(&mut self, message: &ToWorker) {
        match message {
            ToWorker::AddPair(id, pair) => self.watch_vector(*id, pair.vector()),
            ToWorker::TakePair(id) => self.unwatch_vector(*id),
            _ => {}
        }
    }

    fn watch_vector(&mut self, id: PairId, vector: u16) {
        let place = (id.controller, vector);
        let interrupts = self.interrupts.get(usize::from(id.controller)).and_then(Option::as_ref);
        let Some(event) = interrupts.and_then(|i| i.vector(place.1)) else { return };
        let pairs = self.vectors.entry(place).or_default();
        if pairs.is_empty()
            && let Err(e) = self.kicks.epoll().add(event, INTERRUPT, Interest::ReadEdge)
        {
            log::error!("cannot watch vector {} of controller {}: {e}", place.1, place.0);
        }
        pairs.push(id);
    }

    fn unwatch_vector(&mut self, id: PairId) {
        let place = self.vectors.iter().find(|(_, pairs)| pairs.contains(&id)).map(|(place, _)| *place);
        let Some(place) = place else { return };
        let Some(pairs) = self.vectors.get_mut(&place) else { return };
        pairs.retain(|pair| *pair != id);
        if pairs.is_empty() {
            self.vectors.remove(&place);
            let interrupts = self.interrupts.get(usize::from(place.0)).and_then(Option::as_ref);
            if let Some(event) = interrupts.and_then(|i| i.vector(place.1)) {
                let _ = self.kicks.epoll().remove(event);
            }
        }
    }

    fn watch(&mut self, key: QueueKey, kick: Arc<ClientFd>) {
        let Some(token) = self.worker.token(key) else { return };
        // Control has checked that it can be watched. If the kernel has no room now, the queue is served when
        // others are, and its client sees time-outs.
        if let Err(e) = self.kicks.watch(key, kick, token as u64) {
            log::error!("cannot watch the kicks of session {} queue {}: {e}", key.session.0, key.index);
        }
        self.worker.kick(token, now());
    }

    fn report(&mut self) {
        while let Some(news) = self.worker.take_message() {
            if let FromWorker::QueueStopped(key, _) | FromWorker::GivenBack(key, Some(_)) = &news {
                self.kicks.forget(*key);
            }
            self.unsent.push_back(News::Core(news));
        }
        while let Some(news) = self.unsent.pop_front() {
            if let Err(SendError::Full(news)) = self.outbox.send(news) {
                return self.unsent.push_front(news);
            }
        }
    }
}
/// Whether there is another pass before the thread may sleep. What `came` is seen once: an interrupt is for a completion that the next pass finds,
/// and nothing else wakes the thread for it.
fn goes_round(worked: bool, came: bool, idle: Duration, window: Duration) -> bool {
    worked || came || idle < window
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_looked_into_before_the_thread_sleeps() {
        let (long, window) = (Duration::from_millis(1), Duration::from_micros(80));
        assert!(goes_round(false, true, long, window));
        assert!(goes_round(true, false, long, window));
        assert!(goes_round(false, false, Duration::ZERO, window));
        assert!(!goes_round(false, false, long, window));
    }
}
