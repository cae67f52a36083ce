//! A session's memory changes: new regions are mapped for DMA in steps, the worker gets the new table, and what is
//! gone from it is unmapped once nothing in flight lies there. Only then the client is told.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaRights, Iova, PAGE, Window};
pub use nvme_session::dataspace::{MemoryChange, NewRegion};
use nvme_session::dataspace::{Plan, RegistryError};

use super::super::message::{NewTable, SessionKey, ToWorker};
use super::anomaly::Anomaly;
use super::error::SessionError;
use super::job::{Mapping, MemoryJob, RegionMemory, Stage, map_step};
use super::session::{Session, SessionPair};
use super::{Control, Event, PAIR_DEPTH, Unit};

/// A change of a session's memory, planned: what [`Control::plan_memory`] says is to be mapped, and what becomes of the rest.
/// It is of use once, for that session as it was then.
#[derive(Debug)]
pub struct MemoryPlan {
    key: SessionKey,
    plan: Plan,
}

impl MemoryPlan {
    /// What the home maps, in this order.
    pub fn new_regions(&self) -> &[NewRegion] {
        self.plan.new_regions()
    }
}

/// How many regions there may be, those that are leaving included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regions {
    /// What each static client has for certain.
    pub fixed: usize,
    /// What each other session has for certain.
    pub dynamic: usize,
    /// What all of them have beyond that, together.
    pub common: usize,
}

impl Default for Regions {
    /// No bound but each session's own.
    fn default() -> Self {
        Self { fixed: usize::MAX, dynamic: usize::MAX, common: 0 }
    }
}

impl Control {
    /// What a change of a session's memory comes to, or why it is refused. Nothing is changed yet.
    pub fn plan_memory(&self, key: SessionKey, change: &MemoryChange) -> Result<MemoryPlan, SessionError> {
        let session = self.can_work(key)?;
        if session.is_lost() && !matches!(change, MemoryChange::Remove(..)) {
            return Err(SessionError::DeviceLost);
        }
        let plan = session.registry.plan(change, self.room_for_regions(key)).map_err(SessionError::Memory)?;
        self.memory_allowed(key, &plan)?;
        Ok(MemoryPlan { key, plan })
    }

    /// Changes a session's memory as planned. `memory` is the home's part: our views of the plan's new regions, in its order.
    /// Nothing is changed when one is missing, or when the plan does not fit any more. Ends in [`Event::Done`].
    pub fn change_memory(
        &mut self,
        plan: &MemoryPlan,
        memory: Vec<RegionMemory>,
    ) -> Result<(), SessionError> {
        let MemoryPlan { key, plan } = plan;
        self.can_work(*key)?;
        self.memory_allowed(*key, plan)?;
        let room = self.room_for_regions(*key);
        let Some(session) = self.sessions.get_mut(key) else { return Err(SessionError::Ended) };
        if memory.len() != plan.new_regions().len() {
            return Err(SessionError::Memory(RegistryError::BadMapping));
        }
        session.registry.apply(plan, room).map_err(SessionError::Memory)?;
        let mapping = |(new, memory): (&NewRegion, RegionMemory)| {
            let rights = if new.writable { DmaRights::ReadWrite } else { DmaRights::Read };
            Mapping { slot: new.slot, memory, rights, at: None, done: 0 }
        };
        let map = plan.new_regions().iter().zip(memory).map(mapping).collect();
        let (stage, added, removed) = (Stage::Mapping, Vec::new(), plan.removed().to_vec());
        session.job = Some(MemoryJob { stage, map, added, removed, result: Ok(()), asked: true });
        self.more = true;
        Ok(())
    }

    /// How many regions a session may have now: its share, and what nobody else has of what is common.
    fn room_for_regions(&self, key: SessionKey) -> usize {
        let Regions { fixed, dynamic, common } = self.regions;
        let share = |session: &Session| if session.is_static() { fixed } else { dynamic };
        let others = self.sessions.iter().filter(|(other, _)| **other != key);
        let beyond =
            others.map(|(_, s)| s.registry.len().saturating_sub(share(s))).fold(0, usize::saturating_add);
        self.sessions.get(&key).map_or(0, share).saturating_add(common.saturating_sub(beyond))
    }

    /// Takes everything away that a session registered. Nobody waits for it but the session's end.
    pub(super) fn remove_everything(&mut self, key: SessionKey) {
        let Some(session) = self.known(key) else { return };
        let removed = session.registry.remove_all();
        let (stage, map, added) = (Stage::Mapping, VecDeque::new(), Vec::new());
        session.job = Some(MemoryJob { stage, map, added, removed, result: Ok(()), asked: false });
        self.more = true;
    }

