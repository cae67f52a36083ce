//! Which thread says where whose turn it is.

use nvme_linux::keep::crash;
use nvme_platform::Window;

use super::Board;

/// The places of workers begin here, and of threads for one session each; control has the first.
const WORKERS: usize = 1;
const APART: usize = 64;

/// The places, if anything is kept.
#[derive(Default)]
pub(crate) struct Turns(Vec<Window>);

/// One of them.
pub(crate) struct Place {
    number: usize,
    pub(crate) window: Window,
}

impl Turns {
    pub(crate) fn of(board: &Board) -> Self {
        Self((0..crash::PLACES).filter_map(|thread| board.turn_of(thread)).collect())
    }

    fn place(&self, number: usize) -> Option<Place> {
        Some(Place { number, window: self.0.get(number)?.clone() })
    }

    pub(crate) fn control(&self) -> Option<Place> {
        self.place(0)
    }

    /// Of so many none has one.
    pub(crate) fn worker(&self, index: usize) -> Option<Place> {
        self.place(WORKERS + index).filter(|place| place.number < APART)
    }

    pub(crate) fn apart(&self, index: usize) -> Option<Place> {
        self.place(APART + index)
    }
}

impl Place {
    /// It is the calling thread's.
    pub(crate) fn take(&self) {
        crash::mark_this_thread(self.number, &self.window);
    }

    /// Whose turn it is; 0: nobody's.
    pub(crate) fn say(&self, session: u64) {
        // In bounds.
        let _ = self.window.write_value(0, &session.to_le());
    }
}
