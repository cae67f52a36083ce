//! The kicks that a worker watches, and its looks at them.
//!
//! What the kernel holds ready it gives first come, first served, and a few at a time: who has thousands of rings and kicks them all would
//! have everybody else's kicks wait behind these, a pass for each few. So
//!
//! * a look takes all that was there when it began, and there is a bound to what can be: the first [`FEW`] rings of each session, and
//!   others only as long as there are fewer than [`TOGETHER`], are in the set that the thread sleeps on;
//! * any more rings of a session are in a set of that session's own, of which each look takes a few kicks, by turns. What waits there are
//!   kicks of that session.
//!
//! These sets are not nested in the thread's: to add to a set that is itself in a set takes a lock of the kernel's that all processes share, and
//! that any of them can keep for long. They are asked with `ppoll`, which only workers with so many rings do.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::server::message::{QueueKey, SessionKey};
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::{Epoll, Events, Interest, Ready, any_readable};

/// So many rings of each session are always in the thread's set.
const FEW: usize = 4;
/// Others are, too, while it has fewer kicks than this.
const TOGETHER: usize = 256;
/// Events that one call takes.
const BATCH: usize = 64;
/// What is in the thread's set besides kicks (bell, ring, vectors) comes between them, at most.
const OTHERS: usize = 64;
/// Sessions' own sets of which one look takes something, at most.
const SETS: usize = 16;
/// How much it takes of them together, and of one at least.
const OF_SETS: usize = 128;
const OF_ONE: usize = 8;

/// A kick that is watched, and whether in its session's own set.
struct Watched {
    kick: Arc<ClientFd>,
    own: bool,
}

/// How many of a session's kicks are where.
#[derive(Default)]
struct Places {
    together: usize,
    own: usize,
}

/// All of a worker's kicks, and what else its thread sleeps on.
pub(super) struct Kicks {
    together: Epoll,
    events: Events,
    watched: HashMap<QueueKey, Watched>,
    sessions: HashMap<SessionKey, Places>,
    /// How many of all are in the thread's set.
    count: usize,
    /// Sessions' own sets; the one whose turn is next comes first.
    sets: VecDeque<(SessionKey, Epoll)>,
}

impl Kicks {
    /// Those of a thread that sleeps on this.
    pub(super) fn new(together: Epoll) -> Self {
        let (watched, sessions) = (HashMap::new(), HashMap::new());
        Self { together, events: Events::new(BATCH), watched, sessions, count: 0, sets: VecDeque::new() }
    }

    /// What the thread sleeps on besides.
    pub(super) fn epoll(&self) -> &Epoll {
        &self.together
    }

    /// Watches a virtqueue's kick instead of the one before. An error: the kernel has no room.
    pub(super) fn watch(&mut self, key: QueueKey, kick: Arc<ClientFd>, token: u64) -> io::Result<()> {
        self.forget(key);
        let own = self.needs_own(key.session) && self.has_own(key.session);
        let set = if own { self.sets.iter().find(|(session, _)| *session == key.session) } else { None };
        let added = set.map_or(&self.together, |(_, set)| set).add(&*kick, token, Interest::ReadEdge);
        let places = self.sessions.entry(key.session).or_default();
        *if own { &mut places.own } else { &mut places.together } += 1;
        self.count += usize::from(!own);
        self.watched.insert(key, Watched { kick, own });
        added
    }

    /// Whether the session's next ring is too many for the thread's set.
    fn needs_own(&self, session: SessionKey) -> bool {
        let few = self.sessions.get(&session).is_none_or(|places| places.together < FEW);
        self.count >= TOGETHER && !few
    }

    /// Whether the session has a set of its own from now on. Without descriptors it has none.
    fn has_own(&mut self, session: SessionKey) -> bool {
        if self.sets.iter().any(|(of, _)| *of == session) {
            return true;
        }
        let made = Epoll::new().map(|set| self.sets.push_back((session, set)));
        made.is_ok()
    }

