//! What the server writes into its audit trail, and grants that wait until they are written down.

use std::fs::File;
use std::os::fd::OwnedFd;

use nvme_audit::{Event, Record, Ticket};
use nvme_core::server::message::SessionKey;
use nvme_linux::events::Interest;
use nvme_linux::factory::Refusal;
use nvme_linux::socket::Peer;
use nvme_platform::Time;
use nvme_policy::{Errno, Rate};
use nvme_session::factory::FactoryId;

use super::admin::Order;
use super::waiting::{Call, refused};
use super::{Server, Watched};
use crate::audit::{self, Note, Noted, PATIENCE};
use crate::seat::Phase;

/// What was granted and is not in force before it is written down.
pub(super) enum Unwritten {
    /// A session, or a factory, that was asked for, with its capabilities.
    Minted(Call, Minted, Vec<OwnedFd>),
    /// A static client's session.
    Static(u32),
    /// The operator's, who is told when the trail goes on in another file.
    Rotation(u64),
}

/// What was minted.
#[derive(Clone, Copy)]
pub(super) enum Minted {
    Session(SessionKey),
    Factory(FactoryId),
}

/// Something that waits for its record.
pub(super) struct Unrecorded {
    ticket: Ticket,
    until: Time,
    what: Unwritten,
}

const UNWRITTEN: &str = "the audit trail cannot be written, and nothing is granted without it";

impl Server {
    /// Writes something down, where there is a trail.
    pub(super) fn note(&mut self, record: Record, time: Time) {
        let factory = record.factory.unwrap_or(0);
        let post = self.posts.iter().find(|(id, _)| id.number() == factory);
        let tenant = post.map_or(factory, |(_, post)| post.tenant);
        if let Some(audit) = self.audit.as_mut().filter(|_| !self.upgrades.taking) {
            audit.note(record, tenant, time);
        }
    }

    /// Of a session: which, whose, and what of.
    pub(super) fn of_session(&self, event: Event, id: u32) -> Record {
        let mut record = Record::of(event);
        let Some(seat) = self.seats.get(&id) else { return record };
        record.session = seat.key.map(|key| key.0);
        record.factory = Some(seat.factory.number());
        record.name = seat.policy.tag().map(ToString::to_string);
        record.client.clone_from(&seat.cap);
        record.device = Some(seat.device.clone()).filter(|device| !device.is_empty());
        record.peer = audit::peer(seat.owner);
        record
    }

    /// Of a factory: which, who made it, what it is called.
    pub(super) fn of_factory(&self, event: Event, id: FactoryId) -> Record {
        let mut record = Record { factory: Some(id.number()), ..Record::of(event) };
        if let Some(factory) = self.control.catalogue().factory(id) {
            record.parent = Some(factory.parent().number());
            record.name = factory.tag().map(ToString::to_string);
        }
        record
    }

    fn granted(&self, minted: Minted, peer: Option<Peer>) -> Record {
        match minted {
            Minted::Session(key) => {
                let Some(id) = self.by_session.get(&key) else { return Record::of(Event::Grant) };
                let mut record = self.of_session(Event::Grant, *id);
                let seat = self.seats.get(id);
                record.policy = seat.map(|seat| audit::policy(&seat.device, &seat.policy, &self.trusted));
                record.peer = audit::peer(peer);
                record
            }
            Minted::Factory(id) => {
                let mut record = self.of_factory(Event::Delegation, id);
                if let Some(factory) = self.control.catalogue().factory(id) {
                    let devices = factory.devices().map(|held| held.name).collect();
                    record.policy = Some(audit::ceiling(devices, factory.ceiling(), &self.trusted));
                }
                record.peer = audit::peer(peer);
                record
            }
        }
    }

    /// Gives a caller what was minted; not before it is kept, where it can be.
    pub(super) fn hand_out(&mut self, call: Call, minted: Minted, fds: Vec<OwnedFd>, time: Time) {
        if let Some((call, minted, fds)) = self.keep_minted(call, minted, fds, time) {
            self.hand_out_kept(call, minted, fds, time);
        }
    }

