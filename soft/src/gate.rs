//! The gate of a queue: an engine inside, control waiting at the door. Stepped through every order of its accesses by `tests/threads`.

use crate::sync::{AtomicBool, AtomicU32, Mutex, MutexGuard, Ordering};

/// How often control looks before it gives up on an engine that does not come out. With a pause that yields,
/// this is many seconds; no command takes that long.
const TURNS: u32 = 1 << 25;

/// An engine did not come out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stuck;

/// What only one side may touch at a time. The engine only ever tries; control waits.
///
/// The lock orders everything: what control did before [`pass`](Gate::pass) is visible to every
/// [`enter`](Gate::enter) that succeeds later, and what the engine did inside is visible to control when `pass`
/// returns. The two flags only make it prompt, so relaxed accesses do, but for `closed`, which is also read under
/// the lock.
pub(crate) struct Gate<T> {
    /// How many wait for the engine to come out.
    wanted: AtomicU32,
    closed: AtomicBool,
    inner: Mutex<T>,
}

impl<T> Gate<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { wanted: AtomicU32::new(0), closed: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    /// For the engine: in, if nobody else is and nobody waits. Never waits.
    #[inline]
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, T>> {
        if self.asked() {
            return None;
        }
        let inside = self.inner.try_lock()?;
        // After the lock: `close` may have come in between.
        if self.is_closed() { None } else { Some(inside) }
    }

    /// For the engine, before each command: whether it is to come out.
    #[inline]
    pub(crate) fn asked(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Whether nobody gets in any more.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// For control: nobody gets in any more. Who is inside stays: [`pass`](Gate::pass) comes next.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// For control: waits until the engine is out, for the rest of one command.
    pub(crate) fn pass(&self, pause: fn()) -> Result<MutexGuard<'_, T>, Stuck> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let mut turns = 0;
        let inside = loop {
            if let Some(inside) = self.inner.try_lock() {
                break Ok(inside);
            }
            turns += 1;
            if turns == TURNS {
                break Err(Stuck);
            }
            pause();
        };
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_no_engine_in() {
        let gate = Gate::new(1);
        assert!(gate.enter().is_some_and(|g| *g == 1));
        gate.close();
        assert!(gate.enter().is_none());
        assert!(gate.pass(core::hint::spin_loop).is_ok());
    }

    #[test]
    fn who_is_inside_keeps_the_others_out() {
        let gate = Gate::new(());
        let inside = gate.enter();
        assert!(inside.is_some() && gate.enter().is_none() && !gate.asked());
    }
}
