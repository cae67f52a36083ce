//! What a session registers.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_core::server::control::{MemoryChange, NewRegion, RegionMemory, SessionError};
use nvme_core::server::message::SessionKey;
use nvme_l4re::kernel::{Cap, L4Error};
use nvme_platform::{Time, Window};
use nvme_policy::Dataspaces;
use nvme_session::virtqueue::Broken;

use super::Server;
use super::calls::Outcome;
use super::patience::{MAPPING_PATIENCE, PATIENCE};
use crate::message::{Register, number, refusal};
use crate::session::Run;
use crate::session::memory::{Change, Dataspace, Place, Refused, Stage, change, is_heir};
use crate::{Kernel, Output};

/// Why nothing more is taken on when the server's own memory runs out.
const SHORT: &str = "the server is short of memory; raise its quota";
/// Capabilities of a session's to its dataspaces, for each that it may have: there are different rights, and different clients, one after
/// the other.
pub(super) const CAPS_EACH: usize = 2;

/// What becomes of a dataspace that a client wants to register.
enum Admitted {
    /// It is taken, and registering it has begun.
    Begun,
    /// It is registered already.
    Known,
    /// Something has to end first.
    Later,
}

impl<K: Kernel, O: Output> Server<K, O> {
    pub(super) fn register(
        &mut self,
        slot: usize,
        register: Register,
        cap: &mut Option<Cap>,
        since: Time,
        now: Time,
    ) -> Outcome {
        // Whose capability was taken is the one that is worked on.
        let Some(dataspace) = *cap else {
            return match self.registered(slot, now) {
                // Others' calls are not to wait for a device that does not come back to life. It goes on without the caller.
                Outcome::Wait if now - since >= MAPPING_PATIENCE && self.is_mapping(slot) => {
                    self.restoring.push(slot);
                    self.refused(slot, now, "a dataspace", &"it takes too long");
                    Outcome::Reply(refusal(L4Error::BUSY))
                }
                outcome => outcome,
            };
        };
        match self.admit(slot, register, dataspace, since, now) {
            Ok(Admitted::Begun) => {
                *cap = None;
                Outcome::Step
            }
            Ok(Admitted::Later) => Outcome::Wait,
            Ok(Admitted::Known) => Outcome::Reply(number(0)),
            Err(why) => {
                self.refused(slot, now, "a dataspace", &why);
                Outcome::Reply(refusal(why.code()))
            }
        }
    }

