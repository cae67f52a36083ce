//! Log pages (5.14).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::admin::nature::padded;
use crate::admin::{Answer, Events, Nature};
use crate::map::Hits;
use crate::shared::Shared;
use crate::transfer::Dma;
use crate::wire::{Sqe, Status};
use crate::world::View;

/// Log page identifiers (figure 193).
const ERRORS: u8 = 0x01;
const SMART: u8 = 0x02;
const FIRMWARE: u8 = 0x03;
const NAMESPACES: u8 = 0x04;

/// Entries of the error log (Identify Controller, ELPE, plus one).
pub(crate) const ERRORS_MAX: usize = 64;
/// Most namespaces that the list of changed ones holds.
const CHANGED_MAX: usize = 1024;
/// Retain Asynchronous Event, in dword 10.
const RETAIN: u32 = 1 << 15;
/// Kelvin: what a healthy drive has.
const TEMPERATURE: u16 = 310;

/// What a drive says of its health, as far as it does not count it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// Critical warning bits.
    pub critical: u8,
    /// Kelvins.
    pub temperature: u16,
    /// Percent.
    pub spare: u8,
    /// Percent.
    pub used: u8,
}

impl Default for Health {
    fn default() -> Self {
        Self { critical: 0, temperature: TEMPERATURE, spare: 100, used: 0 }
    }
}

/// What the log pages are made of.
#[derive(Default)]
pub(crate) struct Logs {
    pub(crate) health: Health,
    count: u64,
    /// The newest first: count, submission queue, command, status, namespace.
    errors: VecDeque<(u64, u16, u16, Status, u32)>,
    changed: Vec<u32>,
}

impl Logs {
    /// Remembers a failed admin command.
    pub(crate) fn error(&mut self, queue: u16, cid: u16, status: Status, nsid: u32) {
        self.count += 1;
        self.errors.truncate(ERRORS_MAX - 1);
        self.errors.push_front((self.count, queue, cid, status, nsid));
    }

    pub(crate) fn namespace_changed(&mut self, nsid: u32) {
        if self.changed.len() <= CHANGED_MAX && !self.changed.contains(&nsid) {
            self.changed.push(nsid);
            self.changed.sort_unstable();
        }
    }

    /// Error Information (5.14.1.1).
    fn error_page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(ERRORS_MAX * 64);
        for (count, queue, cid, status, nsid) in &self.errors {
            let mut entry = [0u8; 64];
            put(&mut entry, 0, &count.to_le_bytes());
            put(&mut entry, 8, &queue.to_le_bytes());
            put(&mut entry, 10, &cid.to_le_bytes());
            put(&mut entry, 12, &(status.0 << 1).to_le_bytes());
            // Parameter error location: not known.
            put(&mut entry, 14, &u16::MAX.to_le_bytes());
            put(&mut entry, 24, &nsid.to_le_bytes());
            page.extend_from_slice(&entry);
        }
        page.resize(ERRORS_MAX * 64, 0);
        page
    }

    /// Changed Namespace List (5.14.1.4).
    fn changed_page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(4096);
        if self.changed.len() > CHANGED_MAX {
            page.extend_from_slice(&u32::MAX.to_le_bytes());
        } else {
            self.changed.iter().for_each(|nsid| page.extend_from_slice(&nsid.to_le_bytes()));
        }
        page.resize(4096, 0);
        page
    }

    /// SMART / Health Information (5.14.1.2).
    fn smart_page(&self, shared: &Shared) -> Vec<u8> {
        let c = &shared.counters;
        let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let mut page = [0u8; 512];
        let Health { critical, temperature, spare, used } = self.health;
        put(&mut page, 0, &[critical]);
        put(&mut page, 1, &temperature.to_le_bytes());
        // Available spare and its threshold, in percent; what is used.
        put(&mut page, 3, &[spare, 10, used]);
        for (at, value) in [
            // Data units are thousands of 512 bytes, rounded up.
            (32, load(&c.bytes_read).div_ceil(512_000)),
            (48, load(&c.bytes_written).div_ceil(512_000)),
            (64, load(&c.reads)),
            (80, load(&c.writes)),
            (112, load(&c.power_cycles)),
            (144, load(&c.unsafe_shutdowns)),
            (160, load(&c.media_errors)),
            (176, self.count),
        ] {
            put(&mut page, at, &value.to_le_bytes());
        }
        page.to_vec()
    }
}

/// Get Log Page (5.14).
pub(super) fn get(
    logs: &mut Logs,
    events: &mut Events,
    nature: &Nature,
    shared: &Shared,
    view: &View,
    sqe: &Sqe,
) -> Result<Answer, Status> {
    let id = sqe.dword(10) as u8;
    let page = match id {
        ERRORS => logs.error_page(),
        SMART if matches!(sqe.nsid.get(), 0 | u32::MAX) => logs.smart_page(shared),
        // One for the controller, none for each namespace (LPA bit 0 is clear).
        SMART => return Err(Status::INVALID_FIELD),
        FIRMWARE => firmware_page(nature),
        NAMESPACES => logs.changed_page(),
        _ => return Err(Status::LOG_PAGE),
    };
    let dwords = u64::from(sqe.dword(10) >> 16) | u64::from(sqe.dword(11) & 0xffff) << 16;
    let offset = u64::from(sqe.dword(12)) | u64::from(sqe.dword(13)) << 32;
    let len = usize::try_from((dwords + 1) * 4).unwrap_or(usize::MAX);
    let offset = usize::try_from(offset).ok().filter(|o| o % 4 == 0).ok_or(Status::INVALID_FIELD)?;
    let rest = page.get(offset..).ok_or(Status::INVALID_FIELD)?;
    // What is beyond the page's end is not written.
    let part = rest.get(..len).unwrap_or(rest);
    Dma { view, hits: &mut Hits::default() }.store_all(sqe, part)?;
    if sqe.dword(10) & RETAIN == 0 {
        if id == NAMESPACES {
            logs.changed.clear();
        }
        events.heard(id);
    }
    Ok(Answer::Done(0))
}

/// Firmware Slot Information (5.14.1.3): slot 1 is active, and the only one.
fn firmware_page(nature: &Nature) -> Vec<u8> {
    let mut page = [0u8; 512];
    put(&mut page, 0, &[1]);
    put(&mut page, 8, &padded::<8>(&nature.firmware));
    page.to_vec()
}

/// Copies a field into a page; one that does not fit is left out.
fn put(page: &mut [u8], at: usize, field: &[u8]) {
    if let Some(to) = page.get_mut(at..at + field.len()) {
        to.copy_from_slice(field);
    }
}
