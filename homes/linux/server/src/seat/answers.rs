//! What is answered later: control, a worker or a lane has done what a client asked for.

use std::sync::Arc;

use nvme_audit::Event;
use nvme_core::server::control::{MemoryPlan, SessionError};
use nvme_linux::dispose::ClientFd;
use nvme_linux::vhost::{Reply, Token};

use super::calls::NotStarted;
use super::kept::Files;
use super::{Anew, Order, Over, PATIENCE, Pending, Seat};
use crate::audit::Note;
use crate::hints::Told;
use crate::inflight::{self, Inflight};
use crate::lent::Lent;
use crate::regions::{self, Checked, Denied, Found, Refused, Step, Wanted};
use crate::rings::Stage;

impl Seat {
    /// The lane has found something: the next step of what the client asked for, or its refusal.
    pub(crate) fn found(&mut self, found: Found, lent: &mut Lent<'_>) {
        self.at_lane = self.at_lane.saturating_sub(1);
        let Some(conn) = &mut self.conn else { return found.discard() };
        let awaited = |pending: &mut Pending| match pending {
            Pending::Looking(_, order, ..)
            | Pending::Mapping(_, order, ..)
            | Pending::Inflight(_, order, ..)
            | Pending::Opening(_, order, ..)
            | Pending::Forgetting(_, order, ..) => *order == found.order,
            _ => false,
        };
        // Otherwise it comes too late, or for another client.
        let Some(pending) = conn.pending.take_if(awaited) else { return found.discard() };
        match (pending, found.result) {
            (Pending::Looking(token, _, until, wanted), Ok(Step::Checked(checked))) => {
                if lent.keeps
                    && let Some(conn) = &mut self.conn
                {
                    conn.files.get_or_insert_with(|| Files::new(&self.lane)).begin(wanted, &checked);
                }
                let plan = self.plan(token, wanted, checked, lent);
                if let Some((plan, checked)) = plan {
                    let order = self.order(lent);
                    regions::map(order, &plan, checked);
                    self.pend(Pending::Mapping(token, self.orders, until, Box::new(plan)));
                }
            }
            (Pending::Mapping(token, _, _, plan), Ok(Step::Mapped(memory))) => {
                let result = lent.control.change_memory(&plan, memory).map_err(Refused::from);
                if let Err(why) = &result {
                    self.refused_memory(None, why);
                }
                self.asked(token, result);
            }
            (Pending::Inflight(token, _, _, (rings, size)), Ok(Step::Inflight(window, file, offset))) => {
                if let Some(conn) = &mut self.conn {
                    if lent.keeps {
                        let files = conn.files.get_or_insert_with(|| Files::new(&self.lane));
                        files.keep_inflight(file, offset);
                    } else {
                        self.lane.put(move || drop(file));
                    }
                    conn.inflight = Some(Inflight::new(window, rings, size));
                }
                self.reply(token, Reply::Done);
            }
            (Pending::Forgetting(token, _, _, anew), _) => self.begun_anew(token, anew, lent),
            (Pending::Opening(token, _, _, index, kick), Ok(Step::Touched(queue))) => {
                let started = match (self.key, queue.broken()) {
                    (None, _) => Err(NotStarted::Session(SessionError::Ended)),
                    (Some(_), Some(why)) => Err(why.into()),
                    (Some(key), None) => self.start_prepared(key, index, queue, lent).map_err(Into::into),
                };
                let reply = self.started(index, kick, started, lent);
                self.reply(token, reply);
            }
            (
                Pending::Looking(token, ..) | Pending::Mapping(token, ..) | Pending::Inflight(token, ..),
                result,
            ) => {
                let (why, which) = match result {
                    Err(Denied { why, which }) => (Refused::File(why), which),
                    Ok(_) => (Refused::Session(SessionError::Busy), None),
                };
                self.refused_memory(which, &why);
                self.asked(token, Err(why));
            }
            _ => {}
        }
    }