    /// Watches that virtqueue's kick no more.
    pub(super) fn forget(&mut self, key: QueueKey) {
        let Some(Watched { kick, own }) = self.watched.remove(&key) else { return };
        let Some(places) = self.sessions.get_mut(&key.session) else { return };
        if own {
            places.own -= 1;
            if let Some((_, set)) = self.sets.iter().find(|(session, _)| *session == key.session) {
                let _ = set.remove(&*kick);
            }
            if places.own == 0 {
                self.sets.retain(|(session, _)| *session != key.session);
            }
        } else {
            places.together -= 1;
            self.count -= 1;
            let _ = self.together.remove(&*kick);
        }
        if places.together + places.own == 0 {
            self.sessions.remove(&key.session);
        }
    }

    /// Gives away those of a session.
    pub(super) fn give(&mut self, session: SessionKey) -> HashMap<QueueKey, Arc<ClientFd>> {
        let of = |(key, watched): (&QueueKey, &Watched)| (*key, Arc::clone(&watched.kick));
        let kicks = self.watched.iter().filter(|(key, _)| key.session == session).map(of);
        let kicks: HashMap<_, _> = kicks.collect();
        for key in kicks.keys() {
            self.forget(*key);
        }
        kicks
    }

    /// Waits until something comes, at most so long, and gives each event to `came`. How many there were.
    pub(super) fn look(&mut self, timeout: Duration, mut came: impl FnMut(Ready)) -> usize {
        if self.sets.is_empty() {
            return self.look_together(timeout, &mut came);
        }
        let sets = self.sets.iter().map(|(_, set)| set.as_fd());
        let Ok(ready) = any_readable([self.together.as_fd()].into_iter().chain(sets), timeout) else {
            return 0;
        };
        let mut seen = 0;
        let mut own = Vec::new();
        for at in ready {
            match at.checked_sub(1) {
                None => seen += self.look_together(Duration::ZERO, &mut came),
                Some(at) => own.push(at),
            }
        }
        seen + self.look_into_sets(own, &mut came)
    }

    /// All that was there when it began: the kernel gives what comes meanwhile after it.
    fn look_together(&mut self, mut timeout: Duration, came: &mut impl FnMut(Ready)) -> usize {
        let mut seen = 0;
        while self.together.wait(&mut self.events, Some(timeout)).is_ok() {
            timeout = Duration::ZERO;
            let count = self.events.iter().map(&mut *came).count();
            seen += count;
            if count < BATCH || seen >= self.count + OTHERS {
                break;
            }
        }
        seen
    }

