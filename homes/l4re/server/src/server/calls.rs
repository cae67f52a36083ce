//! What clients ask, and what they are answered.

use alloc::boxed::Box;
use alloc::string::ToString;

use nvme_l4re::kernel::{Caller, Cap, HandOut, Incoming, L4Error, Reply};
use nvme_platform::Time;
use nvme_policy::{FactoryRequest, SessionRequest};
use nvme_session::factory::FactoryId;

use super::Server;
use super::pending::{Asked, Pending};
use crate::label::{Number, Source};
use crate::message::{FactoryCall, SessionCall, answer, code, hand_out, number, refusal};
use crate::session::status;
use crate::{Kernel, Output};

/// Interrupts by which a session's driver is told, and those by which it tells us.
const IRQS: u64 = 1;

/// What a call has come to.
pub(super) enum Outcome {
    /// It is answered.
    Reply(Reply),
    /// Likewise, with the capability to something new.
    Minted(Reply, Fresh),
    /// Nobody waits for an answer.
    Silent,
    /// There is more to do first, and that can be done now.
    Step,
    /// Something has to happen first.
    Wait,
}

/// What was made for whoever asked, and is nobody's if the answer does not arrive.
#[derive(Clone, Copy)]
pub(super) enum Fresh {
    Session(Number),
    Factory(Number),
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// Something arrived.
    pub(super) fn take(&mut self, incoming: Incoming, now: Time) {
        let Incoming { object, special } = incoming;
        let asked = match Source::of(object) {
            Some(Source::Interrupt(at)) => return self.interrupt(at),
            Some(Source::Kick(number)) => return self.kick(number, now),
            Some(Source::Deletion) => return self.check_gates(),
            Some(Source::Factory) => self.asked_factory(FactoryId::SERVER, special, now),
            Some(Source::Post(number)) => match self.factory_of(number) {
                Some(at) => self.asked_factory(at, special, now),
                None => Err(L4Error::NOENT),
            },
            Some(Source::Gate(number)) if self.session(number).is_some() => {
                SessionCall::parse(&self.message).map(|call| Asked::Session(number, call))
            }
            // What was sent to an object that is gone, or to none of ours.
            Some(Source::Gate(_)) | None => Err(L4Error::NOENT),
        };
        let cap = self.message.cap.take();
        match asked {
            Ok(asked) => {
                let pending = Pending { asked, cap, begun: None };
                if pending.asked.is_note() {
                    // Whatever came before: nobody would ever answer whom the kernel keeps for it.
                    self.answer(pending, None, Outcome::Silent);
                } else if !self.may_wait(&pending.asked) {
                    // Before it is begun: there would be nobody to go on with it.
                    let code = pending.asked.too_many();
                    self.answer(pending, None, Outcome::Reply(refusal(code)));
                } else if self.is_behind(&pending.asked) {
                    self.wait(pending, None);
                } else {
                    self.work_on(pending, None, now);
                }
            }
            Err(why) => {
                self.reply = Some(refusal(why));
                if let Some(cap) = cap {
                    self.kernel.release(cap);
                }
            }
        }
    }

    fn asked_factory(&mut self, at: FactoryId, special: bool, now: Time) -> Result<Asked, L4Error> {
        let trusted = self.trusted_at(at);
        let asked = match FactoryCall::parse(&self.message, special)? {
            FactoryCall::Meta(meta) => return Ok(Asked::Factory(meta)),
            FactoryCall::Create(words) => SessionRequest::from_words(words.iter(), &trusted)
                .map(|asked| Asked::Create(at, Box::new(asked))),
            FactoryCall::Delegate(words) => FactoryRequest::from_words(words.iter(), &trusted)
                .map(|asked| Asked::Delegate(at, Box::new(asked))),
        };
        asked.map_err(|why| {
            let name = self.post_name(at).to_string();
            self.refuse_at(at, now, format_args!("{name}: create refused: {why}"));
            code(why.errno())
        })
    }

    /// Asks a call (again); it is answered, or waits (again). Without a `caller` it is the last message's.
    pub(super) fn work_on(&mut self, mut pending: Pending, caller: Option<Caller>, now: Time) {
        let Pending { asked, cap, begun } = &mut pending;
        let since = *begun.get_or_insert(now);
        let outcome = match asked {
            Asked::Factory(meta) => Outcome::Reply(meta.answer(FactoryCall::INTERFACES)),
            Asked::Create(at, asked) => self.create(*at, asked, since, now),
            Asked::Delegate(at, asked) => self.delegate(*at, asked, since, now),
            Asked::Session(number, call) => self.call(*number, call, cap, since, now),
        };
        match outcome {
            Outcome::Wait => self.wait(pending, caller),
            Outcome::Step => {
                self.stirred = true;
                self.wait(pending, caller);
            }
            outcome => self.answer(pending, caller, outcome),
        }
    }

