//! Sessions whose memory held a worker up, served by threads of their own from then on.
//!
//! The first touch of a client's memory may take long, and nothing that is looked at beforehand says that it will not: a hole that is
//! being punched makes whoever touches it wait for the end of it. So a session that held its worker up once goes, with its virtqueues
//! and its queue pair, to a thread that has nobody else to serve. For control it is with its worker as before: that worker passes on what
//! control says of it, and what the thread has to say goes to control in the worker's name.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nvme_core::nvme::QueuePair;
use nvme_core::server::message::{About, GroupKey, PairId, QueueKey, SessionKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::{Doorbell, Epoll, Interest, SendError, Sender, channel};
use nvme_linux::priority;
use nvme_platform::Time;

use super::Turns;
use super::pulses::Pulses;
use super::{BELL, MESSAGES, Message, News, Thread};
use crate::devices::AllInterrupts;

/// Threads for sessions of factories.
const FACTORIES: usize = 16;
/// Of these, for those of one top-level factory at most: a tenant that has its sessions moved leaves others some.
const FACTORY_MAX: usize = 12;
/// Threads for static clients' sessions at most, one for each.
const STATIC_MAX: usize = 24;
/// Descriptors of each.
pub(crate) const DESCRIPTORS: usize = 2;

/// A session on its way to a thread of its own.
pub(crate) struct Moved {
    worker: Worker,
    pair: PairId,
    vector: Option<u16>,
    kicks: HashMap<QueueKey, Arc<ClientFd>>,
    /// What control hears, as the worker's.
    outbox: Sender<News>,
    home: Home,
}

/// The worker that a session comes from.
#[derive(Clone)]
pub(super) struct Home {
    worker: Sender<Message>,
    /// The thread's own place.
    index: usize,
}

/// What a worker has given away.
#[derive(Default)]
pub(super) struct Given {
    sessions: HashMap<SessionKey, usize>,
    pairs: HashMap<PairId, usize>,
    /// The group of the session that each thread has of this worker.
    groups: HashMap<usize, GroupKey>,
}

#[derive(Default)]
struct State {
    idle: Vec<usize>,
    /// How many threads have sessions of each group.
    groups: HashMap<GroupKey, usize>,
}

impl State {
    fn take(&mut self, group: GroupKey) -> Option<usize> {
        let of = |(group, many): (&GroupKey, &usize)| if group.is_static() { 0 } else { *many };
        let full = self.groups.iter().map(of).sum::<usize>() >= FACTORIES
            || self.groups.get(&group).is_some_and(|many| *many >= FACTORY_MAX);
        if !group.is_static() && full {
            return None;
        }
        let index = self.idle.pop()?;
        *self.groups.entry(group).or_default() += 1;
        Some(index)
    }

    fn put(&mut self, index: usize, group: GroupKey) {
        self.idle.push(index);
        if let Some(many) = self.groups.get_mut(&group) {
            *many -= 1;
            if *many == 0 {
                self.groups.remove(&group);
            }
        }
    }
}

/// All these threads.
pub(crate) struct Apart {
    threads: Vec<Sender<Message>>,
    state: Mutex<State>,
}

/// How many threads there are for so many static clients.
pub(crate) fn count(clients: usize) -> usize {
    FACTORIES + clients.min(STATIC_MAX)
}

impl Apart {
    /// Starts the threads.
    pub(crate) fn start(
        clients: usize,
        interrupts: &Arc<AllInterrupts>,
        bell: &Arc<Doorbell>,
        turns: &Turns,
    ) -> io::Result<Arc<Self>> {
        let mut threads = Vec::new();
        let (ready, is_ready) = mpsc::channel();
        for index in 0..count(clients) {
            let own = Arc::new(Doorbell::new()?);
            let (sender, inbox) = channel(MESSAGES, &own);
            let epoll = Epoll::new()?;
            epoll.add(&*own, BELL, Interest::ReadEdge)?;
            // Nothing is said before a session comes, with its worker's way to control.
            let (outbox, _) = channel(1, bell);
            let thread = Thread::new(
                Worker::new(Duration::ZERO),
                epoll,
                own,
                inbox,
                outbox,
                interrupts,
                Pulses::default(),
            );
            let (ready, place) = (ready.clone(), turns.apart(index));
            std::thread::Builder::new().name(format!("apart{index}")).spawn(move || {
                priority::ordinary();
                thread.start_apart(place, &ready);
            })?;
            threads.push(sender);
        }
        // Before the sandbox closes.
        for _ in &threads {
            is_ready.recv().map_err(|_| io::Error::other("a thread for one session did not start"))??;
        }
        let idle = (0..threads.len()).rev().collect();
        Ok(Arc::new(Self { threads, state: Mutex::new(State { idle, ..State::default() }) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, group: GroupKey) -> Option<usize> {
        self.state().take(group)
    }

    fn put(&self, index: usize, group: GroupKey) {
        self.state().put(index, group);
    }
}

impl Thread {
    /// Sessions that held this thread up get one of their own.
    pub(super) fn part(&mut self) {
        while let Some((session, took)) = self.worker.take_overrun() {
            // One that has a thread of its own holds up nobody.
            let Some((apart, own)) = self.apart.clone() else { continue };
            let moved = self.give(&apart, own, session);
            self.unsent.push_back(News::HeldUp(session, took, moved));
        }
    }

    fn give(&mut self, apart: &Apart, own: Sender<Message>, session: SessionKey) -> bool {
        let Some(group) = self.worker.group(session) else { return false };
        let Some(index) = apart.take(group) else { return false };
        let (Some(to), Some(split)) = (apart.threads.get(index), self.worker.split_off(session)) else {
            apart.put(index, group);
            return false;
        };
        // Control hears what was said here before what is said there.
        self.report();
        let (pair, vector) = split.pair;
        self.unwatch_vector(pair);
        let kicks = self.kicks.give(session);
        self.given.sessions.insert(session, index);
        self.given.pairs.insert(pair, index);
        self.given.groups.insert(index, group);
        let home = Home { worker: own, index };
        let moved = Moved { worker: split.worker, pair, vector, kicks, outbox: self.outbox.clone(), home };
        self.forward.push_back((to.clone(), Message::Serve(Box::new(moved))));
        self.send_forward();
        true
    }

    /// Where a message is to go instead, if what it speaks of is with another thread.
    pub(super) fn elsewhere(&self, message: &Message) -> Option<Sender<Message>> {
        let about = match message {
            Message::Core(message) => message.about(),
            Message::Queue(new, _) => About::Session(new.key.session),
            Message::Kick(key, _) => About::Session(key.session),
            Message::Leave | Message::Serve(_) | Message::Back(..) => return None,
        };
        if let Some(home) = &self.home {
            // Its session has ended, and its pair is on its way back: so is what is said of them.
            return self.over.then(|| home.worker.clone());
        }
        let index = match about {
            About::Session(session) => self.given.sessions.get(&session),
            About::Pair(pair) => self.given.pairs.get(&pair),
        };
        self.apart.as_ref()?.0.threads.get(*index?).cloned()
    }

    /// Sends on what there is room for.
    pub(super) fn send_forward(&mut self) {
        while let Some((to, message)) = self.forward.pop_front() {
            if let Err(SendError::Full(message)) = to.send(message) {
                self.forward.push_front((to, message));
                // In the next round.
                return self.bell.ring();
            }
        }
    }

    /// A session is this thread's alone from now on.
    pub(super) fn serve_alone(&mut self, moved: Moved) {
        let Moved { worker, pair, vector, kicks, outbox, home } = moved;
        let last = std::mem::replace(&mut self.worker, worker);
        if last.keeps() {
            // Nothing proves that its memory is free.
            std::mem::forget(last);
        }
        self.outbox = outbox;
        self.home = Some(home);
        self.over = false;
        if let Some(vector) = vector {
            self.watch_vector(pair, vector);
        }
        for (key, kick) in kicks {
            self.watch(key, kick);
        }
    }

    /// The session that this thread served has ended: its pair is its worker's again.
    pub(super) fn is_over(&mut self) {
        let Some(home) = self.home.clone() else { return };
        self.report();
        self.over = true;
        let pairs = self.worker.take_pairs();
        for (id, _) in &pairs {
            self.unwatch_vector(*id);
        }
        self.forward.push_back((home.worker, Message::Back(home.index, pairs)));
        self.send_forward();
    }

    /// What was given to that thread is here again.
    pub(super) fn take_back(&mut self, index: usize, pairs: Vec<(PairId, Box<QueuePair>)>, time: Time) {
        self.given.pairs.retain(|_, at| *at != index);
        if let (Some((apart, _)), Some(group)) = (&self.apart, self.given.groups.remove(&index)) {
            apart.put(index, group);
        }
        for (id, pair) in pairs {
            self.take_core(ToWorker::AddPair(id, pair), time);
        }
    }

    /// A session has ended. What is said of it after this is nobody's.
    pub(super) fn forget_given(&mut self, message: &Message) {
        if let Message::Core(ToWorker::Release(session)) = message {
            self.given.sessions.remove(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_top_level_factory_leaves_threads_to_others_and_static_clients_have_their_own() {
        let mut state = State { idle: (0..count(3)).rev().collect(), ..State::default() };
        let (tenant, other, fixed) = (GroupKey::FACTORY, GroupKey(u64::MAX), GroupKey(1));
        assert!(other != tenant && !other.is_static() && fixed.is_static());
        let taken: Vec<_> = (0..FACTORIES).map_while(|_| state.take(tenant)).collect();
        assert_eq!(taken.len(), FACTORY_MAX);
        assert_eq!((0..FACTORIES).map_while(|_| state.take(other)).count(), FACTORIES - FACTORY_MAX);
        assert!((0..3).all(|_| state.take(fixed).is_some()) && state.take(fixed).is_none());
        state.put(taken[0], tenant);
        assert_eq!((state.take(tenant), state.take(tenant)), (Some(taken[0]), None));
    }
}
