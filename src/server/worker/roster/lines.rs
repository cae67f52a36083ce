//! Who waits for a queue pair that is full: a session has one place in its line, whichever of its virtqueues wait.

use alloc::collections::VecDeque;

use super::{Activity, Queue, Roster, Served};

impl Roster {
    /// The next virtqueue of a session that waits for its pair. It waits no more, and has no turns yet.
    pub(in super::super) fn next_waiting(&mut self, session: usize) -> Option<usize> {
        let token = self.sessions.get_mut(session)?.waiting.pop_front()?;
        if let Some(queue) = self.queues.get_mut(token) {
            queue.activity = Activity::Asleep;
        }
        Some(token)
    }

    /// Whether a virtqueue of the session waits for its pair.
    pub(in super::super) fn waits(&self, session: usize) -> bool {
        self.sessions.get(session).is_some_and(|served| !served.waiting.is_empty())
    }

    /// A virtqueue need not wait for its pair any more. The session, when it is to leave the line.
    pub(in super::super) fn leave_line(&mut self, token: usize) -> Option<usize> {
        let queue = self.queues.get_mut(token).filter(|q| q.activity == Activity::InLine)?;
        queue.activity = Activity::Asleep;
        let session = queue.session;
        let served = self.sessions.get_mut(session)?;
        served.waiting.retain(|t| *t != token);
        served.waiting.is_empty().then_some(session)
    }

    /// Of the sessions in a line, the one to be let out: of the group whose turn there is longest ago, the first.
    pub(in super::super) fn next_in(&mut self, line: &mut VecDeque<usize>) -> Option<usize> {
        let group = |session: &usize| self.sessions.get(*session).and_then(|s| self.groups.get(s.group));
        let since = line.iter().map(|session| group(session).map_or(0, |g| g.let_in));
        let (at, _) = since.enumerate().min_by_key(|(_, since)| *since)?;
        let session = line.remove(at)?;
        self.let_in += 1;
        if let Some(served) = self.sessions.get(session)
            && let Some(group) = self.groups.get_mut(served.group)
        {
            group.let_in = self.let_in;
        }
        Some(session)
    }
}

impl Queue {
    /// Waits for its pair, in whose line its session stands then.
    pub(in super::super) fn stand_in_line(
        &mut self,
        token: usize,
        served: &mut Served,
        line: &mut VecDeque<usize>,
    ) {
        if self.activity == Activity::InLine {
            return;
        }
        self.activity = Activity::InLine;
        served.changed = true;
        if served.waiting.is_empty() {
            line.push_back(self.session);
        }
        served.waiting.push_back(token);
    }
}