    /// Likewise; not before it is written down, where that is required.
    pub(super) fn hand_out_kept(&mut self, call: Call, minted: Minted, fds: Vec<OwnedFd>, time: Time) {
        let (record, tenant) = (self.granted(minted, call.peer), self.tenant_of(call.at));
        match self.audit.as_mut().map_or(Noted::Done, |audit| audit.grant(record, tenant)) {
            Noted::Done => self.answer(call.token, Ok(fds)),
            Noted::Waits(ticket) => {
                if let Some(Watched::Caller(caller, ..)) = self.watched.get(&call.token) {
                    // Nothing more is read from there meanwhile.
                    let _ = self.epoll.modify(caller, call.token, Interest::Hangup);
                }
                self.wait_for(ticket, Unwritten::Minted(call, minted, fds), time);
            }
            Noted::Lost => self.take_back_unwritten(call, minted, time),
        }
    }

    /// A factory of the command line: nobody waits for it.
    pub(super) fn note_factory(&mut self, id: FactoryId, time: Time) {
        let record = self.granted(Minted::Factory(id), None);
        self.note(record, time);
    }

    /// A static client's session is there. Whether its clients may come now.
    pub(super) fn note_static(&mut self, id: u32, key: SessionKey, time: Time) -> bool {
        let record = self.granted(Minted::Session(key), None);
        match self.audit.as_mut().map_or(Noted::Done, |audit| audit.grant(record, 0)) {
            Noted::Done => true,
            Noted::Waits(ticket) => {
                self.wait_for(ticket, Unwritten::Static(id), time);
                false
            }
            Noted::Lost => {
                self.static_unwritten(id);
                false
            }
        }
    }

    /// The trail goes on in another file; the operator is told once it does.
    pub(super) fn rotate(&mut self, operator: u64, file: File, last: Record, time: Time) {
        let Some(audit) = &self.audit else { return };
        let ticket = audit.rotate(file, last);
        self.wait_for(ticket, Unwritten::Rotation(operator), time);
    }

    fn wait_for(&mut self, ticket: Ticket, what: Unwritten, time: Time) {
        self.unrecorded.push(Unrecorded { ticket, until: time + PATIENCE, what });
    }

    /// Whether a caller waits for what it was granted to be written down.
    pub(super) fn waits_for_record(&self, token: u64) -> bool {
        let waits = |u: &Unrecorded| matches!(&u.what, Unwritten::Minted(call, ..) if call.token == token);
        self.unrecorded.iter().any(waits) || self.unkept.iter().any(|unkept| unkept.call.token == token)
    }

    /// The trail's thread has something to say.
    pub(super) fn hear_trail(&mut self, time: Time) {
        let Some(audit) = &mut self.audit else { return };
        let (answers, again) = audit.hear();
        for (ticket, written) in &answers {
            if let Some(at) = self.unrecorded.iter().position(|u| u.ticket == *ticket) {
                let Unrecorded { what, .. } = self.unrecorded.swap_remove(at);
                self.recorded(what, *written, time);
            }
        }
        if again || !answers.is_empty() && self.control.scanned() {
            // Static clients whose grants could not be written.
            self.start_static(false, time);
        }
    }

    /// What has waited for its record for too long is not granted.
    pub(super) fn expire_records(&mut self, time: Time) {
        self.expire_unkept(time);
        while let Some(at) = self.unrecorded.iter().position(|u| time >= u.until) {
            let Unrecorded { what, .. } = self.unrecorded.swap_remove(at);
            self.recorded(what, false, time);
        }
    }

    pub(super) fn record_deadline(&self) -> Option<Time> {
        let own = self.audit.as_ref().and_then(audit::Audit::deadline);
        let unkept = self.unkept.iter().map(|u| u.until);
        self.unrecorded.iter().map(|u| u.until).chain(own).chain(unkept).min()
    }

    fn recorded(&mut self, what: Unwritten, written: bool, time: Time) {
        match what {
            Unwritten::Minted(call, minted, fds) => {
                if let Some(Watched::Caller(caller, ..)) = self.watched.get(&call.token) {
                    let _ = self.epoll.modify(caller, call.token, Interest::Read);
                }
                if written {
                    self.answer(call.token, Ok(fds));
                } else {
                    self.take_back_unwritten(call, minted, time);
                }
                self.serve_caller(call.token, time);
            }
            Unwritten::Static(id) if written => {
                if let Some(seat) = self.seats.get_mut(&id).filter(|s| s.phase == Phase::Unwritten) {
                    seat.phase = Phase::Free;
                    self.admit(id, time);
                }
            }
            Unwritten::Static(id) => self.static_unwritten(id),
            Unwritten::Rotation(operator) => {
                let head = self.audit.as_ref().map(|audit| audit.head().to_string()).unwrap_or_default();
                let answer = if written {
                    Ok(format!("{{\"head\":\"{head}\"}}"))
                } else {
                    Err(refused(
                        Errno::Io,
                        "the storage of the old file does not answer; it is left once it does",
                    ))
                };
                self.answer_operator(operator, &answer);
            }
        }
    }

