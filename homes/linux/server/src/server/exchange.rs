//! What workers and lanes say, and what workers are told.

use std::time::Duration;

use nvme_core::server::message::{SessionKey, ToWorker};
use nvme_linux::logger::{REFUSAL, speak_of};
use nvme_platform::Time;
use nvme_session::virtqueue::Broken;

use super::Server;
use crate::fatal::Fatal;
use crate::seat::{Order, Seat};
use crate::worker::{Message, News};

impl Server {
    pub(super) fn hear_workers(&mut self, time: Time) -> Result<(), Fatal> {
        for index in 0..self.workers.len() {
            while let Some(worker) = self.workers.get(index)
                && let Some(news) = worker.receive()?
            {
                match news {
                    News::Core(news) => self.control.from_worker(index, news, time),
                    News::HeldUp(session, took, moved) => self.held_up(session, took, moved, time),
                    News::KickTaken(key) => {
                        self.with_session(key.session, time, |seat, _| {
                            seat.worker_has(Order::Kick(key.index))
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// A session's memory held a worker up.
    fn held_up(&mut self, session: SessionKey, took: Duration, moved: bool, time: Time) {
        let sessions = self.by_session.len();
        let Some(seat) = self.by_session.get(&session).and_then(|id| self.seats.get_mut(id)) else { return };
        let (name, micros) = (&seat.name, took.as_micros());
        if moved {
            log::warn!(
                target: REFUSAL,
                "{name}: its memory held others up for {micros} µs; it is served by a thread of its own from now on"
            );
            return;
        }
        log::warn!(target: REFUSAL, "{name}: its memory held others up for {micros} µs, and no thread is free for it");
        if seat.held_up.add(took, sessions, time) {
            self.control.break_session(session, Broken::HoldsUp);
        }
    }

    pub(super) fn hear_lanes(&mut self, time: Time) {
        while let Ok(found) = self.found.1.try_recv() {
            let (id, lost) = (found.seat, found.lost);
            if self.seats.contains_key(&id) {
                speak_of(self.tenant_at(id));
                self.lend(id, time, |seat, lent| seat.found(found, lent));
                self.serve(id, time);
                if self.seats.get_mut(&id).is_some_and(Seat::is_free) {
                    self.free(id, time);
                }
            } else {
                found.discard();
            }
            if lost {
                self.bar(id);
            }
        }
        speak_of(0);
    }

    pub(super) fn tell_workers(&mut self) -> Result<(), Fatal> {
        for worker in &self.workers {
            worker.send_on()?;
        }
        while let Some((worker, message)) = self.control.take_message() {
            let message = match message {
                ToWorker::AddQueue(new) => {
                    let seat = self.by_session.get(&new.key.session).and_then(|id| self.seats.get(id));
                    match seat.and_then(|s| s.kick(new.key.index)) {
                        Some(kick) => Message::Queue(new, kick),
                        // Its connection is gone already; it will be stopped without having been kicked.
                        None => Message::Core(ToWorker::AddQueue(new)),
                    }
                }
                other => Message::Core(other),
            };
            if let Some(worker) = self.workers.get(worker) {
                worker.send(message)?;
            }
        }
        Ok(())
    }
}
