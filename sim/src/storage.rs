//! Storage that takes its time: what a controller asks of it is answered when the seed says so, in any order, or hangs until it is thawed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_soft::{Begun, Failure, Job, Medium, Request, Storage};

use crate::world::{CONTROLLERS, NAMESPACES, World};

/// As much as may be under way.
const DEPTH: usize = 12;

#[derive(Default)]
struct State {
    waiting: Vec<Request>,
    /// Nothing is answered.
    frozen: bool,
    /// So many that come next fail so.
    fails: Option<(u8, Failure)>,
}

/// A disk's storage.
pub(crate) struct Slow {
    medium: Arc<dyn Medium>,
    state: Mutex<State>,
}

impl Slow {
    pub(crate) fn new(medium: Arc<dyn Medium>) -> Arc<Self> {
        Arc::new(Self { medium, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could answer something.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state();
        !state.frozen && !state.waiting.is_empty()
    }

    /// Whether a change of the disk is with it.
    pub(crate) fn writes(&self) -> bool {
        let changes = |request: &Request| !matches!(request.job(), Job::Read { .. } | Job::Flush);
        self.state().waiting.iter().any(changes)
    }

    /// Whether anything is with it.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Whether it hangs.
    pub(crate) fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// Answers one of the requests that are with it, if it can.
    pub(crate) fn answer_one(&self, which: usize) -> bool {
        let Some((request, fails)) = self.take(which) else { return false };
        self.answer(request, fails);
        true
    }

    fn take(&self, which: usize) -> Option<(Request, Option<Failure>)> {
        let mut state = self.state();
        if state.frozen || state.waiting.is_empty() {
            return None;
        }
        let at = which % state.waiting.len();
        let request = state.waiting.remove(at);
        let fails = match &mut state.fails {
            Some((left, why)) => {
                let why = *why;
                *left -= 1;
                if *left == 0 {
                    state.fails = None;
                }
                Some(why)
            }
            None => None,
        };
        Some((request, fails))
    }

    fn answer(&self, request: Request, fails: Option<Failure>) {
        let result = match fails {
            Some(why) => Err(why),
            None => self.serve(&request),
        };
        request.end(result);
    }

    fn serve(&self, request: &Request) -> Result<(), Failure> {
        let window = self.medium.window();
        let end = window.len() as u64;
        let done = match request.job() {
            Job::Read { offset, len } | Job::Write { offset, len } if offset + len > end => {
                return Err(Failure::Gone);
            }
            Job::Read { offset, .. } => request.scatter(window, offset as usize),
            Job::Write { offset, len } => {
                let written = request.gather(window, offset as usize);
                self.medium.wrote(offset, len);
                written
            }
            Job::Flush => self.medium.flush(0, end).is_ok(),
            Job::Discard { offset, len } => self.medium.discard(offset, len).is_ok(),
            Job::Zero { offset, len, .. } => self.medium.zero(offset, len).is_ok(),
        };
        if done { Ok(()) } else { Err(Failure::Memory) }
    }

    /// What is under way fails: its disk has no power.
    pub(crate) fn lose_power(&self) {
        // Not under the lock: who is told may ask for more.
        let waiting = std::mem::take(&mut self.state().waiting);
        drop(waiting);
    }

    pub(crate) fn freeze(&self, on: bool) {
        self.state().frozen = on;
    }

    pub(crate) fn fail(&self, count: u8, kind: u8) {
        let why = [Failure::Io, Failure::NoSpace, Failure::ReadOnly, Failure::Lost][usize::from(kind) % 4];
        self.state().fails = Some((count.max(1), why));
    }

    /// It is as it was at first.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.frozen, state.fails) = (false, None);
    }
}

impl Storage for Slow {
    fn size(&self) -> u64 {
        self.medium.window().len() as u64
    }

    fn begin(&self, request: Request) -> Begun {
        let mut state = self.state();
        if state.waiting.len() >= DEPTH {
            return Begun::Full(request);
        }
        state.waiting.push(request);
        Begun::UnderWay
    }
}

impl World {
    /// A disk's storage answers one of the requests that are with it.
    pub(crate) fn storage(&mut self, disk: usize, which: u8) -> bool {
        let (own, all) = (self.storages.len(), self.storages.len() + self.before.len());
        let disk = disk % all.max(1);
        if disk >= own {
            return self.lands(disk - own, which);
        }
        let Some(storage) = self.storages.get(disk).cloned() else { return false };
        if !storage.answer_one(which.into()) {
            return false;
        }
        self.storage_answered();
        true
    }

    /// The controller of a storage, by its place.
    pub(crate) fn controller_of(disk: usize) -> usize {
        NAMESPACES.get(disk).map_or_else(|| disk - NAMESPACES.len(), |(of, ..)| *of)
    }

    /// The storages behind a controller.
    pub(crate) fn storages_of(&self, at: usize) -> impl Iterator<Item = &Arc<Slow>> {
        let own = move |disk: usize| Self::controller_of(disk) == at;
        self.storages.iter().enumerate().filter(move |(disk, _)| own(*disk)).map(|(_, storage)| storage)
    }

    /// Homes wake whoever may wait for storage when it answers.
    pub(crate) fn storage_answered(&mut self) {
        self.hands.iter_mut().for_each(|hand| hand.awake = true);
        self.control_awake = true;
        for at in 0..CONTROLLERS {
            self.court().buses[at].rung = true;
            self.books.open().scan(at);
        }
        self.look_at_buses();
    }
}
