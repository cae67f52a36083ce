//! A worker thread: the core's worker role, its messages, and what it sleeps on.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nvme_core::server::Polling;
use nvme_core::server::message::{FromWorker, NewQueue, PairId, QueueKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::{
    Closed, Doorbell, Epoll, Events, Interest, Ready, Receiver, SendError, Sender, ThreadClock, channel,
    guard_this_thread, now,
};
use nvme_linux::storage::{Seed, station};
use nvme_platform::Time;

use crate::devices::AllInterrupts;
use crate::frames;

/// Messages that wait in one direction, at most.
const MESSAGES: usize = 4096;
/// The token of the thread's own bell; virtqueues have those that the worker gave them.
const BELL: u64 = u64::MAX;
/// The token of all interrupt vectors: being awake is all that they ask for.
const INTERRUPT: u64 = u64::MAX - 1;
/// How long kicks of queues that sleep may go unnoticed while others are busy.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// Messages that a worker takes before it turns to its queues again.
const MESSAGES_PER_PASS: usize = 256;
/// How long it takes them for. The clock is read for each eight.
const MESSAGES_TIME: Duration = Duration::from_micros(50);
/// How soon control looks again whether there is room in a worker's inbox.
pub(crate) const ROOM_STEP: Duration = Duration::from_millis(1);
/// A worker never sleeps longer than this, so that a late command is noticed in time.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A message for a worker thread: one of the core's, or one that brings a descriptor.
pub(crate) enum Message {
    Core(ToWorker),
    /// A virtqueue with its kick.
    Queue(NewQueue, Arc<ClientFd>),
    /// Another kick for a virtqueue.
    Kick(QueueKey, Arc<ClientFd>),
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
}

/// Control's end of a worker.
pub(crate) struct Handle {
    messages: Sender<Message>,
    /// What the inbox has no room for: a worker may be in the kernel for a while. There are never more than a few for each
    /// virtqueue, since who asks for more waits until the worker has taken the last.
    unsent: RefCell<VecDeque<Message>>,
    news: Receiver<News>,
    /// The longest time from seeing a kick to taking what it was for, in nanoseconds.
    longest_wait: Arc<AtomicU64>,
    /// How long it went round since it last looked for kicks, at most, before the round in which it looked again.
    longest_unseen: Arc<AtomicU64>,
    /// How often it went round, twice; odd while it sleeps.
    pulse: Arc<AtomicU64>,
}

/// The thread is gone: the server cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("a worker thread does not answer")]
pub(crate) struct WorkerLost;

impl Handle {
    /// Starts a worker. Its news ring `bell`.
    pub(crate) fn start(
        index: usize,
        poll_for: Duration,
        bell: &Arc<Doorbell>,
        interrupts: &Arc<AllInterrupts>,
        ring: Option<Seed>,
    ) -> io::Result<Self> {
        let own = Arc::new(Doorbell::new()?);
        let (messages, inbox) = channel(MESSAGES, &own);
        let (outbox, news) = channel(MESSAGES, bell);
        let epoll = Epoll::new()?;
        epoll.add(&*own, BELL, Interest::ReadEdge)?;
        let worker = Worker::new(poll_for);
        let longest_wait = Arc::new(AtomicU64::new(0));
        let longest_unseen = Arc::new(AtomicU64::new(0));
        let pulse = Arc::new(AtomicU64::new(0));
        let thread = Thread {
            worker,
            epoll,
            bell: own,
            inbox,
            outbox,
            unsent: VecDeque::new(),
            kicks: HashMap::new(),
            interrupts: Arc::clone(interrupts),
            vectors: HashMap::new(),
            longest_wait: Arc::clone(&longest_wait),
            longest_unseen: Arc::clone(&longest_unseen),
            pulse: Arc::clone(&pulse),
        };
        let (ready, is_ready) = mpsc::sync_channel(1);
        thread::Builder::new().name(format!("worker{index}")).spawn(move || thread.start(ring, &ready))?;
        // The ring is enabled by the thread that uses it, and before the sandbox closes.
        is_ready.recv().map_err(|_| io::Error::other("a worker did not start"))??;
        Ok(Self { messages, unsent: RefCell::default(), news, longest_wait, longest_unseen, pulse })
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

    /// The longest time that ever passed from the worker's seeing a kick to taking what it was for.
    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_nanos(self.longest_wait.load(Ordering::Relaxed))
    }

    /// How long kicks ever went unseen while the worker was awake, without the round in which they were seen.
    pub(crate) fn longest_unseen(&self) -> Duration {
        Duration::from_nanos(self.longest_unseen.load(Ordering::Relaxed))
    }

    /// Whether it goes round.
    pub(crate) fn pulse(&self) -> Pulse {
        match self.pulse.load(Ordering::Relaxed) {
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
    epoll: Epoll,
    bell: Arc<Doorbell>,
    inbox: Receiver<Message>,
    outbox: Sender<News>,
    /// News that control has no room for now.
    unsent: VecDeque<News>,
    /// Each virtqueue's kick; closed when the queue is gone.
    kicks: HashMap<QueueKey, Arc<ClientFd>>,
    interrupts: Arc<AllInterrupts>,
    /// The vectors (controller and number) that are watched, and the pairs here that use each.
    vectors: HashMap<(u16, u16), Vec<PairId>>,
    longest_wait: Arc<AtomicU64>,
    longest_unseen: Arc<AtomicU64>,
    pulse: Arc<AtomicU64>,
}

impl Thread {
    fn start(self, ring: Option<Seed>, ready: &mpsc::SyncSender<io::Result<()>>) {
        let mut taken = station::take(ring, &self.bell);
        if taken.is_ok()
            && let Some(event) = station::event()
        {
            taken = self.epoll.add(&event, INTERRUPT, Interest::ReadEdge);
        }
        let good = taken.is_ok();
        if ready.send(taken).is_ok() && good {
            self.run();
        }
    }

    fn run(mut self) {
        guard_this_thread();
        frames::on_this_thread();
        let mut events = Events::new(64);
        let clock = ThreadClock::of_this_thread();
        let mut time = now();
        let mut last_work = time;
        let mut last_look = time;
        let mut polling = Polling::new(self.worker.poll_for());
        let mut rounds: u64 = 0;
        loop {
            rounds = rounds.wrapping_add(2);
            self.pulse.store(rounds, Ordering::Relaxed);
            if self.bell.take() && !self.receive(time) {
                return;
            }
            let began = time;
            let pass = self.worker.pass(time, &clock);
            self.report();
            // What the pass began goes out, and what came back is the next pass's.
            let worked = station::turn() || pass.worked;
            time = now();
            let longest = u64::try_from(self.worker.longest_wait().as_nanos()).unwrap_or(u64::MAX);
            self.longest_wait.store(longest, Ordering::Relaxed);
            if worked {
                last_work = time;
            }
            // Others may have been kicked meanwhile, whatever keeps this thread awake.
            let looked = time - last_look >= LOOK_EVERY;
            if looked {
                let unseen = u64::try_from((began - last_look).as_nanos()).unwrap_or(u64::MAX);
                self.longest_unseen.fetch_max(unseen, Ordering::Relaxed);
                last_look = time;
                self.wait(&mut events, Some(Duration::ZERO), time);
            }
            if worked || time - last_work < polling.window() {
                if !worked && !looked {
                    core::hint::spin_loop();
                }
                continue;
            }
            if !self.worker.sleep() || !station::arm() {
                continue;
            }
            if !self.bell.arm() {
                station::disarm();
                continue;
            }
            let sleep = pass.wake.map_or(SLEEP_MAX, |t| (t - time).min(SLEEP_MAX));
            self.pulse.store(rounds.wrapping_add(1), Ordering::Relaxed);
            self.wait(&mut events, Some(sleep), time);
            self.bell.disarm();
            station::disarm();
            let begin = time;
            time = now();
            clock.slept(time - begin);
            last_look = time;
            polling.slept(time - last_work);
        }
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>, time: Time) {
        if self.epoll.wait(events, timeout).is_err() {
            return;
        }
        for Ready { token, .. } in events.iter() {
            if token < INTERRUPT {
                self.worker.kick(token as usize, time);
            }
        }
    }

    /// Takes the messages that wait; false when control is gone.
    fn receive(&mut self, time: Time) -> bool {
        let start = now();
        for count in 1..=MESSAGES_PER_PASS {
            if count.is_multiple_of(8) && now() - start >= MESSAGES_TIME {
                break;
            }
            match self.inbox.receive() {
                Ok(Some(Message::Core(message))) => {
                    self.watch_vectors(&message);
                    self.worker.handle(message, time);
                }
                Ok(Some(Message::Queue(new, kick))) => {
                    let key = new.key;
                    self.worker.handle(ToWorker::AddQueue(new), time);
                    self.watch(key, kick);
                }
                Ok(Some(Message::Kick(key, kick))) => {
                    self.watch(key, kick);
                    self.unsent.push_back(News::KickTaken(key));
                }
                Ok(None) => return true,
                Err(Closed) => return false,
            }
        }
        // The rest in the next pass.
        self.bell.ring();
        true
    }

    /// Watches the vectors of the pairs that are here, and no others: interrupts of theirs would only wake this thread.
    fn watch_vectors(&mut self, message: &ToWorker) {
        match message {
            ToWorker::AddPair(id, pair) => {
                let place = (id.controller, pair.vector());
                let interrupts = self.interrupts.get(usize::from(id.controller)).and_then(Option::as_ref);
                let Some(event) = interrupts.and_then(|i| i.vector(place.1)) else { return };
                let pairs = self.vectors.entry(place).or_default();
                if pairs.is_empty()
                    && let Err(e) = self.epoll.add(event, INTERRUPT, Interest::ReadEdge)
                {
                    log::error!("cannot watch vector {} of controller {}: {e}", place.1, place.0);
                }
                pairs.push(*id);
            }
            ToWorker::TakePair(id) => {
                let place =
                    self.vectors.iter().find(|(_, pairs)| pairs.contains(id)).map(|(place, _)| *place);
                let Some(place) = place else { return };
                let Some(pairs) = self.vectors.get_mut(&place) else { return };
                pairs.retain(|pair| pair != id);
                if pairs.is_empty() {
                    self.vectors.remove(&place);
                    let interrupts = self.interrupts.get(usize::from(place.0)).and_then(Option::as_ref);
                    if let Some(event) = interrupts.and_then(|i| i.vector(place.1)) {
                        let _ = self.epoll.remove(event);
                    }
                }
            }
            _ => {}
        }
    }

    fn watch(&mut self, key: QueueKey, kick: Arc<ClientFd>) {
        let Some(token) = self.worker.token(key) else { return };
        if let Some(old) = self.kicks.remove(&key) {
            let _ = self.epoll.remove(&*old);
        }
        // Control has checked that it can be watched. If the kernel has no room now, the queue is served when
        // others are, and its client sees time-outs.
        if let Err(e) = self.epoll.add(&*kick, token as u64, Interest::ReadEdge) {
            log::error!("cannot watch the kicks of session {} queue {}: {e}", key.session.0, key.index);
        }
        self.kicks.insert(key, kick);
        self.worker.kick(token, now());
    }

    fn report(&mut self) {
        while let Some(news) = self.worker.take_message() {
            if let FromWorker::QueueStopped(key, _) = &news
                && let Some(kick) = self.kicks.remove(key)
            {
                let _ = self.epoll.remove(&*kick);
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
