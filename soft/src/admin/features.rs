//! Features (5.13, 5.21).

use crate::admin::{Answer, Nature};
use crate::shared::Shared;
use crate::wire::{Sqe, Status, feature};
use crate::world::View;

/// Asynchronous Event Configuration: Namespace Attribute Notices.
const NAMESPACE_NOTICES: u32 = 1 << 8;
/// Save, in dword 10 of Set Features.
const SAVE: u32 = 1 << 31;
/// Capabilities that Get Features reports (figure 184): the feature can be changed.
const CHANGEABLE: u32 = 1 << 2;

/// The features' present values.
pub(crate) struct Features {
    arbitration: u32,
    temperature: u32,
    error_recovery: u32,
    coalescing: u32,
    atomicity: u32,
    events: u32,
    write_cache: bool,
    pub(crate) submission_queues: u16,
    pub(crate) completion_queues: u16,
}

impl Features {
    pub(crate) fn new(nature: &Nature) -> Self {
        Self {
            arbitration: 0,
            temperature: 0x157,
            error_recovery: 0,
            coalescing: 0,
            atomicity: 0,
            events: NAMESPACE_NOTICES,
            write_cache: nature.write_cache,
            submission_queues: nature.queues,
            completion_queues: nature.queues,
        }
    }

    pub(crate) fn namespace_notices(&self) -> bool {
        self.events & NAMESPACE_NOTICES != 0
    }

    /// Number of queues as in dword 0: 0's based.
    fn queues(&self) -> u32 {
        let zero_based = |n: u16| u32::from(n.saturating_sub(1));
        zero_based(self.submission_queues) | zero_based(self.completion_queues) << 16
    }

    fn get(&self, nature: &Nature, id: u8, dword11: u32) -> Result<u32, Status> {
        Ok(match id {
            feature::ARBITRATION => self.arbitration,
            feature::POWER => 0,
            feature::TEMPERATURE => self.temperature,
            feature::ERROR_RECOVERY => self.error_recovery,
            feature::WRITE_CACHE if nature.write_cache => u32::from(self.write_cache),
            feature::QUEUES => self.queues(),
            feature::COALESCING => self.coalescing,
            feature::VECTOR if dword11 & 0xffff < u32::from(nature.vectors) => dword11 & 0xffff,
            feature::ATOMICITY => self.atomicity,
            feature::EVENTS => self.events,
            _ => return Err(Status::INVALID_FIELD),
        })
    }
}

/// Set Features (5.21).
pub(super) fn set(
    features: &mut Features,
    nature: &Nature,
    shared: &Shared,
    view: &View,
    sqe: &Sqe,
) -> Result<Answer, Status> {
    let (dword10, value) = (sqe.dword(10), sqe.dword(11));
    let id = dword10 as u8;
    // An unknown feature first, then what cannot be done with any.
    features.get(nature, id, value)?;
    if dword10 & SAVE != 0 {
        return Err(Status::NOT_SAVEABLE);
    }
    match id {
        feature::ARBITRATION => features.arbitration = value,
        // There is one power state.
        feature::POWER if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
        feature::TEMPERATURE => features.temperature = value & 0x003f_ffff,
        feature::ERROR_RECOVERY => {
            let nsid = sqe.nsid.get();
            if nsid != u32::MAX && view.namespace(nsid).is_none() {
                return Err(Status::INVALID_NAMESPACE);
            }
            features.error_recovery = value & 0xffff;
        }
        feature::WRITE_CACHE => {
            let on = value & 1 != 0;
            // What was written before is made durable, so that nothing volatile is left behind.
            if !on && features.write_cache {
                let durable = view
                    .namespaces
                    .iter()
                    .flatten()
                    .filter(|n| !n.read_only)
                    .all(|n| n.medium.flush(0, n.window.len() as u64).is_ok());
                if !durable {
                    return Err(Status::INTERNAL);
                }
            }
            features.write_cache = on;
            shared.change(|world| world.write_back = on);
        }
        feature::QUEUES => {
            if shared.queues.lock().iter().any(|s| s.cq.is_some()) {
                return Err(Status::SEQUENCE);
            }
            let (sq, cq) = (value as u16, (value >> 16) as u16);
            if sq == u16::MAX || cq == u16::MAX {
                return Err(Status::INVALID_FIELD);
            }
            features.submission_queues = (sq + 1).min(nature.queues);
            features.completion_queues = (cq + 1).min(nature.queues);
            let lie = shared.faults.as_ref().and_then(|f| f.granted());
            return Ok(Answer::Done(lie.unwrap_or(features.queues())));
        }
        feature::COALESCING => features.coalescing = value & 0xffff,
        feature::ATOMICITY => features.atomicity = value & 1,
        feature::EVENTS => features.events = value & (0xff | NAMESPACE_NOTICES),
        // Power state 0, and the vectors' configuration, which does nothing.
        _ => {}
    }
    Ok(Answer::Done(0))
}

/// Get Features (5.13).
pub(super) fn get(features: &Features, nature: &Nature, sqe: &Sqe) -> Result<Answer, Status> {
    let (id, select) = (sqe.dword(10) as u8, sqe.dword(10) >> 8 & 7);
    let now = features.get(nature, id, sqe.dword(11))?;
    Ok(Answer::Done(match select {
        0 => now,
        // Default, and saved, which is the default as nothing can be saved.
        1 | 2 => Features::new(nature).get(nature, id, sqe.dword(11))?,
        3 => CHANGEABLE,
        _ => return Err(Status::INVALID_FIELD),
    }))
}
