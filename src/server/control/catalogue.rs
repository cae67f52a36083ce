//! What the controllers have becomes the catalogue: their namespaces and partition tables, at start and whenever they change.

use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;
use nvme_policy::{Extent, Namespace};
use nvme_session::factory::{NamespaceEntry, PartitionEntry};

use super::super::message::SessionKey;
use super::anomaly::Anomaly;
use super::unit::Unit;
use super::{Control, Event};
use crate::disk::Table;
use crate::nvme::NamespaceInfo;

/// How long the scan at start is waited for.
const SCAN_WAIT: Duration = Duration::from_secs(60);

impl Control {
    /// The list of namespaces is another one: read all tables again, and tell the clients.
    pub(super) fn namespaces_changed(&mut self, controller: u16) {
        let Some(unit) = self.units.get_mut(usize::from(controller)) else {
            return self.out.anomaly(Anomaly::NoController(controller));
        };
        unit.read_tables();
        let namespaces = unit.controller().namespaces();
        let present: Vec<Extent> = namespaces.iter().map(|n| n.extent).collect();
        let grown = self.catalogue.keep_namespaces(controller, &present);
        // With other blocks, what a session holds would be other bytes, and transfers would have other lengths.
        let same = |n: &NamespaceInfo, s: &super::Session| {
            let extent = s.minted().grant().extent();
            n.namespace() == extent.namespace()
                && n.block_size() == extent.block_size()
                && unit.disk_identity(n).may_be(s.minted().disk_identity())
        };
        let gone =
            |s: &super::Session| s.controller() == controller && !namespaces.iter().any(|n| same(n, s));
        let lost: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, s)| gone(s)).map(|(key, _)| *key).collect();
        for key in lost {
            self.lose_session(key);
        }
        for (session, grant) in grown {
            self.session_grows(SessionKey(session.number()), grant);
        }
        self.rescan_others(controller);
    }

    /// Looks again at what a controller has, as when it says that its namespaces changed; [`is_looking`](Self::is_looking) until that is
    /// done. Nothing, where it is lost.
    pub fn look_again(&mut self, controller: u16) {
        let Some((unit, _)) = self.unit(controller) else { return };
        unit.look_again();
        self.more = true;
    }

    /// Whether a controller's namespaces or partition tables are being looked at.
    pub fn is_looking(&self, controller: u16) -> bool {
        self.units.get(usize::from(controller)).is_some_and(Unit::is_looking)
    }

    /// What another controller shares with one that has lost it, or may have, can be had by that one now.
    pub(super) fn rescan_others(&mut self, controller: u16) {
        for unit in self.units.iter_mut().filter(|other| other.index() != controller) {
            self.more |= unit.read_shared(|namespace| self.catalogue.has(namespace));
        }
    }

    /// Reads a namespace's partition table again before anything else is granted there.
    pub(super) fn rescan(&mut self, namespace: Namespace) {
        let Some((unit, _)) = self.unit(namespace.controller) else { return };
        unit.read_again(namespace);
        self.more = true;
    }

    /// A partition table was read.
    pub(super) fn table_found(&mut self, controller: u16, info: &NamespaceInfo, table: Table) {
        let Some((unit, _)) = self.unit(controller) else { return };
        let serial = unit.controller().info().serial.clone();
        let namespace = info.namespace();
        let nsid = namespace.nsid;
        for warning in &table.warnings {
            nvme_platform::warn!("{serial}:n{nsid}: {warning}");
        }
        let entry = NamespaceEntry::new(&serial, info.extent, info.limits, info.read_only);
        let entry = entry.on(unit.disk_identity(info)).at(unit.controller().place()).with_table(table.kind);
        nvme_platform::info!(
            "{serial}:n{nsid}: {} blocks of {} bytes, {} partitions",
            info.extent.blocks(),
            info.extent.block_size().bytes(),
            table.partitions.len()
        );
        let entries = table.partitions.into_iter();
        let partitions: Vec<PartitionEntry> = entries
            .map(|p| PartitionEntry {
                number: p.number,
                id: p.id,
                label: p.label,
                extent: p.extent,
                read_only: p.read_only,
            })
            .collect();
        for p in &partitions {
            let read_only = if p.read_only.is_some() { ", read-only" } else { "" };
            nvme_platform::info!("{serial}:n{nsid}:{}: {} \"{}\"{read_only}", p.number, p.id, p.label);
        }
        let before = self.catalogue.disk_identity(namespace).cloned();
        for refused in self.catalogue.set_namespace(entry, partitions) {
            nvme_platform::warn!("{serial}:n{nsid}: {refused}");
        }
        self.events.push_back(Event::CatalogueChanged);
        let after = self.catalogue.disk_identity(namespace);
        let (refused, another) = (after.is_none(), before.is_some() && before.as_ref() != after);
        if refused {
            // It turned out to be another controller's. There may be another writer.
            self.lose_sessions(|s| s.minted().grant().extent().namespace() == namespace);
        }
        if another {
            // What was refused to others for its sake may be had by them.
            self.rescan_others(controller);
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
            nvme_platform::warn!("{}: it is not scanned yet; the others are served without it", unit.name());
        }
        self.start_serving();
    }

    /// Has the others served, where all that is not scanned yet is held up by what somebody else may still change there
    /// ([`set_unsettled`](Self::set_unsettled)).
    pub fn serve_without_unsettled(&mut self) {
        let held = |at: u16| self.unsettled.contains(&at);
        let others = (0..).zip(&self.units).any(|(at, unit)| unit.is_starting() && !held(at));
        if !self.scanned && !others {
            self.start_serving();
        }
    }

    /// Whether others are served while a controller is held up.
    pub fn waits_for_unsettled(&self) -> bool {
        self.scanned
            && (0..).zip(&self.units).any(|(at, unit)| unit.is_starting() && self.unsettled.contains(&at))
    }

    fn start_serving(&mut self) {
        self.scanned = true;
        self.catalogue.set_scanned();
        self.events.push_back(Event::Scanned);
    }
}