    /// Something of each whose turn it is.
    fn look_into_sets(&mut self, mut ready: Vec<usize>, came: &mut impl FnMut(Ready)) -> usize {
        ready.truncate(SETS);
        let Some(last) = ready.last().copied() else { return 0 };
        let each = (OF_SETS / ready.len()).max(OF_ONE);
        let mut seen = 0;
        for at in ready {
            let Some((_, set)) = self.sets.get(at) else { continue };
            let mut left = each;
            while left > 0 && set.take(&mut self.events, left).is_ok() {
                let count = self.events.iter().map(&mut *came).count();
                seen += count;
                if count < left.min(BATCH) {
                    break;
                }
                left -= count;
            }
        }
        self.sets.rotate_left((last + 1) % self.sets.len());
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_linux::events::EventFd;

    /// A worker's kicks, and the eventfds by which clients have them.
    struct Rig {
        kicks: Kicks,
        fds: HashMap<QueueKey, EventFd>,
        keys: Vec<QueueKey>,
    }

    impl Rig {
        /// Sessions with so many rings each, the first first.
        fn new(sessions: &[u16]) -> Self {
            let kicks = Kicks::new(Epoll::new().unwrap());
            let mut rig = Self { kicks, fds: HashMap::new(), keys: Vec::new() };
            for (session, rings) in (1..).zip(sessions) {
                for index in 0..*rings {
                    rig.watch(key(session, index));
                }
            }
            rig
        }

        fn watch(&mut self, key: QueueKey) {
            let fd = EventFd::new().unwrap();
            let theirs = Arc::new(ClientFd::new(fd.as_fd().try_clone_to_owned().unwrap()));
            let token = self.keys.iter().position(|k| *k == key).unwrap_or(self.keys.len());
            self.kicks.watch(key, theirs, token as u64).unwrap();
            self.fds.insert(key, fd);
            if token == self.keys.len() {
                self.keys.push(key);
            }
        }

        fn kick(&self, session: u64) {
            for (_, fd) in self.fds.iter().filter(|(key, _)| key.session.0 == session) {
                fd.signal();
            }
        }

        /// The rings that one look finds kicked.
        fn look(&mut self) -> Vec<QueueKey> {
            let mut found = Vec::new();
            let seen = self.kicks.look(Duration::ZERO, |ready| found.push(self.keys[ready.token as usize]));
            assert_eq!(seen, found.len());
            found
        }
    }

    fn key(session: u64, index: u16) -> QueueKey {
        QueueKey { session: SessionKey(session), index }
    }

    fn of(found: &[QueueKey], session: u64) -> usize {
        found.iter().filter(|key| key.session.0 == session).count()
    }

    #[test]
    fn kicks_of_very_many_rings_keep_nobody_elses_unseen() {
        // Descriptors of a usual limit: 2 for each ring here.
        let mut rig = Rig::new(&[200, 120, 120, 1, 4]);
        for session in [1, 2, 3] {
            rig.kick(session);
        }
        // These come last.
        rig.kick(4);
        rig.kick(5);
        let found = rig.look();
        assert_eq!((of(&found, 4), of(&found, 5)), (1, 4));
        assert!(found.len() <= TOGETHER + 3 * FEW + OTHERS + OF_SETS, "{}", found.len());
    }

    #[test]
    fn sessions_with_many_rings_take_turns_and_all_their_kicks_are_seen() {
        let mut rig = Rig::new(&[256, 100, 90]);
        for session in [1, 2, 3] {
            rig.kick(session);
        }
        let first = rig.look();
        assert_eq!(of(&first, 1), 256);
        // Of each as many, besides those in the thread's set.
        assert_eq!((of(&first, 2), of(&first, 3)), (FEW + OF_SETS / 2, FEW + OF_SETS / 2));
        let second = rig.look();
        assert_eq!((of(&second, 2), of(&second, 3)), (100 - FEW - OF_SETS / 2, 90 - FEW - OF_SETS / 2));
        assert_eq!(rig.look(), []);
    }

    #[test]
    fn more_sessions_than_a_look_has_turns_for_have_theirs_in_the_next() {
        let mut rings = vec![256];
        rings.extend([6; SETS + 3]);
        let mut rig = Rig::new(&rings);
        for session in 2..=rings.len() as u64 {
            for index in FEW as u16..6 {
                rig.fds[&key(session, index)].signal();
            }
        }
        assert_eq!(rig.look().len(), 2 * SETS);
        // Those that had a turn already come after those that had none.
        rig.fds[&key(2, 5)].signal();
        let found = rig.look();
        assert_eq!((found.len(), found.last()), (2 * 3 + 1, Some(&key(2, 5))));
    }

    #[test]
    fn a_kick_in_a_sessions_own_set_wakes_the_thread() {
        let mut rig = Rig::new(&[256, 6]);
        rig.fds[&key(2, 5)].signal();
        let mut found = Vec::new();
        rig.kicks.look(Duration::from_secs(10), |ready| found.push(ready.token));
        assert_eq!(found, [261]);
    }

    #[test]
    fn sets_end_with_their_sessions_and_places_are_free_again() {
        let mut rig = Rig::new(&[256, 6, 6]);
        assert_eq!((rig.kicks.sets.len(), rig.kicks.count), (2, 264));
        rig.watch(key(2, 5));
        rig.kick(2);
        assert_eq!(rig.look().len(), 6);
        assert_eq!(rig.kicks.give(SessionKey(2)).len(), 6);
        assert_eq!((rig.kicks.sets.len(), rig.kicks.count), (1, 260));
        rig.kick(2);
        assert_eq!(rig.look(), []);
        for index in 0..256 {
            rig.kicks.forget(key(1, index));
        }
        rig.watch(key(3, 5));
        assert_eq!((rig.kicks.sets.len(), rig.kicks.count), (1, 5));
    }
}
