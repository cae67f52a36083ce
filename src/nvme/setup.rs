//! What is asked of a controller that became ready: what it is, how many queues it grants, which namespaces it has.
//! One question after the other; `answers` hands the answers here.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use nvme_platform::{Window, debug, info, warn};
use nvme_policy::Namespace;
use zerocopy::little_endian::U32;

use super::admin::Job;
use super::controller::{Controller, Purpose, State};
use super::event::{Event, Failure};
use super::identify::{self, NotServed};
use super::info::NamespaceInfo;
use super::spec::command::{Completion, Status, admin};
use super::spec::identify::{Controller as IdentifyController, ControllerNvm, LIST_ENTRIES};
use super::spec::registers::{self, VS, Version};

/// SMART critical warnings, and namespace attribute notices (Base 5.27.1.8).
const EVENT_SMART: u32 = 0x1f;
const EVENT_NAMESPACE: u32 = 1 << 8;
/// Most Asynchronous Event Requests that we keep there.
const EVENTS: u16 = 4;
/// A controller that does not say how long a shutdown takes, and the bounds for one that does.
const SHUTDOWN_MIN: Duration = Duration::from_secs(5);
const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// A look at all namespaces that is going on.
#[derive(Debug, Default)]
pub(super) struct NamespaceScan {
    found: Vec<NamespaceInfo>,
    /// Identifiers still to be asked about.
    pending: VecDeque<u32>,
    /// The highest identifier so far.
    last: u32,
    /// How many identifiers so far.
    seen: usize,
    /// Whether another page of the list is to be asked for.
    more: bool,
}

impl Controller {
    pub(super) fn begin_setup(&mut self) {
        let version = Version::from_bits(self.device.registers().read32(VS));
        self.info.version = (version.major(), version.minor(), version.tertiary());
        self.state = State::Setup;
        self.ask(Job::IdentifyController);
    }

    /// Asks. What is asked here is bounded by the steps of set-up, so there is always room.
    pub(super) fn ask(&mut self, job: Job) {
        if let Some(admin) = &mut self.admin {
            admin.ask(job);
        }
    }

    /// An answer that set-up cannot go on without.
    fn needed(&mut self, opcode: u8, completion: &Completion) -> bool {
        if !completion.status.ok() {
            self.stop(Failure::Admin { opcode, status: completion.status.0 }, self.now);
        }
        completion.status.ok()
    }

    pub(super) fn identified(&mut self, completion: &Completion, data: &Window) {
        if !self.needed(admin::IDENTIFY, completion) {
            return;
        }
        // One copy: what is checked below is what is used.
        let Ok(page) = data.read_value::<IdentifyController>(0) else { return };
        let found = match identify::controller(&page, self.info.version, &self.options, &self.quirks) {
            Ok(found) => found,
            Err(why) => return self.stop(why, self.now),
        };
        let same = self.info.serial == found.info.serial && self.info.model == found.info.model;
        if self.purpose == Purpose::Reset && !same {
            return self.stop(Failure::Another, self.now);
        }
        info!("controller {}: Serial Number: {}", self.index, found.info.serial);
        info!("controller {}: Model Number: {}", self.index, found.info.model);
        info!("controller {}: Firmware Revision: {}", self.index, found.info.firmware);
        info!("controller {}: Number of Namespaces: {}", self.index, found.namespaces);
        if found.info.serial.is_empty() {
            warn!(
                "controller {}: its serial number is empty; its namespaces have no name by number",
                self.index
            );
        }
        self.info = found.info;
        self.caps = found.caps;
        self.highest_nsid = found.namespaces;
        self.events_max = found.events.min(EVENTS);
        self.namespace_notices = found.namespace_notices;
        let said = Duration::from_micros(found.shutdown_us.into());
        self.shutdown_wait = said.clamp(SHUTDOWN_MIN, SHUTDOWN_MAX);
        if let Some(admin) = &mut self.admin {
            // Some places stay free for everything else.
            admin.aborts_max = found.aborts.min(4);
        }
        if self.info.version >= (2, 0, 0) || self.command_sets() {
            self.ask(Job::IdentifyNvm);
        } else {
            self.ask_for_queues();
        }
    }

    pub(super) fn identified_nvm(&mut self, completion: &Completion, data: &Window) {
        if completion.status.ok()
            && let Ok(page) = data.read_value::<ControllerNvm>(0)
        {
            identify::controller_nvm(&page, &mut self.caps);
        }
        self.ask_for_queues();
    }

    fn ask_for_queues(&mut self) {
        let pairs = self.options.pairs_max.max(1);
        self.ask(Job::NumberOfQueues { pairs });
    }

    pub(super) fn queues_granted(&mut self, asked: u16, completion: &Completion) {
        if !self.needed(admin::SET_FEATURES, completion) {
            return;
        }
        // Less one, submission queues in the low half (Base 5.27.1.5). It may grant more than was asked for.
        let granted = (completion.dw0 & 0xffff).min(completion.dw0 >> 16).saturating_add(1);
        let granted = u16::try_from(granted).unwrap_or(u16::MAX).min(asked);
        if granted == 0 {
            return self.stop(Failure::NoQueues, self.now);
        }
        debug!("controller {}: {} queue pairs", self.index, granted);
        self.info.pairs = granted;
        self.pairs.granted = granted;
        if self.info.volatile_cache {
            self.ask(Job::WriteCacheOn);
        } else {
            self.ask_for_events();
        }
    }

    pub(super) fn write_cache_set(&mut self, completion: &Completion) {
        if !completion.status.ok() {
            // It stays as it is; flushes are sent all the same.
            warn!("controller {}: its write cache could not be turned on", self.index);
        }
        self.ask_for_events();
    }

