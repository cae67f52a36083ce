//! Messages: calls of other tasks wait in the order in which they came, behind gates that are served.

use nvme_platform::Time;

use super::world::{Answer, CallId, Model, Object, Ready, TaskCap, World};
use crate::kernel::{Caller, HandOut, Incoming, Ipc, Message, Reply, WORDS_MAX};

impl World {
    pub(super) fn anything_ready(&self) -> bool {
        self.ready.iter().any(|ready| self.is_served(*ready))
    }

    fn is_served(&self, ready: Ready) -> bool {
        match ready {
            Ready::Irq(_) => true,
            Ready::Call(call) => self.calls.get(&call.0).is_some_and(|call| self.label_of(call.to).is_some()),
        }
    }

    pub(super) fn abort(&mut self, call: u64) {
        self.ready.retain(|ready| *ready != Ready::Call(CallId(call)));
        if let Some(call) = self.calls.get_mut(&call) {
            call.answer = Some(Answer::Gone);
        }
        self.caller = self.caller.filter(|caller| caller.0 != call);
    }

    /// The answer reaches its caller, if that still waits.
    fn answer(&mut self, reply: &Reply) {
        self.delivered = false;
        let Some(caller) = self.caller.take() else { return };
        let cap = reply.cap.map(|(cap, rights)| {
            let mut slot = *self.slot(cap);
            (slot.writable, slot.special, slot.deletable) = match rights {
                HandOut::Ro => (false, false, false),
                HandOut::Rw => (slot.writable, false, false),
                HandOut::Rwsd => (slot.writable, slot.special, slot.deletable),
            };
            slot
        });
        let number = self.number();
        let Some(call) = self.calls.get_mut(&caller.0).filter(|call| call.is_waiting()) else { return };
        let from = call.from;
        let sent = cap.map(|slot| slot.object);
        let cap = cap.and_then(|slot| {
            self.tasks.get_mut(&from)?.insert(number, slot);
            Some(TaskCap(number))
        });
        call.answer = Some(Answer::Reply { label: reply.label, words: reply.words.to_vec(), cap });
        self.delivered = true;
        if let Some(Object::Gate(gate)) = sent.and_then(|id| self.objects.get_mut(&id)) {
            gate.sent = true;
        }
    }

    fn take(&mut self, ready: Ready, message: &mut Message) -> Option<Incoming> {
        let (to, special, said) = match ready {
            Ready::Irq(id) => (id, false, None),
            Ready::Call(call) => {
                let number = call.0;
                let call = self.calls.get(&number)?;
                (call.to, call.special, Some((number, call.from, call.said.clone())))
            }
        };
        let object = self.label_of(to)?;
        *message = Message::default();
        if let Some((number, from, said)) = said {
            self.caller = Some(CallId(number));
            message.protocol = said.protocol;
            message.words = said.words.into_iter().take(WORDS_MAX).collect();
            let sent = said.cap.and_then(|(cap, writable)| {
                let slot = self.tasks.get(&from)?.get(&cap.0)?;
                Some((slot.object, slot.writable && writable))
            });
            message.cap = sent.map(|(object, writable)| self.install(object, writable));
            if let Some(cap) = message.cap {
                self.given.insert(cap.0, from);
            }
        }
        Some(Incoming { object, special })
    }
}

impl Ipc for Model {
    fn receive(
        &mut self,
        reply: Option<&Reply>,
        until: Option<Time>,
        message: &mut Message,
    ) -> Option<Incoming> {
        let mut world = self.world();
        world.asleep = None;
        world.delivered = true;
        match reply {
            Some(reply) => {
                world.answer(reply);
                if !world.delivered {
                    // What cannot be sent ends the system call.
                    return None;
                }
            }
            None => {
                if let Some(caller) = world.caller.take() {
                    world.unanswered += 1;
                    if let Some(call) = world.calls.get_mut(&caller.0) {
                        call.answer = Some(Answer::None);
                    }
                }
            }
        }
        // What is freed by the answer may be what was waited for.
        world.collect();
        let at = world.ready.iter().position(|ready| world.is_served(*ready));
        let ready = at.and_then(|at| world.ready.remove(at));
        match ready {
            Some(ready) => world.take(ready, message),
            None => {
                let now = Time::from_nanos(world.now);
                world.asleep = until.is_none_or(|until| until > now).then_some(until);
                None
            }
        }
    }

    fn delivered(&self) -> bool {
        self.world().delivered
    }

    fn keep(&mut self) -> Option<Caller> {
        let mut world = self.world();
        if world.kept.len() >= world.kept_max {
            return None;
        }
        let number = world.number() as usize;
        // Whoever is gone already is kept like the others: nobody tells.
        let caller = world.caller.take().unwrap_or(CallId(0));
        world.kept.insert(number, caller);
        Some(Caller(number))
    }

    fn answer(&mut self, caller: Caller, reply: &Reply) -> bool {
        let mut world = self.world();
        let Some(kept) = world.kept.remove(&caller.0) else { panic!("{caller:?} is not kept") };
        // Whoever called last still waits.
        let last = world.caller.replace(kept);
        let before = world.delivered;
        world.answer(reply);
        world.caller = last;
        core::mem::replace(&mut world.delivered, before)
    }

    fn now(&self) -> Time {
        let mut world = self.world();
        world.now += world.tick;
        Time::from_nanos(world.now)
    }
}