    /// Judges a dataspace.
    fn admit(
        &mut self,
        slot: usize,
        register: Register,
        cap: Cap,
        since: Time,
        now: Time,
    ) -> Result<Admitted, Refused> {
        let here = |code| move |why| Refused::Here(code, why);
        let gone = Refused::Here(L4Error::NOENT, "it is gone");
        let Some(session) = self.sessions.get_mut(slot) else { return Err(gone) };
        let Some(key) = session.key else { return Err(here(L4Error::NODEV)("its device is away")) };
        if session.change.is_some() {
            let over = now - since >= PATIENCE;
            return if over {
                Err(here(L4Error::BUSY)("its memory is being mapped"))
            } else {
                Ok(Admitted::Later)
            };
        }
        // Whatever it is, it answers to nobody before we know that it is harmless.
        let kernel = &mut self.kernel;
        // Two names may have been given to one dataspace.
        let known = self.trusted.iter().enumerate().filter(|(_, known)| kernel.same(**known, cap));
        let (places, caps): (Vec<usize>, Vec<Cap>) = known.map(|(place, cap)| (place, *cap)).unzip();
        let (trusted, ours) = (Dataspaces::of(&places), caps.first().copied());
        let rules = self.control.session(key).ok_or(Refused::Away)?.registry().config();
        rules.admits(ours.is_some() || kernel.is_memory(cap), trusted).map_err(SessionError::Memory)?;
        let info = match kernel.info(cap) {
            Ok(info) => Some(info),
            Err(L4Error::NOSYS) if ours.is_some() => None,
            Err(code) => return Err(here(code)("it does not say what it is")),
        };
        let place = Place::new(register, info).map_err(|code| here(code)("it is not as large as that"))?;
        if !kernel.has_reserve() {
            return Err(here(L4Error::NOMEM)(SHORT));
        }
        // The one that we were started with may be for recognising it, and no more: then the client's rights are better.
        let ours = ours.filter(|ours| !place.writable || kernel.info(*ours).is_ok_and(|info| info.writable));
        // What its client's end took away is not in the way, and does not count. L4Re may have the same memory in the new one, and
        // maps it once: so it goes first.
        self.take_away(slot);
        let kernel = &self.kernel;
        let Some(session) = self.sessions.get_mut(slot) else { return Err(gone) };
        if session.change.is_some() {
            return Ok(Admitted::Later);
        }
        let known = session.memory.iter().find(|ds| kernel.same(ds.cap, cap)).map(|ds| ds.id);
        let (id, epoch) = (known.unwrap_or(self.next_dataspace), session.epoch);
        // What is registered just so is the same; one of an older epoch is another client's.
        if session.memory.iter().any(|ds| (ds.id, ds.epoch, ds.place) == (id, epoch, place)) {
            return Ok(Admitted::Known);
        }
        let heir = is_heir(&session.memory, &place, epoch);
        let stays = session.memory.iter().filter(|ds| !heir || ds.epoch == epoch);
        let mut dataspace = Dataspace { cap, source: cap, id, trusted, place, epoch, owners: Vec::new() };
        // What the rules refuse is not attached first: that takes time. They are asked again when it is attached.
        let exact = !session.stale && !heir;
        let (_, wanted) = change(stays.clone(), core::slice::from_ref(&dataspace), exact);
        match self.control.plan_memory(key, &wanted) {
            Ok(_) => {}
            // What control is at ends by itself.
            Err(SessionError::Busy) if now - since < PATIENCE => return Ok(Admitted::Later),
            Err(why) => return Err(why.into()),
        }
        // One slot does for the same capability, if it is the same client's.
        let writable = place.writable;
        let alike = |ds: &&Dataspace| ds.id == id && ds.epoch == epoch && ds.place.writable == writable;
        let shared = stays.clone().find(alike).map(|ds| ds.cap);
        let caps: BinaryHeap<Cap> = stays.clone().map(|ds| ds.cap).collect();
        let mut caps = caps.into_sorted_vec();
        caps.dedup();
        let full = caps.len() >= CAPS_EACH * usize::from(session.policy.ds_max().get());
        let older = |ds: &&Dataspace| full && ds.id == id && ds.place.writable == writable;
        let shared = shared.or_else(|| stays.clone().find(older).map(|ds| ds.cap));
        if shared.is_none() && full {
            return Err(here(L4Error::NOMEM)("too many capabilities to its dataspaces"));
        }
        if heir {
            // A queue that runs is in what goes.
            let busy = |code| here(code)("what the session had in flight does not end");
            if !self.vacate(slot, since, now).map_err(busy)? {
                return Ok(Admitted::Later);
            }
            self.forget(slot, |_, ds| ds.epoch != epoch);
        }
        let Some(session) = self.sessions.get_mut(slot) else { return Err(gone) };
        self.next_dataspace += u64::from(known.is_none());
        dataspace.cap = shared.unwrap_or(cap);
        dataspace.source = ours.or(shared).unwrap_or(cap);
        session.change = Some(Change::new(alloc::vec![dataspace]));
        if shared.is_some() {
            self.kernel.release(cap);
        }
        Ok(Admitted::Begun)
    }

    /// Sees that no queue runs in what is about to go. One that does not run yet stays as it was set up: whether its rings are still
    /// there is looked at when it starts.
    fn vacate(&mut self, slot: usize, since: Time, now: Time) -> Result<bool, L4Error> {
        let idle = self.sessions.get(slot).is_none_or(|session| session.run == Run::Idle);
        if idle { Ok(true) } else { self.clear_device(slot, since, now) }
    }

