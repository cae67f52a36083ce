//! What counts as durable: flushes of one image, one call at a time.
//!
//! A flush may be answered by a call that began after the flush did; so those that come while a call is under way wait for
//! the next one, all together. The kernel reports an error of write-back once for each open file: to whoever asks first. So
//! an error is kept here, and from then on nothing counts as durable, for nobody, until the operator says that it does.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nvme_mem::Window;
use nvme_soft::{Failure, Request};
use rustix::io::Errno;

use crate::events::Doorbell;

/// A flush, and the bell of the thread that began it.
pub(super) struct Flush {
    pub(super) request: Request,
    pub(super) bell: Arc<Doorbell>,
}

impl Flush {
    fn end(self, result: Result<(), Failure>) {
        self.request.end(result);
        self.bell.ring();
    }
}

#[derive(Default)]
struct State {
    /// Those that the call under way answers. None is under way: empty.
    under_way: Vec<Flush>,
    running: bool,
    /// Those that came meanwhile.
    next: Vec<Flush>,
    lost: Option<Errno>,
}

/// The flushes of one image.
#[derive(Default)]
pub(super) struct Durable {
    state: Mutex<State>,
    /// Where the error is kept for the next server: 16 bits; none is 0.
    kept: OnceLock<Window>,
}

/// What is to be done about a flush that came.
pub(super) enum Joined {
    /// The caller makes the call, and then says [`done`](Durable::done).
    Call,
    /// Somebody else's call answers it.
    Waits,
    /// It has failed.
    Lost(Request),
}

impl Durable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A flush came.
    pub(super) fn join(&self, flush: Flush) -> Joined {
        let mut state = self.state();
        if state.lost.is_some() {
            return Joined::Lost(flush.request);
        }
        if state.running {
            state.next.push(flush);
            return Joined::Waits;
        }
        state.running = true;
        state.under_way.push(flush);
        Joined::Call
    }

    /// The call ended. True: it is to be made once more, for those that came meanwhile. The second value: the error is
    /// news.
    pub(super) fn done(&self, result: Result<(), Errno>) -> (bool, bool) {
        let mut state = self.state();
        let news = result.is_err() && state.lost.is_none();
        if let Err(why) = result {
            state.lost.get_or_insert(why);
            // Before anybody is told.
            self.keep(state.lost);
        }
        let answer = if state.lost.is_some() { Err(Failure::Lost) } else { Ok(()) };
        let ended = std::mem::take(&mut state.under_way);
        let failed = if answer.is_err() { std::mem::take(&mut state.next) } else { Vec::new() };
        state.under_way = std::mem::take(&mut state.next);
        state.running = !state.under_way.is_empty();
        let again = state.running;
        // Whoever is told may come back at once.
        drop(state);
        for flush in ended.into_iter().chain(failed) {
            flush.end(answer);
        }
        (again, news)
    }

    /// Why nothing counts as durable any more, if it does not.
    pub(super) fn lost(&self) -> Option<Errno> {
        self.state().lost
    }

    /// It was so in another server.
    pub(super) fn lose(&self, why: Errno) {
        let mut state = self.state();
        state.lost.get_or_insert(why);
        self.keep(state.lost);
    }

    /// The error is kept there from now on.
    pub(super) fn keep_in(&self, window: Window) {
        let state = self.state();
        let _ = self.kept.set(window);
        self.keep(state.lost);
    }

    fn keep(&self, lost: Option<Errno>) {
        if let Some(kept) = self.kept.get() {
            let number = lost.map_or(0, |why| u16::try_from(why.raw_os_error()).unwrap_or(u16::MAX));
            // In bounds: it is as long as that.
            let _ = kept.store16(0, number);
        }
    }

    /// The operator says that it goes on. The error that there was.
    pub(super) fn resume(&self) -> Option<Errno> {
        let mut state = self.state();
        let lost = state.lost.take();
        self.keep(None);
        lost
    }
}
