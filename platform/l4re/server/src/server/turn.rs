//! One turn of the loop.

use core::time::Duration;

use nvme_l4re::kernel::Incoming;
use nvme_platform::Time;

use super::Server;
use crate::label::Source;
use crate::{Kernel, Output};

/// How long messages may go unnoticed while there is work: a look costs a system call.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl<K: Kernel, O: Output> Server<K, O> {
    /// Does what can be done now, and takes a message: at once, if there is more to do, or else when one comes or something
    /// is due.
    pub fn turn(&mut self) {
        let now = self.kernel.now();
        if self.control_at.is_some_and(|at| at <= now) {
            self.poll_control(now);
        }
        let pass = self.worker.pass(now);
        self.hear_worker(now);
        // The doorbells are written by now: a line that stays up has something new.
        for at in self.masked.drain(..) {
            if let Some(unmask) = self.interrupts.get_mut(at).and_then(|i| i.unmask.as_mut()) {
                unmask();
            }
        }
        if pass.worked {
            self.last_work = now;
        }
        let due = self.control_at.is_some_and(|at| at <= now);
        let polls = now - self.last_work < self.polling.window() && self.worker.busy_pairs().next().is_some();
        if pass.worked || due || polls {
            if now - self.last_look >= LOOK_EVERY {
                self.look(Some(now));
            }
            return;
        }
        if !self.worker.sleep() {
            return;
        }
        let until = [pass.wake, self.control_at].into_iter().flatten().min();
        self.look(until);
        let woken = self.kernel.now();
        self.polling.slept(woken - self.last_work);
    }

    /// Takes a message, if there is one by then.
    fn look(&mut self, until: Option<Time>) {
        let incoming = self.kernel.receive(None, until);
        self.last_look = self.kernel.now();
        if let Some(incoming) = incoming {
            self.take(incoming);
        }
    }

    fn take(&mut self, incoming: Incoming) {
        if let Some(Source::Interrupt(at)) = Source::of(incoming.object) {
            self.interrupt(at);
        }
        if let Some(cap) = incoming.message.cap {
            self.kernel.release(cap);
        }
    }

    /// The next pass looks at all pairs that have something in flight anyway.
    fn interrupt(&mut self, at: usize) {
        let Some(interrupt) = self.interrupts.get(at) else { return };
        if interrupt.admin {
            self.control_at = Some(Time::default());
        }
        if interrupt.unmask.is_some() && !self.masked.contains(&at) {
            self.masked.push(at);
        }
    }

    fn poll_control(&mut self, now: Time) {
        self.control.poll(now);
        while let Some((_, message)) = self.control.take_message() {
            self.worker.handle(message, now);
        }
        while self.control.take_event().is_some() {}
        self.control_at = self.control.next_deadline();
    }

    fn hear_worker(&mut self, now: Time) {
        while let Some(message) = self.worker.take_message() {
            self.control.from_worker(0, message, now);
            self.control_at = Some(Time::default());
        }
    }
}