    fn take_back_unwritten(&mut self, call: Call, minted: Minted, time: Time) {
        match minted {
            Minted::Session(key) => {
                if let Some(id) = self.by_session.get(&key).copied() {
                    self.end(id, UNWRITTEN);
                }
            }
            Minted::Factory(id) => self.take_back(id, UNWRITTEN),
        }
        self.refuse(call, refused(Errno::Io, UNWRITTEN), time);
    }

    /// A static client's session could not be written down. It is tried again when records are written again.
    fn static_unwritten(&mut self, id: u32) {
        let Some(seat) = self.seats.get(&id).filter(|s| s.phase == Phase::Unwritten) else { return };
        log::error!("{}: {UNWRITTEN}", seat.name);
        self.end(id, UNWRITTEN);
    }

    /// A call was refused.
    pub(super) fn note_refusal(&mut self, call: Call, refusal: &Refusal, time: Time) {
        let record = Record {
            factory: Some(call.at.number()),
            peer: audit::peer(call.peer),
            errno: Some(refusal.errno),
            why: Some(refusal.message.clone()),
            ..Record::of(Event::Refusal)
        };
        self.note(record, time);
    }

    /// What clients did to their memory.
    pub(super) fn take_notes(&mut self, id: u32, time: Time) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if seat.notes.is_empty() {
            return;
        }
        let peer = seat.conn.as_ref().and_then(|conn| conn.peer).or(seat.owner);
        for Note { event, dataspace, size, why } in core::mem::take(&mut seat.notes) {
            let peer = audit::peer(peer);
            let record = Record { dataspace, size, why, peer, ..self.of_session(event, id) };
            self.note(record, time);
        }
    }

    /// What the operator did, or was refused.
    pub(super) fn note_operator(
        &mut self,
        peer: Option<Peer>,
        what: &str,
        refusal: Option<&Refusal>,
        time: Time,
    ) {
        let record = Record {
            peer: audit::peer(peer),
            errno: refusal.map(|refusal| refusal.errno),
            why: Some(refusal.map_or_else(|| what.to_owned(), |r| format!("{what}: {}", r.message))),
            ..Record::of(Event::Operator)
        };
        self.note(record, time);
    }

    /// A session is bounded anew: what holds from now on, and by whose word.
    pub(super) fn note_limit(&mut self, key: SessionKey, rate: Rate, order: &Order<'_>) {
        let Some(id) = self.by_session.get(&key).copied() else { return };
        let mut record = self.of_session(Event::Limit, id);
        let seat = self.seats.get(&id);
        record.policy = seat.map(|seat| audit::policy(&seat.device, &seat.policy, &self.trusted));
        if let Some(policy) = &mut record.policy {
            (policy.iops, policy.bytes) = (rate.iops.map(Into::into), rate.bytes.map(Into::into));
        }
        record.peer = audit::peer(order.peer);
        record.why = Some(order.what.to_owned());
        self.note(record, order.time);
    }

    /// Devices that are gone since this was looked at last.
    pub(super) fn note_devices(&mut self, time: Time) {
        if self.audit.is_none() {
            return;
        }
        use nvme_core::server::control::ControllerState;
        let lost: Vec<(bool, String)> = self
            .control
            .controllers()
            .map(|(name, controller, state)| {
                let serial = controller.info().serial.as_str();
                let named = if serial.is_empty() { name } else { serial };
                (state == ControllerState::Lost, named.to_owned())
            })
            .collect();
        self.lost.resize(lost.len(), false);
        for (at, (is_lost, device)) in lost.into_iter().enumerate() {
            let Some(known) = self.lost.get_mut(at) else { continue };
            if core::mem::replace(known, is_lost) != is_lost && is_lost {
                let why = Some("the controller is lost".to_owned());
                self.note(Record { device: Some(device), why, ..Record::of(Event::DeviceLost) }, time);
            }
        }
    }
}
