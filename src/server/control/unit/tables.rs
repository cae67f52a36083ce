//! The partition tables of one controller's namespaces, read one after the other.
//!
//! A pure machine: [`Tables::next`] says what is to be done, [`Tables::supply`] takes what a read came to.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;
use nvme_policy::{Access, Grant, LbaRange, Namespace};

use crate::disk::{ReadFailed, Scan, Step, Table};
use crate::nvme::{NamespaceInfo, ScanError};

/// How long a scan waits for a queue pair that somebody else uses before it tries again.
const RETRY: Duration = Duration::from_millis(50);
/// How often a controller may refuse a scan a queue pair that nobody else uses.
const REFUSALS: u32 = 8;

/// What is to be done.
pub(super) enum Next {
    /// All tables were read.
    Nothing,
    /// A read is under way, or a queue pair is waited for.
    Wait,
    /// To ask again: the next namespace has its turn.
    Again,
    /// Read this, under this token.
    Read(LbaRange, u32),
    /// The table of this namespace is there.
    Found(NamespaceInfo, Table),
}

struct Current {
    namespace: NamespaceInfo,
    /// Its reads carry it: one that was asked for another scan, which is over, may still be under way.
    token: u32,
    scan: Scan,
    /// Until when to wait for a queue pair.
    retry: Option<Time>,
    /// How often in a row the controller had no pair for it, though nobody else uses any.
    refused: u32,
}

/// The tables of one controller.
#[derive(Default)]
pub(super) struct Tables {
    current: Option<Current>,
    pending: VecDeque<Namespace>,
    /// How many scans were begun.
    scans: u32,
    /// A read is under way, be it of a scan that is over: one at a time.
    reading: bool,
}

impl Tables {
    /// Reads all of these, and nothing else.
    pub(super) fn read_all(&mut self, namespaces: &[NamespaceInfo]) {
        self.pending = namespaces.iter().map(NamespaceInfo::namespace).collect();
        self.current = None;
    }

    /// Reads this one once more, after those that wait.
    pub(super) fn read_again(&mut self, namespace: Namespace) {
        if !self.pending.contains(&namespace) {
            self.pending.push_back(namespace);
        }
    }

    /// Whether this one is being read, or will be.
    pub(super) fn will_read(&self, namespace: Namespace) -> bool {
        let current = self.current.as_ref().map(|c| c.namespace.namespace());
        current == Some(namespace) || self.pending.contains(&namespace)
    }

    /// Whether any is being read, or will be.
    pub(super) fn are_read(&self) -> bool {
        self.current.is_some() || !self.pending.is_empty()
    }

    /// Reads nothing any more.
    pub(super) fn stop(&mut self) {
        self.current = None;
        self.pending.clear();
    }

    /// When [`next`](Self::next) is worth calling though nothing happened.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.current.as_ref().and_then(|c| c.retry)
    }

    /// What is to be done now. `namespaces` are those that the controller has.
    pub(super) fn next(&mut self, namespaces: &[NamespaceInfo], now: Time) -> Next {
        let Some(current) = &mut self.current else { return self.begin(namespaces) };
        if self.reading || current.retry.is_some_and(|t| now < t) {
            return Next::Wait;
        }
        current.retry = None;
        let info = current.namespace;
        match current.scan.next() {
            Step::Read { block, blocks } => match confined(&info, block, blocks) {
                Some(place) => {
                    self.reading = true;
                    Next::Read(place, current.token)
                }
                None => {
                    current.scan.supply(Err(ReadFailed));
                    Next::Again
                }
            },
            Step::Done(table) => {
                self.current = None;
                Next::Found(info, table)
            }
        }
    }

    fn begin(&mut self, namespaces: &[NamespaceInfo]) -> Next {
        let Some(next) = self.pending.pop_front() else { return Next::Nothing };
        self.scans = self.scans.wrapping_add(1);
        // One that went meanwhile is passed over.
        self.current = namespaces.iter().find(|n| n.namespace() == next).map(|info| Current {
            namespace: *info,
            token: self.scans,
            scan: Scan::new(&info.extent),
            retry: None,
            refused: 0,
        });
        Next::Again
    }

    /// Takes what a read came to. `shared`: somebody else has queue pairs of the controller. True: a queue pair is wanted.
    pub(super) fn supply(
        &mut self,
        token: u32,
        result: Result<Vec<u8>, ScanError>,
        shared: bool,
        now: Time,
    ) -> bool {
        self.reading = false;
        // The scan that asked may be over.
        let Some(current) = self.current.as_mut().filter(|c| c.token == token) else { return false };
        match result {
            Ok(bytes) => {
                current.refused = 0;
                current.scan.supply(Ok(&bytes));
            }
            Err(ScanError::NotReady) => current.retry = Some(now + RETRY),
            Err(ScanError::NoPair) if shared || current.refused < REFUSALS => {
                current.refused += u32::from(!shared);
                current.retry = Some(now + RETRY);
                return true;
            }
            Err(why) => {
                let nsid = current.namespace.namespace().nsid;
                nvme_platform::warn!("reading the partition table of n{nsid}: {why}");
                current.scan.supply(Err(ReadFailed));
            }
        }
        false
    }
}

/// The control role's own reads are confined like a client's, by a grant that cannot write.
fn confined(info: &NamespaceInfo, block: u64, blocks: u32) -> Option<LbaRange> {
    let extent = info.extent;
    let size = extent.block_size();
    let sector = block.checked_mul(size.bytes() / 512)?;
    #[expect(clippy::disallowed_methods, reason = "partition tables are read, and nothing is written")]
    let grant = Grant::new(extent, Access::ReadOnly);
    grant.confine(sector, u64::from(blocks) << size.shift()).ok()
}