    /// Takes what is to go out of what the session registered. Control hears of it with the next change.
    pub(super) fn forget(&mut self, slot: usize, goes: impl Fn(&K, &Dataspace) -> bool) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let all = core::mem::take(&mut session.memory).into_iter();
        let (gone, stays): (Vec<_>, Vec<_>) = all.partition(|ds| goes(&self.kernel, ds));
        session.memory = stays;
        session.stale |= !gone.is_empty();
        self.leaving.extend(gone.into_iter().map(|ds| (ds.cap, ds.owners)));
    }

    /// Takes the next step of registering what was admitted.
    fn registered(&mut self, slot: usize, now: Time) -> Outcome {
        match self.change_step(slot) {
            None if self.is_mapping(slot) => Outcome::Wait,
            None => Outcome::Step,
            Some(Ok(())) => Outcome::Reply(number(0)),
            Some(Err(why)) => {
                self.refused(slot, now, "a dataspace", &why);
                Outcome::Reply(refusal(why.code()))
            }
        }
    }

    fn is_mapping(&self, slot: usize) -> bool {
        let change = self.sessions.get(slot).and_then(|s| s.change.as_ref());
        change.is_some_and(|change| matches!(change.stage, Stage::Mapping))
    }

    /// Registers again what a static client's session had before its device went.
    pub(super) fn restore(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let all = core::mem::take(&mut session.memory);
        if !all.is_empty() && session.change.is_none() {
            session.change = Some(Change::new(all));
            self.restoring.push(slot);
        }
    }

    /// Takes the next steps of what no call waits for.
    pub(super) fn restore_step(&mut self, now: Time) {
        for at in (0..self.restoring.len()).rev() {
            let Some(&slot) = self.restoring.get(at) else { continue };
            if let Some(result) = self.change_step(slot) {
                self.restoring.swap_remove(at);
                self.stirred = true;
                let stale = self.sessions.get(slot).is_some_and(|s| s.stale);
                if let Err(why) = result
                    && !stale
                {
                    self.refused(slot, now, "what it had registered", &why);
                }
            }
        }
    }

    /// Takes the next step of a change, and says what came of it when it is over.
    fn change_step(&mut self, slot: usize) -> Option<Result<(), Refused>> {
        let Some(session) = self.sessions.get_mut(slot) else { return Some(Err(Refused::Away)) };
        let Some(change) = &mut session.change else { return Some(Err(Refused::Away)) };
        match &change.stage {
            Stage::Mapping => return None,
            Stage::Over(result) => {
                let result = *result;
                self.change_over(slot, result);
                return Some(result);
            }
            Stage::Attaching => {}
        }
        if let Some((claim, owner)) = change.regions.get(change.windows.len()) {
            let dataspace = change.new.get_mut(*owner)?;
            // The length was checked against `usize`.
            let len = usize::try_from(claim.len).unwrap_or(usize::MAX);
            match self.kernel.attach(dataspace.source, claim.offset, len, dataspace.place.writable) {
                Ok(window) => {
                    dataspace.owners.push(Arc::downgrade(window.owner()));
                    change.windows.push(window);
                    return None;
                }
                Err(why) => {
                    let result = Err(Refused::Kernel(why));
                    self.change_over(slot, result);
                    return Some(result);
                }
            }
        }
        let (first, wanted) = self::change(session.memory.iter(), &change.new, !session.stale);
        let windows = core::mem::take(&mut change.windows);
        change.stage = Stage::Mapping;
        let key = session.key;
        let begun = match key {
            Some(key) => self.begin(key, &wanted, first, windows),
            None => Err(Refused::Away),
        };
        match begun {
            Ok(()) => {
                self.sessions.get_mut(slot)?.stale = false;
                None
            }
            Err(why) => {
                self.change_over(slot, Err(why));
                Some(Err(why))
            }
        }
    }

    /// Has control do what is attached by now. The windows are those of the regions from `first` on.
    fn begin(
        &mut self,
        key: SessionKey,
        wanted: &MemoryChange,
        first: usize,
        windows: Vec<Window>,
    ) -> Result<(), Refused> {
        let plan = self.control.plan_memory(key, wanted)?;
        let view = |new: &NewRegion| {
            let pages = windows.get(new.index.checked_sub(first)?)?.clone();
            Some(RegionMemory { len: pages.len(), pages, skip: 0 })
        };
        // One that is missing is missed by control.
        let memory = plan.new_regions().iter().map_while(view).collect();
        self.control.change_memory(&plan, memory)?;
        self.control_at = Some(Time::default());
        Ok(())
    }

    fn change_over(&mut self, slot: usize, result: Result<(), Refused>) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(change) = session.change.take() else { return };
        if result.is_ok() {
            session.memory.extend(change.new);
        } else {
            drop(change.windows);
            self.leaving.extend(change.new.into_iter().map(|ds| (ds.cap, ds.owners)));
        }
        self.sweep();
    }

    /// Memory of some client's is gone: its queue is broken. What it asked for was about zeroes, and nobody is to see it.
    #[cold]
    pub(super) fn memory_vanished(&mut self, now: Time) {
        let sessions = self.control.sessions();
        let failed: Vec<_> =
            sessions.filter(|(_, s)| s.registry().any_failed()).map(|(key, _)| key).collect();
        for key in failed {
            self.control.break_session(key, Broken::MemoryGone);
        }
        self.control_at = Some(now);
    }

    /// Control is done with a change.
    pub(super) fn memory_done(&mut self, slot: usize, result: Result<(), SessionError>) {
        if let Some(change) = self.sessions.get_mut(slot).and_then(|s| s.change.as_mut()) {
            change.stage = Stage::Over(result.map_err(Refused::Control));
        }
        self.sweep();
    }
}
