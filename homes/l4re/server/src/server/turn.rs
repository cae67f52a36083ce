//! One turn of the loop.

use core::time::Duration;

use nvme_platform::Time;

use super::Server;
use crate::{Kernel, Output};

/// How long messages may go unnoticed while there is work: a look costs a system call.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl<K: Kernel, O: Output> Server<K, O> {
    /// Does what can be done now, and takes a message: at once, if there is more to do, or else when one comes or something
    /// is due.
    pub fn turn(&mut self) {
        let now = self.kernel.now();
        let wake = self.work(now);
        self.ask_again(now);
        if let Some(held) = self.held.take() {
            self.work_on(held, None, now);
        }
        if self.held.is_some() {
            return self.look_everywhere(now);
        }
        let due = self.control_at.is_some_and(|at| at <= now);
        match wake {
            // A call takes a step in each turn. Steps are long: others are heard between them.
            _ if self.stirred => self.look(Some(now)),
            Wake::At(until) if !due && self.reply.is_none() => {
                let polls = now - self.last_work < self.polling.window();
                if polls && self.worker.busy_pairs().next().is_some() {
                    return self.glance(now);
                }
                if !self.worker.sleep() {
                    return self.glance(now);
                }
                let stats_at = self.stats_at();
                let until = [until, self.control_at, self.factory_at, self.kept_at, stats_at];
                let until = until.into_iter().flatten().min();
                self.look(until);
                let woken = self.last_look;
                self.polling.slept(woken - self.last_work, woken);
            }
            _ => self.glance(now),
        }
    }

    /// Lets both roles do what can be done now.
    fn work(&mut self, now: Time) -> Wake {
        if self.factory_at.is_some_and(|at| at <= now) {
            self.serve_factory();
        }
        self.look_at_modes();
        self.look_after_memory(now);
        if !self.restoring.is_empty() {
            self.restore_step(now);
        }
        if self.control_at.is_some_and(|at| at <= now) {
            self.poll_control(now);
        }
        let kernel = &self.kernel;
        let pass = self.worker.pass(now, &|| kernel.now());
        if self.kernel.vanished() {
            self.memory_vanished(now);
        }
        self.tell_news();
        self.hear_worker(now);
        // The doorbells are written by now: a line that stays up has something new.
        for at in self.masked.drain(..) {
            if let Some(unmask) = self.interrupts.get_mut(at).and_then(|i| i.unmask.as_mut()) {
                unmask();
            }
        }
        if pass.worked || self.restores() {
            self.last_work = now;
            return Wake::Now;
        }
        Wake::At(pass.wake)
    }

    /// Looks for a message in between, if the last look was long enough ago, or somebody waits for an answer.
    fn glance(&mut self, now: Time) {
        if self.reply.is_some() || now - self.last_look >= LOOK_EVERY {
            self.look(Some(now));
        }
    }

    /// Answers the last call, and takes a message, if there is one by then.
    fn look(&mut self, until: Option<Time>) {
        // Whether something new reached anybody is to be known before anything else happens.
        let until = if self.minted.is_some() { Some(Time::default()) } else { until };
        let incoming = self.kernel.receive(self.reply.as_ref(), until, &mut self.message);
        self.reply = None;
        if let Some(fresh) = self.minted.take()
            && !self.kernel.delivered()
        {
            self.nobody_has(fresh);
        }
        let now = self.kernel.now();
        self.last_look = now;
        self.tell_stats(now);
        if let Some(incoming) = incoming {
            self.take(incoming, now);
        }
    }

    /// Nothing is received as long as a call is held: so what is asleep is looked at as well, and control's interrupts are not
    /// waited for.
    fn look_everywhere(&mut self, now: Time) {
        for (_, session) in &self.sessions {
            if let Some(token) = session.token {
                self.worker.kick(token, now);
            }
        }
        self.control_at = Some(Time::default());
    }

    /// A controller raised an interrupt. The next pass looks at all pairs that have something in flight anyway.
    pub(super) fn interrupt(&mut self, at: usize) {
        let Some(interrupt) = self.interrupts.get(at) else { return };
        if interrupt.admin {
            self.control_at = Some(Time::default());
        }
        if interrupt.unmask.is_some() && !self.masked.contains(&at) {
            self.masked.push(at);
        }
    }
}

/// When there is more to do.
enum Wake {
    Now,
    At(Option<Time>),
}
