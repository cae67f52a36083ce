//! What may take long on one client's behalf, done by threads that wait in everybody else's place.
//!
//! A memory file is its client's: sealing it waits for the inode's lock, which its client can keep busy; mapping and unmapping wait for
//! its mappings' lock; and its end, with the last descriptor or mapping, frees all its pages. All of it may take seconds; and who can
//! make the kernel wait while it holds the inode's lock (writing from memory whose faults it answers itself, in a file system of
//! its own) can make a seal wait for as long as it lives. So a session has a [`Lane`]: what is put there is done in turn, one thing at a time, by a few
//! threads ([`start`]) that belong to all lanes. A session that makes its own things slow so holds one thread, and a group of
//! sessions never more than [`PER_GROUP`].
//!
//! What was mapped in a lane is taken down there ([`Lane::current`]), and before anything else is done in it: who comes and goes
//! without end has never more mapped than the one who stays.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::events::Doorbell;
use crate::priority;

/// Threads that may work for the sessions of factories at a time.
const FACTORIES: usize = 16;
/// Of these, for one group of them: what a tenant makes slow leaves others some.
const PER_GROUP: usize = 12;
/// Threads for static clients at most: one for each.
const OTHERS_MAX: usize = 24;

type Job = Box<dyn FnOnce() + Send>;

/// One session's things, in their order.
pub struct Lane {
    group: u64,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    /// What was mapped, to be taken down: before all else, and all of it.
    down: Vec<Job>,
    work: VecDeque<Job>,
    /// Whether a thread is at it, or it waits for one.
    engaged: bool,
}

struct Pool {
    state: Mutex<State>,
    news: Condvar,
    bell: Arc<Doorbell>,
}

#[derive(Default)]
struct State {
    /// Lanes that wait for a thread.
    waiting: VecDeque<Arc<Lane>>,
    /// Threads at work, by group.
    busy: BTreeMap<u64, usize>,
}

impl State {
    /// Whether a thread may work for one more of that group's lanes.
    fn allows(&self, group: u64) -> bool {
        let own = self.busy.get(&group).copied().unwrap_or(0);
        if !is_factory(group) {
            return own == 0;
        }
        let all = self.busy.iter().filter(|(group, _)| is_factory(**group)).map(|(_, many)| many);
        own < PER_GROUP && all.sum::<usize>() < FACTORIES
    }
}

/// Whether a group is a factory's, as keys of groups are given: 0 is the server's own, and others are counted from the other end.
fn is_factory(group: u64) -> bool {
    group == 0 || group >= 1 << 63
}

static POOL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

/// Starts the threads: those for the sessions of factories, and one for each of so many static clients. Each thing that is done rings `bell`. A server calls this before it
/// gives up the right to start threads; without it everything is done where it is put.
pub fn start(others: usize, bell: &Arc<Doorbell>) -> io::Result<()> {
    let pool = Pool { state: Mutex::default(), news: Condvar::new(), bell: Arc::clone(bell) };
    if POOL.set(pool).is_err() {
        return Ok(());
    }
    let Some(pool) = POOL.get() else { return Ok(()) };
    for _ in 0..FACTORIES + others.min(OTHERS_MAX) {
        std::thread::Builder::new().name("lane".into()).stack_size(64 << 10).spawn(|| {
            priority::ordinary();
            pool.serve();
        })?;
    }
    Ok(())
}

impl Lane {
    /// A lane of a session in that group.
    pub fn new(group: u64) -> Arc<Self> {
        Arc::new(Self { group, jobs: Mutex::default() })
    }

    /// The lane whose thing the calling thread does.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Has something done, after what was put before. Never waits for it.
    pub fn put(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        self.add(|jobs| jobs.work.push_back(Box::new(job)));
    }

    /// Has something taken down before anything else is done.
    pub(crate) fn take_down(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        self.add(|jobs| jobs.down.push(Box::new(job)));
    }

    /// Whether all that was put is done.
    pub fn is_idle(&self) -> bool {
        !self.jobs().engaged
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, add: impl FnOnce(&mut Jobs)) {
        let mut jobs = self.jobs();
        add(&mut jobs);
        if core::mem::replace(&mut jobs.engaged, true) {
            return;
        }
        drop(jobs);
        match POOL.get() {
            Some(pool) => pool.engage(Arc::clone(self)),
            None => while self.turn() {},
        }
    }

