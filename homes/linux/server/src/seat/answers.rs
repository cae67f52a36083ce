//! What is answered later: control, a worker or a lane has done what a client asked for.

use std::sync::Arc;

use nvme_core::server::control::{MemoryPlan, SessionError};
use nvme_linux::dispose::ClientFd;
use nvme_linux::vhost::{Reply, Token};

use super::{Order, PATIENCE, Pending, Seat};
use crate::lent::Lent;
use crate::regions::{self, Checked, Found, Refused, Step, Wanted};
use crate::rings::Stage;

impl Seat {
    /// The lane has found something: the next step of what the client asked for, or its refusal.
    pub(crate) fn found(&mut self, found: Found, lent: &mut Lent<'_>) {
        self.at_lane = self.at_lane.saturating_sub(1);
        let Some(conn) = &mut self.conn else { return found.discard() };
        let awaited = |pending: &mut Pending| match pending {
            Pending::Looking(_, order, ..) | Pending::Mapping(_, order, ..) => *order == found.order,
            _ => false,
        };
        // Otherwise it comes too late, or for another client.
        let Some(pending) = conn.pending.take_if(awaited) else { return found.discard() };
        match (pending, found.result) {
            (Pending::Looking(token, _, until, wanted), Ok(Step::Checked(checked))) => {
                let plan = self.plan(token, wanted, checked, lent);
                if let Some((plan, checked)) = plan {
                    let order = self.order(lent);
                    regions::map(order, &plan, checked);
                    self.pend(Pending::Mapping(token, self.orders, until, Box::new(plan)));
                }
            }
            (Pending::Mapping(token, _, _, plan), Ok(Step::Mapped(memory))) => {
                let result = lent.control.change_memory(&plan, memory).map_err(Refused::from);
                self.asked(token, result);
            }
            (Pending::Looking(token, ..) | Pending::Mapping(token, ..), result) => {
                let why = result.err().map_or(Refused::Session(SessionError::Busy), Refused::File);
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
            Ok(plan) if !plan.new_regions().is_empty() => return Some((plan, checked)),
            Ok(plan) => {
                let result = lent.control.change_memory(&plan, Vec::new()).map_err(Refused::from);
                self.asked(token, result);
            }
            Err(why) => self.asked(token, Err(why)),
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
        let waits = |pending: &mut Pending| matches!(pending, Pending::Looking(..) | Pending::Mapping(..));
        if let Some(Pending::Looking(token, ..) | Pending::Mapping(token, ..)) = conn.pending.take_if(waits) {
            self.asked(token, Err(Refused::Slow(PATIENCE)));
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
                let reply = self.checked("memory", result);
                self.reply(token, reply.unwrap_or(Reply::Failed));
            }
            other => conn.pending = other,
        }
    }

    /// A ring has stopped.
    pub(crate) fn stopped(&mut self, index: u16, next: Option<u16>, lent: &mut Lent<'_>) {
        let Some(ring) = self.ring(index) else { return };
        ring.stage = Stage::Stopped;
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
        self.settle_reset(lent);
    }

    /// What the session before left on this connection is cleared away, as between two clients.
    pub(crate) fn cleared(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Start(token)) => {
                conn.rings.clear();
                self.reply(token, Reply::Done);
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
        conn.rings.clear();
        if let Some(key) = self.key {
            let _ = lent.control.set_features(key, 0);
        }
        self.reply(token, Reply::Done);
    }
}