    /// The plan, where something is to be mapped for it.
    fn plan(
        &mut self,
        token: Token,
        wanted: Wanted,
        checked: Vec<Checked>,
        lent: &mut Lent<'_>,
    ) -> Option<(MemoryPlan, Vec<Checked>)> {
        let planned = match self.key {
            Some(key) => regions::plan(lent.control, key, wanted, &checked),
            None => Err(SessionError::Ended.into()),
        };
        match planned {
            Ok(plan) if !plan.new_regions().is_empty() => {
                self.registering = regions::registered(&plan, &checked, lent.trusted);
                return Some((plan, checked));
            }
            Ok(plan) => {
                let result = lent.control.change_memory(&plan, Vec::new()).map_err(Refused::from);
                self.asked(token, result);
            }
            Err(why) => {
                self.refused_memory(regions::identities(&checked, lent.trusted), &why);
                self.asked(token, Err(why));
            }
        }
        self.lane.put(move || drop(checked));
        None
    }

    /// Control was asked to change the memory, or could not be.
    fn asked(&mut self, token: Token, result: Result<(), Refused>) {
        if let Some(reply) = self.memory(token, "memory", result) {
            self.reply(token, reply);
        }
    }

    /// A dataspace is not registered, for the audit trail. `which`: where it is not the one that was being registered.
    fn refused_memory(&mut self, which: Option<String>, why: &dyn core::fmt::Display) {
        let registering = core::mem::take(&mut self.registering);
        let known: Vec<String> = registering.into_iter().filter_map(|note| note.dataspace).collect();
        let known = Some(known.join(", ")).filter(|names| !names.is_empty());
        let (dataspace, why) = (which.or(known), Some(why.to_string()));
        self.notes.push(Note { event: Event::DataspaceRefused, dataspace, size: None, why });
    }

    /// Control has nothing left of the last client. Whether the next one may come: not before the lane has nothing either, which
    /// says so later.
    pub(crate) fn is_cleared(&mut self) -> bool {
        self.cleared = true;
        self.is_free()
    }

    /// Whether the lane was what the next client waited for, and is done.
    pub(crate) fn is_free(&mut self) -> bool {
        self.at_lane == 0 && core::mem::take(&mut self.cleared)
    }

    /// The lane took too long. What it finds now is nobody's.
    pub(crate) fn out_of_patience(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        if let Some(Pending::Forgetting(..)) = conn.pending {
            // What is written there late would be written under a ring that runs.
            self.over = Some(Over::Forgetful);
            return;
        }
        if let Some(Pending::Opening(token, ..)) =
            conn.pending.take_if(|pending| matches!(pending, Pending::Opening(..)))
        {
            self.refuse("starting a ring", &Refused::Slow(PATIENCE));
            return self.reply(token, Reply::Failed);
        }
        let waits = |pending: &mut Pending| {
            matches!(pending, Pending::Looking(..) | Pending::Mapping(..) | Pending::Inflight(..))
        };
        if let Some(
            Pending::Looking(token, ..) | Pending::Mapping(token, ..) | Pending::Inflight(token, ..),
        ) = conn.pending.take_if(waits)
        {
            let why = Refused::Slow(PATIENCE);
            self.refused_memory(None, &why);
            self.asked(token, Err(why));
        }
    }