    /// A call is over.
    fn answer(&mut self, pending: Pending, caller: Option<Caller>, outcome: Outcome) {
        let (reply, minted) = match outcome {
            Outcome::Reply(reply) => (Some(reply), None),
            Outcome::Minted(reply, fresh) => (Some(reply), Some(fresh)),
            Outcome::Silent | Outcome::Step | Outcome::Wait => (None, None),
        };
        match (caller, reply) {
            (Some(caller), Some(reply)) => {
                let delivered = self.kernel.answer(caller, &reply);
                if let Some(fresh) = minted.filter(|_| !delivered) {
                    self.nobody_has(fresh);
                }
            }
            // It goes with the next receive.
            (_, reply) => (self.reply, self.minted) = (reply, minted),
        }
        if let Some(cap) = pending.cap {
            self.kernel.release(cap);
        }
    }

    /// A new capability did not reach whoever asked for it, so nobody's end would ever be reported.
    pub(super) fn nobody_has(&mut self, fresh: Fresh) {
        match fresh {
            Fresh::Session(session) => {
                if let Some(slot) = self.session(session) {
                    self.end(slot);
                }
            }
            Fresh::Factory(post) => self.nobody_has_post(post),
        }
    }

    fn call(
        &mut self,
        session: Number,
        call: &SessionCall,
        cap: &mut Option<Cap>,
        since: Time,
        now: Time,
    ) -> Outcome {
        let slot = session.slot();
        // It may have ended while the call waited.
        if self.session(session).is_none() {
            return Outcome::Reply(refusal(L4Error::NOENT));
        }
        let holds_gate = matches!(call, SessionCall::Bind(_)) && cap.is_some_and(|cap| self.is_gate(cap));
        let Some(found) = self.sessions.get_mut(slot) else {
            return Outcome::Reply(refusal(L4Error::NOENT));
        };
        match call {
            SessionCall::Meta(meta) => Outcome::Reply(meta.answer(SessionCall::INTERFACES)),
            SessionCall::SetStatus(asked) => self.set_status(slot, *asked, since, now),
            SessionCall::ConfigQueue(index) => self.config_queue(slot, *index, since, now),
            SessionCall::RegisterDs(register) => self.register(slot, *register, cap, since, now),
            SessionCall::DeviceConfig => {
                // Whoever asks begins anew, or is another than before.
                found.epoch = found.epoch.wrapping_add(1);
                found.page.identify();
                Outcome::Reply(hand_out(answer([0]), found.page_cap, HandOut::Rw))
            }
            SessionCall::NotificationIrq(0) => Outcome::Reply(hand_out(number(0), found.kick, HandOut::Ro)),
            SessionCall::NotificationIrq(_) => Outcome::Reply(refusal(L4Error::NOSYS)),
            SessionCall::Bind(IRQS..) => Outcome::Reply(refusal(L4Error::RANGE)),
            // Held by us, a gate of ours would never lose its last user.
            SessionCall::Bind(_) if holds_gate => Outcome::Reply(refusal(L4Error::INVAL)),
            SessionCall::Bind(_) => {
                let tell = status::is_driver_ok(found.status);
                let old = core::mem::replace(&mut found.irq, cap.take());
                // The old one may have missed something.
                if let Some(new) = found.irq.filter(|_| tell) {
                    self.kernel.trigger(new);
                }
                if let Some(old) = old {
                    self.kernel.release(old);
                }
                Outcome::Reply(number(0))
            }
            SessionCall::Info => Outcome::Reply(answer([0, IRQS, 0])),
            SessionCall::Unmask => Outcome::Silent,
        }
    }

    /// Whether it is a session's own gate, or a factory's.
    fn is_gate(&self, cap: Cap) -> bool {
        self.sessions.iter().any(|(_, s)| !s.ending && self.kernel.same(s.gate, cap)) || self.is_post(cap)
    }

    pub(super) fn session(&self, session: Number) -> Option<usize> {
        let slot = session.slot();
        self.sessions.get(slot).filter(|s| s.number == session && !s.ending).map(|_| slot)
    }

    /// A driver says that there is something in its ring.
    fn kick(&mut self, session: Number, now: Time) {
        let slot = self.session(session);
        if let Some(token) = slot.and_then(|slot| self.sessions.get(slot)).and_then(|s| s.token) {
            self.worker.kick(token, now);
        }
    }

    /// Says who was refused what, and why.
    pub(super) fn refused(&mut self, slot: usize, now: Time, what: &str, why: &dyn core::fmt::Display) {
        if let Some(session) = self.sessions.get(slot) {
            let (at, name) = (session.factory, session.name.clone());
            self.refuse_at(at, now, format_args!("{name}: {what} refused: {why}"));
        }
    }
}