    /// Takes the next step of a change.
    pub(super) fn poll_memory(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return self.out.anomaly(Anomaly::NoSession(key));
        };
        let controller = session.controller();
        // Most sessions that are looked at have no change under way, or wait for their worker.
        let Some(job) = session.job.as_mut().filter(|job| job.has_steps()) else { return };
        let Some(unit) = self.units.get_mut(usize::from(controller)) else {
            return self.out.anomaly(Anomaly::NoController(controller));
        };
        let Some(mut mapping) = job.map.pop_front() else {
            self.hand_over_table(key);
            return;
        };
        let dma = unit.controller_mut().device().dma();
        let mapped = match map_step(&mut mapping, dma) {
            Ok(false) => {
                job.map.push_front(mapping);
                self.more = true;
                return;
            }
            Ok(true) => mapping.at.ok_or(DmaError::BadRange),
            Err(why) => Err(why),
        };
        self.more = true;
        // What is missing is said for the whole change, not for the step that was one too many, and with what the session is
        // going to need of the driver.
        let mapped = mapped.map_err(|why| match why {
            DmaError::LockLimit { need, allowed } => {
                let pair = if session.pair == SessionPair::None {
                    unit.controller().pair_bytes(PAIR_DEPTH)
                } else {
                    0
                };
                let need = need.saturating_add(job.unmapped(&mapping)).saturating_add(pair);
                DmaError::LockLimit { need, allowed }
            }
            other => other,
        });
        let Mapping { slot, memory, at, .. } = mapping;
        let RegionMemory { pages, skip, len } = memory;
        let registered = match mapped {
            Ok(at) => {
                let window = pages.sub(skip, len).map_err(|_| RegistryError::BadMapping);
                let iova = Iova(at.0 + skip as u64);
                let mapped = window.and_then(|window| session.registry.mapped(slot, window, iova));
                mapped.map_err(SessionError::Memory)
            }
            Err(why) => Err(SessionError::Dma(why)),
        };
        let Err(why) = registered else { return job.added.push(slot) };
        session.registry.abandon(slot);
        job.result = Err(why);
        for mapping in job.map.drain(..) {
            session.registry.abandon(mapping.slot);
        }
        // All of it, or nothing: what was to go stays. What is new was in no table, so it is drained at once.
        for slot in core::mem::take(&mut job.removed) {
            if session.registry.restore(slot).is_err() {
                self.out.anomaly(Anomaly::NoRegion(key, slot));
            }
        }
        for slot in job.added.drain(..) {
            match session.registry.withdraw(slot) {
                Ok(()) => job.removed.push(slot),
                Err(_) => self.out.anomaly(Anomaly::NoRegion(key, slot)),
            }
        }
        if let Some(at) = at {
            unmap(unit, key, (at, pages.len() as u64), pages);
        }
    }

    fn hand_over_table(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return self.out.anomaly(Anomaly::NoSession(key));
        };
        let workers = session.workers();
        let Some(job) = &mut session.job else { return self.out.anomaly(Anomaly::NoChange(key)) };
        session.generation += 1;
        job.stage = Stage::Draining(session.generation, workers.len().max(1));
        let (generation, removed) = (session.generation, job.removed.clone());
        let table = session.registry.table();
        session.set_waiting_tables(&table);
        if workers.is_empty() {
            return self.table_set(key, generation);
        }
        for worker in workers {
            let (table, removed) = (Arc::clone(&table), removed.clone());
            self.tell(worker, ToWorker::SetTable(NewTable { session: key, table, generation, removed }));
        }
    }

    /// Of what one worker has in flight nothing lies in what was removed. When that was the last: unmap it, and tell the client.
    pub(super) fn table_set(&mut self, key: SessionKey, generation: u64) {
        // What a worker says of a session that was given up meanwhile, or of a table before the last, comes too late.
        let Some(session) = self.sessions.get_mut(&key).filter(|s| !s.is_quarantined()) else { return };
        let due = |job: &mut MemoryJob| match &mut job.stage {
            Stage::Draining(of, left) if *of == generation => {
                *left -= 1;
                *left == 0
            }
            _ => false,
        };
        let Some(job) = session.job.take_if(due) else { return };
        let controller = session.controller();
        for slot in job.removed {
            let Some(gone) = session.registry.drained(slot) else {
                self.out.anomaly(Anomaly::NoRegion(key, slot));
                continue;
            };
            match self.units.get_mut(usize::from(controller)) {
                Some(unit) => {
                    let range = pages_around(gone.iova, gone.window.len() as u64);
                    unmap(unit, key, range, gone.window);
                }
                None => {
                    self.out.anomaly(Anomaly::NoController(controller));
                    core::mem::forget(gone.window);
                }
            }
        }
        if job.asked {
            self.events.push_back(Event::Done(key, job.result));
        }
        self.more = true;
    }
}

/// Takes a region away from the controller. What may still be mapped stays ours for ever.
fn unmap(unit: &mut Unit, key: SessionKey, (at, len): (Iova, u64), window: Window) {
    let unmapped = unit.controller_mut().device().dma().unmap(at, len);
    // A device that was cut off has no mappings.
    if unmapped.is_err() && !unit.is_cut_off() {
        nvme_platform::error!("session {}: memory could not be unmapped and is kept", key.0);
        core::mem::forget(window);
    }
}

/// The whole pages that were mapped for a region.
fn pages_around(iova: Iova, len: u64) -> (Iova, u64) {
    let page = PAGE as u64;
    let first = iova.0 & !(page - 1);
    (Iova(first), (iova.0 - first + len).next_multiple_of(page))
}
