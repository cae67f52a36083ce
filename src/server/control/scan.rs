//! Controllers: bring-up, the scan of their partition tables, and what they report.

use alloc::collections::VecDeque;
use alloc::string::String;
use core::time::Duration;

use nvme_platform::Time;
use nvme_policy::{Access, Extent, Grant, Namespace};
use nvme_session::factory::{Medium, NamespaceEntry, PartitionEntry};
use nvme_session::memory::QuietBy;

use super::super::message::{PairId, SessionKey};
use super::{Control, Event};
use crate::disk::{ReadFailed, Scan, Step};
use crate::nvme::{self, Controller, NamespaceInfo, QueueQuiet, ScanError};

/// Most steps of one controller in one poll; the rest is done in the next.
const STEPS: usize = 256;
/// How long the scan at start is waited for.
const SCAN_WAIT: Duration = Duration::from_secs(60);
/// How long a scan waits for a queue pair that somebody else uses before it tries again.
const RETRY: Duration = Duration::from_millis(50);
/// How often a controller may refuse a scan a queue pair that nobody else uses.
const REFUSALS: u32 = 8;

/// What a controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControllerState {
    /// It is brought up.
    Starting,
    /// Its partition tables are read.
    Scanning,
    /// It serves.
    Serving,
    /// It is in trouble: some requests wait.
    Recovering,
    /// It is lost.
    Lost,
    /// It was shut down.
    Down,
}

impl ControllerState {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Scanning => "scanning",
            Self::Serving => "serving",
            Self::Recovering => "recovering",
            Self::Lost => "lost",
            Self::Down => "down",
        }
    }
}

struct Scanning {
    namespace: NamespaceInfo,
    /// Its reads carry it: one that was asked for another scan, which is over, may still be under way.
    token: u32,
    scan: Scan,
    /// Until when to wait for a queue pair.
    retry: Option<Time>,
    /// How often in a row the controller had no pair for it, though nobody else uses any.
    refused: u32,
}

/// A controller, and what the control role does with it.
pub(super) struct Unit {
    name: String,
    controller: Controller,
    state: ControllerState,
    scanning: Option<Scanning>,
    pending: VecDeque<Namespace>,
    /// How many scans were begun.
    scans: u32,
    /// A read is under way, be it of a scan that is over: one at a time.
    reading: bool,
    quiet: Option<QueueQuiet>,
}