    fn ask_for_events(&mut self) {
        let notices = if self.namespace_notices { EVENT_NAMESPACE } else { 0 };
        self.ask(Job::EventConfiguration { bits: EVENT_SMART | notices });
    }

    pub(super) fn events_configured(&mut self, completion: &Completion) {
        if !completion.status.ok() {
            debug!("controller {}: asynchronous events could not be configured", self.index);
        }
        self.begin_listing();
    }

    /// Looks at all namespaces; once more afterwards, when that is going on.
    pub(super) fn begin_listing(&mut self) {
        if self.listing.is_some() {
            self.look_again = true;
            return;
        }
        self.listing = Some(NamespaceScan::default());
        // The list is there since version 1.1.
        if self.info.version >= (1, 1, 0) {
            self.ask(Job::NamespaceList { after: 0 });
        } else {
            self.list_all_numbers();
        }
    }

    /// For controllers without a list: every number up to the highest.
    fn list_all_numbers(&mut self) {
        let most = u32::try_from(self.options.namespaces_max).unwrap_or(u32::MAX);
        if let Some(listing) = &mut self.listing {
            listing.pending = (1..=self.highest_nsid.min(most)).collect();
            listing.more = false;
        }
        self.next_namespace();
    }

    pub(super) fn namespaces_listed(&mut self, after: u32, completion: &Completion, data: &Window) {
        if !completion.status.ok() {
            if after == 0
                && matches!(completion.status.code(), Status::INVALID_FIELD | Status::INVALID_OPCODE)
            {
                return self.list_all_numbers();
            }
            warn!(
                "controller {}: the list of namespaces after {after} failed with status {:#06x}",
                self.index, completion.status.0
            );
            if let Some(listing) = &mut self.listing {
                listing.more = false;
            }
            return self.next_namespace();
        }
        let Ok(page) = data.read_value::<[U32; LIST_ENTRIES]>(0) else { return };
        let (index, highest, most) = (self.index, self.highest_nsid, self.options.namespaces_max);
        let Some(listing) = &mut self.listing else { return };
        let mut entries = 0;
        for nsid in page.iter().map(|id| id.get()).take_while(|id| *id != 0) {
            entries += 1;
            // Rising (Base 5.17.2.3): a list that is not cannot be believed to end.
            if nsid <= listing.last || nsid > highest {
                warn!("controller {index}: the list of namespaces has {nsid} where it cannot be");
                entries = 0;
                break;
            }
            listing.last = nsid;
            if listing.seen == most {
                warn!(
                    "controller {index}: has more than {most} namespaces; {nsid} and higher are not served"
                );
                entries = 0;
                break;
            }
            listing.seen += 1;
            listing.pending.push_back(nsid);
        }
        listing.more = entries == LIST_ENTRIES;
        self.next_namespace();
    }

    /// Whether the controller may have other command sets than NVM.
    fn command_sets(&self) -> bool {
        self.cap.css() & registers::CSS_SEVERAL != 0
    }

    /// What says the namespace's command set. A namespace of another one may answer Identify Namespace all the same.
    pub(super) fn described(&mut self, nsid: u32, completion: &Completion, data: &Window) {
        let list = data.read_value(0).ok().filter(|_| completion.status.ok());
        match list.map_or(0, |list| identify::command_set(&list)) {
            0 => self.ask(Job::IdentifyNamespace { nsid }),
            other => {
                let why = NotServed::CommandSet(other);
                warn!("controller {}: namespace {nsid} is not served: {why}", self.index);
                self.next_namespace();
            }
        }
    }

    pub(super) fn namespace_identified(&mut self, nsid: u32, completion: &Completion, data: &Window) {
        let namespace = Namespace { controller: self.index, nsid };
        if !completion.status.ok() {
            warn!(
                "controller {}: namespace {nsid} could not be identified: status {:#06x}",
                self.index, completion.status.0
            );
        } else if let (Ok(page), Some(listing)) = (data.read_value(0), &mut self.listing) {
            match identify::namespace(&page, namespace, &self.caps, self.info.volatile_cache) {
                Ok(found) => {
                    info!(
                        "controller {}: namespace {nsid}: {} blocks of {} bytes{}",
                        self.index,
                        found.blocks(),
                        found.block_size().bytes(),
                        if found.read_only { ", write protected" } else { "" }
                    );
                    listing.found.push(found);
                }
                Err(NotServed::Inactive) => {}
                Err(why) => warn!("controller {}: namespace {nsid} is not served: {why}", self.index),
            }
        }
        self.next_namespace();
    }

    fn next_namespace(&mut self) {
        let Some(listing) = &mut self.listing else { return };
        if let Some(nsid) = listing.pending.pop_front() {
            // Where there is one command set alone, nobody has to say which.
            self.ask(if self.command_sets() {
                Job::Descriptors { nsid }
            } else {
                Job::IdentifyNamespace { nsid }
            });
        } else if mem::take(&mut listing.more) {
            let after = listing.last;
            self.ask(Job::NamespaceList { after });
        } else {
            self.namespaces = mem::take(&mut listing.found);
            self.listing = None;
            self.listed();
        }
    }

    fn listed(&mut self) {
        if self.state == State::Running {
            self.events.push_back(Event::NamespacesChanged);
        } else {
            self.state = State::Running;
            for _ in 0..self.events_max {
                self.ask(Job::AsyncEvent);
            }
            self.events.push_back(match (self.purpose, self.quiet) {
                (Purpose::Reset, Some(quiet)) => Event::Reset { quiet },
                _ => Event::Ready,
            });
        }
        if mem::take(&mut self.look_again) {
            self.begin_listing();
        }
    }
}
