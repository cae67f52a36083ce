//! The I/O queue pairs of one controller: where each is, who uses it, and, of those that are here, what is proven of them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::nvme::{Doorbells, QueuePair, QueueQuiet};

/// A pair that is here, with what is in flight.
pub(super) struct Here {
    pub(super) pair: Box<QueuePair>,
    /// Proof that its queues are quiet: they were deleted, or the controller was reset.
    pub(super) quiet: Option<QueueQuiet>,
    /// Of its new queues.
    pub(super) doorbells: Option<Doorbells>,
}

/// Where a pair is.
pub(super) enum Place {
    /// With its worker, or on the way there.
    Worker,
    /// Its worker was asked for it, once.
    Asked,
    /// In the control role's hands.
    Here(Here),
    /// Its worker says that it does not have it.
    Nowhere,
}

/// One pair.
pub(in super::super) struct Pair {
    pub(super) worker: usize,
    users: u32,
    /// Whether sessions may be put on it.
    pub(super) serving: bool,
    /// It is on its way out: its queues are deleted when it is here, its memory and its identifier free again.
    pub(super) retiring: bool,
    pub(super) place: Place,
}

impl Pair {
    /// How many sessions use it.
    pub(in super::super) fn users(&self) -> u32 {
        self.users
    }

    /// Whether it is meant for that worker.
    pub(in super::super) fn is_for(&self, worker: usize) -> bool {
        self.worker == worker
    }

    fn is_here(&self) -> bool {
        matches!(self.place, Place::Here(_))
    }
}

/// The pairs of one controller, by their queues' identifier.
#[derive(Default)]
pub(super) struct Pairs {
    all: BTreeMap<u16, Pair>,
    /// Pairs, with what is in flight, that nothing proves quiet: kept for ever.
    quarantined: Vec<QueuePair>,
}

impl Pairs {
    /// A new pair, which is here and meant for that worker.
    pub(super) fn insert(&mut self, worker: usize, pair: Box<QueuePair>) {
        let queue = pair.id();
        let place = Place::Here(Here { pair, quiet: None, doorbells: None });
        self.all.insert(queue, Pair { worker, users: 0, serving: true, retiring: false, place });
    }

    pub(super) fn get(&self, queue: u16) -> Option<&Pair> {
        self.all.get(&queue)
    }

    pub(super) fn get_mut(&mut self, queue: u16) -> Option<&mut Pair> {
        self.all.get_mut(&queue)
    }

    pub(super) fn remove(&mut self, queue: u16) {
        self.all.remove(&queue);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A pair that is here.
    pub(super) fn here_mut(&mut self, queue: u16) -> Option<&mut Here> {
        match &mut self.all.get_mut(&queue)?.place {
            Place::Here(here) => Some(here),
            _ => None,
        }
    }

    /// Those that sessions may be put on.
    pub(super) fn serving(&self) -> impl Iterator<Item = (u16, &Pair)> {
        self.all.iter().filter(|(_, p)| p.serving).map(|(queue, p)| (*queue, p))
    }

    /// No session is put on any of them any more.
    pub(super) fn serve_no_more(&mut self) {
        self.all.values_mut().for_each(|p| p.serving = false);
    }

    /// One session more uses a pair. Tells its worker.
    pub(super) fn join(&mut self, queue: u16) -> Option<usize> {
        let pair = self.all.get_mut(&queue)?;
        pair.users = pair.users.saturating_add(1);
        Some(pair.worker)
    }

    /// One session less uses a pair. True: it is of no use any more. Nothing, when there is no such pair.
    pub(super) fn leave(&mut self, queue: u16) -> Option<bool> {
        let pair = self.all.get_mut(&queue)?;
        pair.users = pair.users.saturating_sub(1);
        Some(pair.users == 0 && !pair.serving)
    }

    /// How many pairs a reset has to wait for.
    pub(super) fn away(&self) -> u16 {
        let away = |p: &&Pair| !p.retiring && matches!(p.place, Place::Worker | Place::Asked);
        u16::try_from(self.all.values().filter(away).count()).unwrap_or(u16::MAX)
    }

    /// Those that are with their workers, who were not asked for them yet: they are now. With the worker of each.
    pub(super) fn ask_for_all(&mut self) -> Vec<(u16, usize)> {
        let asked = |(queue, pair): (&u16, &mut Pair)| {
            let there = matches!(pair.place, Place::Worker);
            there.then(|| {
                pair.place = Place::Asked;
                (*queue, pair.worker)
            })
        };
        self.all.iter_mut().filter_map(asked).collect()
    }

    /// Those that are here and are to go on, or to end.
    pub(super) fn here(&self) -> impl DoubleEndedIterator<Item = u16> {
        self.all.iter().filter(|(_, p)| p.is_here() && !p.retiring).map(|(queue, _)| *queue)
    }

    /// Those that are here to go.
    pub(super) fn retiring_here(&self) -> Vec<u16> {
        self.all.iter().filter(|(_, p)| p.is_here() && p.retiring).map(|(queue, _)| *queue).collect()
    }

    /// After a reset: all that are here are quiet.
    pub(super) fn all_quiet(&mut self, quiet: QueueQuiet) {
        for pair in self.all.values_mut() {
            if let Place::Here(here) = &mut pair.place {
                here.quiet = Some(quiet);
            }
        }
    }

    /// Takes the pair out of where it is, if it is here; it is said to be with its worker then.
    pub(super) fn take_here(&mut self, queue: u16) -> Option<Here> {
        let pair = self.all.get_mut(&queue)?;
        match core::mem::replace(&mut pair.place, Place::Worker) {
            Place::Here(here) => Some(here),
            other => {
                pair.place = other;
                None
            }
        }
    }

    /// Nothing proves that pair quiet.
    pub(super) fn quarantine(&mut self, pair: Box<QueuePair>) {
        self.all.remove(&pair.id());
        self.quarantined.push(*pair);
    }
}