    /// Takes down what there is, and does one thing. Whether there is more.
    fn turn(self: &Arc<Self>) -> bool {
        let mut jobs = self.jobs();
        let (down, work) = (core::mem::take(&mut jobs.down), jobs.work.pop_front());
        drop(jobs);
        down.into_iter().for_each(|job| job());
        if let Some(job) = work {
            CURRENT.set(Some(Arc::clone(self)));
            job();
            CURRENT.set(None);
        }
        let mut jobs = self.jobs();
        jobs.engaged = !(jobs.down.is_empty() && jobs.work.is_empty());
        jobs.engaged
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn engage(&self, lane: Arc<Lane>) {
        self.state().waiting.push_back(lane);
        self.news.notify_one();
    }

    /// The lane that waits longest of those whose group has not all the threads that it may have.
    fn take(&self) -> Arc<Lane> {
        let mut state = self.state();
        loop {
            let free = |lane: &Arc<Lane>| state.allows(lane.group);
            if let Some(lane) = state.waiting.iter().position(free).and_then(|at| state.waiting.remove(at)) {
                *state.busy.entry(lane.group).or_default() += 1;
                return lane;
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve(&self) {
        loop {
            let lane = self.take();
            let more = lane.turn();
            let mut state = self.state();
            if let Some(busy) = state.busy.get_mut(&lane.group) {
                *busy -= 1;
                if *busy == 0 {
                    state.busy.remove(&lane.group);
                }
            }
            if more {
                // This thread looks for the next one itself.
                state.waiting.push_back(lane);
            }
            drop(state);
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::{Duration, Instant};

    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    fn pool() {
        static BELL: OnceLock<Arc<Doorbell>> = OnceLock::new();
        start(3, BELL.get_or_init(|| Arc::new(Doorbell::new().unwrap()))).unwrap();
    }

    fn tenant(number: u64) -> u64 {
        u64::MAX - number
    }

    #[test]
    fn all_factories_together_leave_static_clients_their_threads() {
        let busy =
            |groups: &[(u64, usize)]| State { busy: groups.iter().copied().collect(), ..State::default() };
        assert!(busy(&[(0, PER_GROUP - 1)]).allows(0) && !busy(&[(0, PER_GROUP)]).allows(0));
        let full = busy(&[(0, PER_GROUP), (tenant(1), FACTORIES - PER_GROUP)]);
        assert!(!full.allows(tenant(1)) && !full.allows(tenant(2)));
        assert!(full.allows(1) && full.allows(2) && !busy(&[(1, 1)]).allows(1));
    }

    /// Holds a thread until the sender is dropped.
    fn stuck(lane: &Arc<Lane>) -> Sender<()> {
        let (sender, held) = channel::<()>();
        let (begun, has_begun) = channel();
        lane.put(move || {
            let _ = begun.send(());
            let _ = held.recv();
        });
        let _ = has_begun.recv_timeout(Duration::from_millis(200));
        sender
    }

    #[test]
    fn things_of_one_lane_are_done_one_after_the_other_in_their_order() {
        pool();
        let lane = Lane::new(tenant(1));
        let (sender, done) = channel();
        for n in 0..1000 {
            let sender = sender.clone();
            lane.put(move || sender.send(n).unwrap());
        }
        let all: Vec<i32> = (0..1000).map(|_| done.recv_timeout(WAIT).unwrap()).collect();
        assert!(all.is_sorted() && all.len() == 1000);
        let until = Instant::now() + WAIT;
        while !lane.is_idle() {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_lane_that_is_stuck_holds_up_no_other() {
        pool();
        let slow = Lane::new(tenant(2));
        let held = stuck(&slow);
        for _ in 0..20 {
            slow.put(|| ());
        }
        let (sender, done) = channel();
        Lane::new(tenant(2)).put(move || sender.send(()).unwrap());
        done.recv_timeout(WAIT).unwrap();
        assert!(!slow.is_idle());
        drop(held);
    }

    #[test]
    fn a_group_whose_lanes_are_all_stuck_holds_up_no_other_group() {
        pool();
        let group: Vec<_> = (0..2 * PER_GROUP).map(|_| Lane::new(tenant(3))).collect();
        let held: Vec<_> = group.iter().map(stuck).collect();
        // Another tenant's, and a static client's.
        for other in [tenant(4), 4] {
            let (sender, done) = channel();
            Lane::new(other).put(move || sender.send(()).unwrap());
            done.recv_timeout(WAIT).unwrap();
        }
        // What of the group waits comes when there is a thread for it.
        let (sender, late) = channel();
        Lane::new(tenant(3)).put(move || sender.send(()).unwrap());
        assert!(late.recv_timeout(Duration::from_millis(100)).is_err());
        drop(held);
        late.recv_timeout(WAIT).unwrap();
    }

    #[test]
    fn what_is_to_be_taken_down_is_before_the_next_thing_is_done() {
        pool();
        let lane = Lane::new(tenant(5));
        let held = stuck(&lane);
        let (sender, done) = channel();
        let put = |what: &'static str, down: bool| {
            let sender = sender.clone();
            let job = move || sender.send(what).unwrap();
            if down { lane.take_down(job) } else { lane.put(job) }
        };
        put("second", false);
        put("first", true);
        put("first", true);
        drop(held);
        for what in ["first", "first", "second"] {
            assert_eq!(done.recv_timeout(WAIT).unwrap(), what);
        }
    }

    #[test]
    fn a_thing_knows_its_lane_and_nobody_else_does() {
        pool();
        let lane = Lane::new(tenant(6));
        let (sender, done) = channel();
        lane.put(move || sender.send(Lane::current()).unwrap());
        let current = done.recv_timeout(WAIT).unwrap().unwrap();
        assert!(Arc::ptr_eq(&current, &lane) && Lane::current().is_none());
    }
}
