//! One session, taken out of all that are served, with its virtqueues.

use alloc::vec::Vec;

use slab::Slab;

use super::super::super::message::{GroupKey, PairId, SessionKey};
use super::super::shares::{Group, Share};
use super::{Activity, Queue, Roster};

impl Roster {
    /// The place of a session.
    pub(in super::super) fn place_of(&self, key: SessionKey) -> Option<usize> {
        self.sessions.iter().find(|(_, served)| served.key == key).map(|(place, _)| place)
    }

    /// The pair that serves that session alone.
    pub(in super::super) fn own_pair(&self, key: SessionKey) -> Option<PairId> {
        let place = self.place_of(key)?;
        let pair = self.pair_of(place)?;
        let own = |queue: &Queue| (queue.session == place) == (queue.pair == pair);
        self.queues.iter().all(|(_, queue)| own(queue)).then_some(pair)
    }

    /// The session that a pair serves, if it is one.
    pub(in super::super) fn alone_on(&self, pair: PairId) -> Option<usize> {
        let mut on =
            self.queues.iter().filter(|(_, queue)| queue.pair == pair).map(|(_, queue)| queue.session);
        let first = on.next()?;
        on.all(|session| session == first).then_some(first)
    }

    /// The group of a session.
    pub(in super::super) fn group_of(&self, key: SessionKey) -> Option<GroupKey> {
        let served = self.sessions.get(self.place_of(key)?)?;
        self.groups.get(served.group).map(|group| group.key)
    }

    /// That session alone. Its virtqueues keep their tokens, by which what is in flight names them.
    pub(in super::super) fn split_off(&mut self, key: SessionKey) -> Option<Self> {
        let place = self.place_of(key)?;
        let served = self.sessions.get(place)?;
        let (tokens, group) = (served.queues.clone(), self.groups.get(served.group)?.key);
        let (news, mut queues) = (self.news.clone(), Vec::new());
        let mut moved = self.sessions.get_mut(place).map(|served| served.take())?;
        for token in &tokens {
            // The session goes with the last of them.
            if let Some(mut queue) = self.remove(*token) {
                queue.session = 0;
                queues.push((*token, queue));
            }
        }
        moved.group = 0;
        moved.share = Share::default();
        let mut own = Self { lives: self.lives, ..Self::default() };
        own.queues = queues.into_iter().collect::<Slab<Queue>>();
        own.news = news.into_iter().filter(|token| tokens.contains(token)).collect();
        let mut group = Group::new(group);
        group.sessions = 1;
        own.groups.insert(group);
        own.sessions.insert(moved);
        for token in tokens {
            // Those that had turns have them still.
            if let Some(queue) = own.queues.get_mut(token)
                && queue.activity == Activity::Polled
            {
                queue.activity = Activity::Asleep;
                own.wake(token);
            }
        }
        Some(own)
    }

    /// Whether a virtqueue of the first session waits for its pair.
    pub(in super::super) fn stands_in_line(&self) -> bool {
        self.waits(0)
    }
}
