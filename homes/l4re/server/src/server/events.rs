//! What control says.

use nvme_core::server::control::Event;
use nvme_core::server::message::{SessionKey, ToWorker};
use nvme_platform::Time;

use super::Server;
use crate::label::Source;
use crate::output::Level;
use crate::session::Run;
use crate::{Kernel, Output};

impl<K: Kernel, O: Output> Server<K, O> {
    /// Lets control do what can be done now, and hears what it has to say.
    pub(super) fn poll_control(&mut self, now: Time) {
        self.control.poll(now);
        self.deliver(now);
        while let Some(event) = self.control.take_event() {
            self.event(event, now);
        }
        // What the events led to.
        self.deliver(now);
        self.control_at = self.control.next_deadline();
        self.stirred = true;
    }

    pub(super) fn deliver(&mut self, now: Time) {
        while let Some((_, message)) = self.control.take_message() {
            let added = match &message {
                ToWorker::AddQueue(new) => Some(new.key),
                _ => None,
            };
            self.worker.handle(message, now);
            if let Some(key) = added {
                let token = self.worker.token(key);
                self.queue_added(key.session, token);
            }
        }
    }

    pub(super) fn hear_worker(&mut self, now: Time) {
        while let Some(message) = self.worker.take_message() {
            self.control.from_worker(0, message, now);
            self.control_at = Some(Time::default());
        }
    }

    pub(super) fn slot_of(&self, key: SessionKey) -> Option<usize> {
        self.sessions.iter().find(|(_, s)| s.key == Some(key)).map(|(slot, _)| slot)
    }

    fn event(&mut self, event: Event, now: Time) {
        match event {
            Event::Scanned => self.scan_over(),
            Event::CatalogueChanged => {
                self.seen.tell(&self.control, &mut self.lines);
                if self.control.scanned() {
                    self.start_clients(false);
                }
            }
            Event::Done(key, result) => {
                if let Some(slot) = self.slot_of(key) {
                    self.memory_done(slot, result);
                }
            }
            Event::QueueStopped(key, ..) => {
                if let Some(slot) = self.slot_of(key) {
                    self.stopped(slot);
                }
            }
            Event::QueueBroken(key, _, why) => {
                let Some(slot) = self.slot_of(key) else { return };
                if let Some(session) = self.sessions.get(slot) {
                    let (at, name) = (session.factory, session.name.clone());
                    self.refuse_at(at, now, format_args!("{name}: its queue is broken: {why}"));
                }
                // Nothing is taken from it any more; what is in flight ends.
                self.stop(slot, now);
                self.needs_reset(slot);
            }
            Event::Lost(key) => {
                let Some(slot) = self.slot_of(key) else { return };
                if let Some(session) = self.sessions.get_mut(slot) {
                    session.lost = true;
                    let line = format_args!("{}: its device is lost", session.name);
                    self.lines.say(Level::Warn, line);
                }
                self.tell_stat(slot);
            }
            Event::ConfigChanged(key) => {
                if let Some(slot) = self.slot_of(key) {
                    self.config_changed(slot);
                }
            }
            Event::Ended(key) => {
                if let Some(slot) = self.slot_of(key) {
                    self.ended(slot);
                }
                // Its device may be what a static client waits for.
                self.start_clients(false);
            }
            Event::FactoryEnded(id) => self.factory_ended(id),
            // The worker is this thread, and has what it was told. Nobody clears a session, or shuts the server down; and there is no
            // storage that hangs, but controllers.
            Event::NotifySet(..)
            | Event::WriteBackSet(_)
            | Event::Hangs(_)
            | Event::Cleared(_)
            | Event::Held(_)
            | Event::ShutDown => {}
        }
    }

    /// All that there is at first is known: now clients are served.
    pub(super) fn scan_over(&mut self) {
        self.seen.tell(&self.control, &mut self.lines);
        self.start_clients(true);
        self.serve_factory();
    }

    /// Nothing is left of a session in control.
    fn ended(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if session.ending {
            return self.remove(slot);
        }
        // Its device is lost for good, or a static client waits for it to come back.
        session.key = None;
        session.run = Run::Idle;
        session.token = None;
        self.sweep();
    }

    /// From now on calls of factories arrive. Until then they wait.
    pub(super) fn serve_factory(&mut self) {
        if self.factory_at.take().is_none() {
            return;
        }
        self.serve_fixed_factories();
        let Some(gate) = self.factory else { return };
        match self.kernel.serve(gate, Source::Factory.label()) {
            Ok(()) => self.lines.say(Level::Info, format_args!("svr: new clients are served")),
            Err(why) => {
                let line = format_args!("svr: it cannot be served: {why}; give it as :svr()");
                self.lines.say(Level::Error, line);
            }
        }
    }
}