    /// A worker has what it was told.
    pub(crate) fn worker_has(&mut self, order: Order) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Told(token, pending)) if pending == order => self.reply(token, Reply::Done),
            other => conn.pending = other,
        }
    }

    /// The kick of a ring that control hands to a worker.
    pub(crate) fn kick(&self, index: u16) -> Option<Arc<ClientFd>> {
        self.conn.as_ref()?.rings.get(&index)?.kick.clone()
    }

    /// Memory is registered, or not.
    pub(crate) fn memory_done(&mut self, result: Result<(), SessionError>) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Memory(token)) => {
                if let Some(files) = &mut conn.files {
                    files.changed(result.is_ok());
                }
                match &result {
                    Ok(()) => self.notes.append(&mut self.registering),
                    Err(why) => self.refused_memory(None, &Told(why)),
                }
                let reply = self.checked("memory", result);
                self.reply(token, reply.unwrap_or(Reply::Failed));
            }
            other => conn.pending = other,
        }
    }

    /// A ring has stopped.
    pub(crate) fn stopped(&mut self, index: u16, next: Option<u16>, lent: &mut Lent<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let Some(ring) = conn.rings.get_mut(&index) else { return };
        ring.stage = Stage::Stopped;
        // What a killed server left and nobody did before it stopped is to be done when it is started again.
        match ring.size {
            // Of one that broke what it had is nothing any more.
            Some(size) if ring.broken => conn.own.forget(index, size),
            Some(size) => ring.killed |= conn.own.holds(index, size),
            None => {}
        }
        // One that broke is started by its client and by nobody else: it would go on behind what broke it, which is answered never.
        ring.paused &= !ring.broken;
        ring.resumes &= !ring.broken;
        if let Some(next) = next {
            ring.base = next;
        }
        let base = ring.base;
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Base(token, ring)) if ring == index => {
                if let Some(ring) = self.ring(index) {
                    ring.kick = None;
                }
                self.reply(token, Reply::RingBase(base));
            }
            Some(Pending::Disable(token, ring)) if ring == index => self.reply(token, Reply::Done),
            other => conn.pending = other,
        }
        self.resume(index, lent);
        self.settle_reset(lent);
    }

    /// A ring goes on that was to stand still and has stopped too late for that, unless its client wants otherwise by now.
    fn resume(&mut self, index: u16, lent: &mut Lent<'_>) {
        let resumes = self.ring(index).is_some_and(|ring| core::mem::take(&mut ring.resumes));
        let pending = self.conn.as_ref().and_then(|conn| conn.pending.as_ref());
        let stays = matches!(pending, Some(Pending::Reset(_) | Pending::Start(_) | Pending::Forgetting(..)));
        if let Some(key) = self.key.filter(|_| resumes && !stays) {
            self.start_again(key, index, lent);
        }
    }

    /// What the session before left on this connection is cleared away, as between two clients.
    pub(crate) fn cleared(&mut self, lent: &mut Lent<'_>) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Start(token)) => {
                conn.forget_rings();
                self.begin_anew(token, Anew::Start, lent);
            }
            other => conn.pending = other,
        }
    }

    /// Answers a reset once no ring runs any more.
    pub(super) fn settle_reset(&mut self, lent: &mut Lent<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let Some(Pending::Reset(token)) = conn.pending else { return };
        if conn.rings.values().any(|r| r.stage != Stage::Stopped) {
            return;
        }
        conn.pending = None;
        conn.forget_rings();
        self.begin_anew(token, Anew::Reset, lent);
    }

    /// What was in flight on rings of which none runs is nothing any more. That is written where their client keeps it, before the client is
    /// answered; the client's memory takes what time it does, so the lane writes it.
    pub(super) fn begin_anew(&mut self, token: Token, anew: Anew, lent: &mut Lent<'_>) {
        let inflight = self.conn.as_mut().and_then(|conn| conn.inflight.as_mut());
        let journals = inflight.map(Inflight::begin_anew).unwrap_or_default();
        if journals.is_empty() {
            return self.begun_anew(token, anew, lent);
        }
        if self.at_lane > 0 {
            self.over = Some(Over::Slow);
            return;
        }
        let order = self.order(lent);
        self.pend(Pending::Forgetting(token, order.number, lent.now + PATIENCE, anew));
        inflight::forget(order, journals);
    }

    fn begun_anew(&mut self, token: Token, anew: Anew, lent: &mut Lent<'_>) {
        match anew {
            Anew::Inflight(rings, size) => return self.give_inflight(token, rings, size),
            Anew::Reset => {
                if let Some(key) = self.key {
                    let _ = lent.control.set_features(key, 0);
                }
            }
            Anew::Start => {
                if let Some(conn) = &mut self.conn {
                    conn.inflight = None;
                    if let Some(files) = &mut conn.files {
                        files.clear();
                    }
                }
            }
        }
        self.reply(token, Reply::Done);
    }
}