impl Unit {
    pub(super) fn new(name: &str, controller: Controller) -> Self {
        Self {
            name: name.into(),
            controller,
            state: ControllerState::Starting,
            scanning: None,
            pending: VecDeque::new(),
            scans: 0,
            reading: false,
            quiet: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn controller(&self) -> &Controller {
        &self.controller
    }

    pub(super) fn controller_mut(&mut self) -> &mut Controller {
        &mut self.controller
    }

    pub(super) fn state(&self) -> ControllerState {
        self.state
    }

    /// The proof that a lost device does no more DMA, if there is one.
    pub(super) fn quiet(&self) -> Option<QueueQuiet> {
        self.quiet
    }

    /// Whether the device has no way to any memory.
    pub(super) fn is_cut_off(&self) -> bool {
        self.quiet.is_some_and(|quiet| quiet.by() == QuietBy::CutOff)
    }

    pub(super) fn lose(&mut self, quiet: Option<QueueQuiet>) {
        self.state = ControllerState::Lost;
        self.quiet = quiet;
        self.scanning = None;
        self.pending.clear();
    }

    /// What tells a namespace of its from others.
    fn medium(&self, info: &NamespaceInfo) -> Medium {
        let about = self.controller.info();
        let subsystem = match about.subsystem.as_str() {
            // Older than such names. These three are the subsystem's, too (Base 5.17.2.1).
            "" => alloc::format!("{:04x} {} {}", about.vendor, about.serial, about.model),
            name => name.into(),
        };
        Medium { subsystem, shared: info.shared, nsid: info.namespace().nsid, unique: info.unique }
    }

    pub(super) fn retry(&self) -> Option<Time> {
        self.scanning.as_ref().and_then(|s| s.retry)
    }

    fn is_starting(&self) -> bool {
        matches!(self.state, ControllerState::Starting | ControllerState::Scanning)
    }

    pub(super) fn shut_down(&mut self, now: Time) {
        if self.state != ControllerState::Lost {
            self.controller.shutdown(now);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, ControllerState::Down | ControllerState::Lost)
    }
}

impl Control {
    pub(super) fn poll_unit(&mut self, at: usize, now: Time) {
        for _ in 0..STEPS {
            let Some(unit) = self.units.get_mut(at) else { return };
            match unit.controller.poll(now) {
                Some(event) => self.unit_event(at, event, now),
                None if self.scan_step(at, now) => {}
                None => return,
            }
        }
        self.more = true;
    }

    fn unit_event(&mut self, at: usize, event: nvme::Event, now: Time) {
        let controller = at as u16;
        let Some(unit) = self.units.get_mut(at) else { return };
        match event {
            nvme::Event::Ready => {
                unit.state = ControllerState::Scanning;
                unit.pending = unit.controller.namespaces().iter().map(NamespaceInfo::namespace).collect();
            }
            nvme::Event::Failed { why, quiet } => {
                nvme_platform::error!("{}: {why}", unit.name);
                self.device_lost(controller, quiet);
            }
            nvme::Event::Gone => {
                nvme_platform::error!("{}: the controller is gone", unit.name);
                self.device_lost(controller, None);
            }
            nvme::Event::PairReady { token, pair } => self.pair_ready(controller, token, pair),
            nvme::Event::PairFailed { token, why } => self.pair_failed(controller, token, why),
            nvme::Event::PairDeleted { id, quiet } => {
                if !self.retire_deleted(PairId { controller, queue: id }) {
                    self.pair_deleted(controller, id, quiet);
                }
            }
            nvme::Event::PairRecreated { id, doorbells } => self.pair_recreated(controller, id, doorbells),
            nvme::Event::PairLost { id, why } => {
                nvme_platform::error!("{}: queue pair {id} is lost: {why}", unit.name);
                self.pair_lost(controller, id);
            }
            nvme::Event::Aborted { pair, cid, outcome } => {
                nvme_platform::debug!(
                    "{}: abort of {:#06x} on pair {}: {}",
                    unit.name.as_str(),
                    cid,
                    pair,
                    outcome.word()
                );
                self.aborted(controller, pair, cid, now);
            }
            nvme::Event::Reset { quiet } => {
                // It may have come back as another.
                self.namespaces_changed(at);
                self.reset_done(controller, quiet);
            }
            nvme::Event::ResetNeeded(why) => {
                nvme_platform::warn!("{}: a reset is needed: {why}", unit.name);
                self.reset_needed(controller, now);
            }
            nvme::Event::NamespacesChanged => self.namespaces_changed(at),
            nvme::Event::ScanRead { token, result } => self.scan_read(at, token, result, now),
            nvme::Event::Smart(smart) => nvme_platform::info!("{}: {smart:?}", unit.name),
            nvme::Event::ShutDown { clean } => {
                if !clean {
                    nvme_platform::warn!("{}: the controller did not confirm its shutdown", unit.name);
                }
                unit.state = ControllerState::Down;
            }
        }
    }

    /// The list of namespaces is another one: read all tables again, and tell the clients.
    fn namespaces_changed(&mut self, at: usize) {
        let Some(unit) = self.units.get_mut(at) else { return };
        let present: alloc::vec::Vec<Extent> =
            unit.controller.namespaces().iter().map(|n| n.extent).collect();
        unit.pending = present.iter().map(Extent::namespace).collect();
        unit.scanning = None;
        let grown = self.catalogue.keep_namespaces(at as u16, &present);
        // With other blocks, what a session holds would be other bytes, and transfers would have other lengths.
        let same = |n: &NamespaceInfo, s: &super::Session| {
            let extent = s.minted().grant().extent();
            n.namespace() == extent.namespace()
                && n.block_size() == extent.block_size()
                && unit.medium(n).may_be(s.minted().medium())
        };
        let gone = |s: &super::Session| {
            usize::from(s.controller()) == at && !unit.controller.namespaces().iter().any(|n| same(n, s))
        };
        let lost: alloc::vec::Vec<_> =
            self.sessions.iter().filter(|(_, s)| gone(s)).map(|(key, _)| *key).collect();
        for key in lost {
            self.lose_session(key);
        }
        for (session, grant) in grown {
            self.session_grows(SessionKey(session.number()), grant);
        }
        self.rescan_others(at);
    }

    /// What another controller shares with one that has lost it, or may have, can be had by that one now.
    pub(super) fn rescan_others(&mut self, at: usize) {
        for (_, unit) in self.units.iter_mut().enumerate().filter(|(other, _)| *other != at) {
            if !matches!(unit.state, ControllerState::Scanning | ControllerState::Serving) {
                // Its namespaces are about to be looked at, or never again.
                continue;
            }
            let current = unit.scanning.as_ref().map(|s| s.namespace.namespace());
            for info in unit.controller.namespaces() {
                let namespace = info.namespace();
                let comes = current == Some(namespace) || unit.pending.contains(&namespace);
                if info.shared && !self.catalogue.has(namespace) && !comes {
                    unit.pending.push_back(namespace);
                    self.more = true;
                }
            }
        }
    }

    /// Reads a namespace's partition table again before anything else is granted there.
    pub(super) fn rescan(&mut self, namespace: Namespace) {
        let Some(unit) = self.units.get_mut(usize::from(namespace.controller)) else { return };
        if !unit.pending.contains(&namespace) {
            unit.pending.push_back(namespace);
        }
        self.more = true;
    }

    /// Whether a step was made.
    fn scan_step(&mut self, at: usize, now: Time) -> bool {
        let Some(unit) = self.units.get_mut(at) else { return false };
        if !matches!(unit.state, ControllerState::Scanning | ControllerState::Serving) {
            return false;
        }
        let Some(scanning) = &mut unit.scanning else {
            let Some(next) = unit.pending.pop_front() else {
                if unit.state == ControllerState::Scanning {
                    unit.state = ControllerState::Serving;
                    self.check_scanned();
                }
                return false;
            };
            let info = unit.controller.namespaces().iter().find(|n| n.namespace() == next);
            unit.scans = unit.scans.wrapping_add(1);
            unit.scanning = info.map(|info| Scanning {
                namespace: *info,
                token: unit.scans,
                scan: Scan::new(&info.extent),
                retry: None,
                refused: 0,
            });
            return true;
        };
        if unit.reading || scanning.retry.is_some_and(|t| now < t) {
            return false;
        }
        scanning.retry = None;
        let extent = scanning.namespace.extent;
        match scanning.scan.next() {
            Step::Read { block, blocks } => {
                let shift = extent.block_size().shift();
                // The control role's own reads are confined like a client's, by a grant that cannot write.
                let grant = Grant::new(extent, Access::ReadOnly);
                let sector = block.checked_mul(extent.block_size().bytes() / 512);
                let place = sector.map(|sector| grant.confine(sector, u64::from(blocks) << shift));
                match place {
                    Some(Ok(place)) => {
                        unit.reading = true;
                        unit.controller.scan_read(place, scanning.token);
                    }
                    _ => scanning.scan.supply(Err(ReadFailed)),
                }
            }
            Step::Done(table) => {
                let serial = unit.controller.info().serial.clone();
                for warning in &table.warnings {
                    nvme_platform::warn!("{serial}:n{}: {warning}", extent.namespace().nsid);
                }
                let info = scanning.namespace;
                unit.scanning = None;
                let entry = NamespaceEntry::new(&serial, info.extent, info.limits, info.read_only);
                let entry = entry.on(unit.medium(&info));
                nvme_platform::info!(
                    "{serial}:n{}: {} blocks of {} bytes, {} partitions",
                    extent.namespace().nsid,
                    extent.blocks(),
                    extent.block_size().bytes(),
                    table.partitions.len()
                );
                let partitions: alloc::vec::Vec<PartitionEntry> = table
                    .partitions
                    .into_iter()
                    .map(|p| PartitionEntry { number: p.number, id: p.id, label: p.label, extent: p.extent })
                    .collect();
                for p in &partitions {
                    nvme_platform::info!(
                        "{serial}:n{}:{}: {} \"{}\"",
                        extent.namespace().nsid,
                        p.number,
                        p.id,
                        p.label
                    );
                }
                let namespace = extent.namespace();
                let before = self.catalogue.medium(namespace).cloned();
                for refused in self.catalogue.set_namespace(entry, partitions) {
                    nvme_platform::warn!("{serial}:n{}: {refused}", namespace.nsid);
                }
                self.events.push_back(Event::CatalogueChanged);
                let after = self.catalogue.medium(namespace);
                let (refused, another) = (after.is_none(), before.is_some() && before.as_ref() != after);
                if refused {
                    // It turned out to be another controller's. There may be another writer.
                    self.lose_sessions(|s| s.minted().grant().extent().namespace() == namespace);
                }
                if another {
                    // What was refused to others for its sake may be had by them.
                    self.rescan_others(at);
                }
            }
        }
        true
    }

    fn scan_read(
        &mut self,
        at: usize,
        token: u32,
        result: Result<alloc::vec::Vec<u8>, ScanError>,
        now: Time,
    ) {
        let shared = self.pairs.keys().any(|id| usize::from(id.controller) == at);
        let Some(unit) = self.units.get_mut(at) else { return };
        unit.reading = false;
        let Some(scanning) = unit.scanning.as_mut().filter(|s| s.token == token) else { return };
        match result {
            Ok(bytes) => {
                scanning.refused = 0;
                scanning.scan.supply(Ok(&bytes));
            }
            Err(ScanError::NotReady) => scanning.retry = Some(now + RETRY),
            Err(ScanError::NoPair) if shared || scanning.refused < REFUSALS => {
                scanning.refused += u32::from(!shared);
                scanning.retry = Some(now + RETRY);
                self.retire_idle(at as u16);
            }
            Err(why) => {
                let namespace = scanning.namespace.namespace();
                nvme_platform::warn!("reading the partition table of n{}: {why}", namespace.nsid);
                scanning.scan.supply(Err(ReadFailed));
            }
        }
    }

    /// Says once that all controllers were scanned, or failed.
    pub(super) fn check_scanned(&mut self) {
        if !self.scanned && !self.units.iter().any(Unit::is_starting) {
            self.start_serving();
        }
    }

    /// One controller that takes its time, or always has news, does not keep the clients of the others waiting.
    pub(super) fn poll_start(&mut self, now: Time) {
        let until = *self.scan_until.get_or_insert(now + SCAN_WAIT);
        if self.scanned || now < until {
            return;
        }
        for unit in self.units.iter().filter(|unit| unit.is_starting()) {
            nvme_platform::warn!("{}: it is not scanned yet; the others are served without it", unit.name);
        }
        self.start_serving();
    }

    fn start_serving(&mut self) {
        self.scanned = true;
        self.catalogue.set_scanned();
        self.events.push_back(Event::Scanned);
    }
}
