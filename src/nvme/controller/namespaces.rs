//! Which namespaces there are: a list of identifiers, page by page, then each of them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use nvme_platform::{info, warn};
use nvme_policy::Namespace;
use nvme_session::factory::Identifiers;
use zerocopy::little_endian::U32;

use super::super::info::NamespaceInfo;
use super::super::spec::command::{Completion, Status};
use super::super::spec::identify::LIST_ENTRIES;
use super::admin::{Job, Page};
use super::anomaly::Anomaly;
use super::identify::{self, Common, Described, NotServed};

/// How the namespaces of a controller are found, and what holds for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// It has a list of those that are active.
    pub(super) list: bool,
    /// It has a list of descriptors for each: its identifiers, and its command set where there are several.
    pub(super) descriptors: bool,
    /// The highest identifier.
    pub(super) highest: u32,
    pub(super) common: Common,
}

/// What comes after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The next question.
    Ask(Job),
    /// The look is over; [`Namespaces::all`] has what there is. `whole`: nothing failed that may be had in a while, and of which what
    /// was known before is believed until then.
    Done { whole: bool },
}

/// A look at all namespaces that is going on.
#[derive(Debug)]
struct Listing {
    rules: Rules,
    found: Vec<NamespaceInfo>,
    /// Identifiers still to be asked about.
    pending: VecDeque<u32>,
    /// What was said of the namespace that is being asked about.
    described: Identifiers,
    /// The highest identifier so far.
    last: u32,
    /// How many identifiers so far.
    seen: usize,
    /// Whether another page of the list is to be asked for.
    more: bool,
    /// Something failed that may be had in a while.
    missed: bool,
}

/// The namespaces of a controller.
pub(super) struct Namespaces {
    index: u16,
    /// Most that are served.
    most: usize,
    all: Vec<NamespaceInfo>,
    listing: Option<Listing>,
    /// Another look is due after the present one.
    again: bool,
}

impl Namespaces {
    pub(super) fn new(index: u16, most: usize) -> Self {
        Self { index, most, all: Vec::new(), listing: None, again: false }
    }

    /// Those that can be served, by rising identifier, as the last look found them.
    pub(super) fn all(&self) -> &[NamespaceInfo] {
        &self.all
    }

    /// Looks at all of them; `None`: that is going on, and is done once more afterwards.
    pub(super) fn begin(&mut self, rules: Rules) -> Option<Next> {
        if self.listing.is_some() {
            self.again = true;
            return None;
        }
        let listing = self.listing.insert(Listing {
            rules,
            found: Vec::new(),
            pending: VecDeque::new(),
            described: Identifiers::default(),
            last: 0,
            seen: 0,
            more: false,
            missed: false,
        });
        if !rules.list {
            listing.list_all_numbers(self.most);
            return Some(self.next());
        }
        Some(Next::Ask(Job::NamespaceList { after: 0 }))
    }

    /// Whether the look that was just done is to be done once more.
    pub(super) fn take_again(&mut self) -> bool {
        mem::take(&mut self.again)
    }

    /// Whether a look is going on.
    pub(super) fn is_looking(&self) -> bool {
        self.listing.is_some()
    }

    /// Forgets the look that is going on: the controller stops.
    pub(super) fn forget(&mut self) {
        self.listing = None;
        self.again = false;
    }

    /// A page of the list came.
    pub(super) fn listed(
        &mut self,
        after: u32,
        completion: &Completion,
        page: &Page,
    ) -> Result<Next, Anomaly> {
        let (index, most) = (self.index, self.most);
        let listing = self.listing.as_mut().ok_or(Anomaly::NotListing)?;
        let status = completion.status;
        if status.ok() {
            listing.take_list(index, most, page);
        } else if after == 0 && matches!(status.code(), Status::INVALID_FIELD | Status::INVALID_OPCODE) {
            listing.list_all_numbers(most);
        } else {
            warn!(
                "controller {index}: the list of namespaces after {after} failed with status {:#06x}",
                status.0
            );
            // That says nothing about them.
            listing.missed = true;
            listing.found.extend(self.all.iter().filter(|known| known.namespace().nsid > after));
        }
        Ok(self.next())
    }

    /// What says a namespace's identifiers and command set. A namespace of another one may answer Identify Namespace all the same.
    pub(super) fn described(
        &mut self,
        nsid: u32,
        completion: &Completion,
        page: &Page,
    ) -> Result<Next, Anomaly> {
        let listing = self.listing.as_mut().ok_or(Anomaly::NotListing)?;
        let ok = completion.status.ok();
        let described = if ok { Described::of(&page.read()) } else { Described::default() };
        listing.described = described.unique;
        Ok(if described.command_set == 0 {
            Next::Ask(Job::IdentifyNamespace { nsid })
        } else {
            let why = NotServed::CommandSet(described.command_set);
            warn!("controller {}: namespace {nsid} is not served: {why}", self.index);
            self.next()
        })
    }

    /// What a namespace is.
    pub(super) fn identified(
        &mut self,
        nsid: u32,
        completion: &Completion,
        page: &Page,
    ) -> Result<Next, Anomaly> {
        let index = self.index;
        let listing = self.listing.as_mut().ok_or(Anomaly::NotListing)?;
        let namespace = Namespace { controller: index, nsid };
        if completion.status.ok() {
            match identify::namespace(&page.read(), namespace, &listing.rules.common, &listing.described) {
                Ok(found) => {
                    info!(
                        "controller {index}: namespace {nsid}: {} blocks of {} bytes{}",
                        found.blocks(),
                        found.block_size().bytes(),
                        if found.read_only { ", write protected" } else { "" }
                    );
                    listing.found.push(found);
                }
                Err(NotServed::Inactive) => {}
                Err(why) => warn!("controller {index}: namespace {nsid} is not served: {why}"),
            }
        } else {
            warn!(
                "controller {index}: namespace {nsid} could not be identified: status {:#06x}",
                completion.status.0
            );
            if completion.status.is_transient() {
                listing.missed = true;
                listing.found.extend(self.all.iter().find(|known| known.namespace() == namespace));
            }
        }
        Ok(self.next())
    }

    /// The next question of a look that is going on.
    fn next(&mut self) -> Next {
        if let Some(job) = self.listing.as_mut().and_then(Listing::next) {
            return Next::Ask(job);
        }
        let mut whole = true;
        if let Some(listing) = self.listing.take() {
            self.all = listing.found;
            whole = !listing.missed;
        }
        Next::Done { whole }
    }
}

impl Listing {
    /// For controllers without a list: every number up to the highest.
    fn list_all_numbers(&mut self, most: usize) {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        self.pending = (1..=self.rules.highest.min(most)).collect();
    }

    fn take_list(&mut self, index: u16, most: usize, page: &Page) {
        let page = page.read::<[U32; LIST_ENTRIES]>();
        let mut entries = 0;
        for nsid in page.iter().map(|id| id.get()).take_while(|id| *id != 0) {
            // Rising (Base 5.17.2.3): a list that is not cannot be believed to end.
            if nsid <= self.last || nsid > self.rules.highest {
                warn!("controller {index}: the list of namespaces has {nsid} where it cannot be");
                return;
            }
            self.last = nsid;
            if self.seen == most {
                warn!(
                    "controller {index}: has more than {most} namespaces; {nsid} and higher are not served"
                );
                return;
            }
            entries += 1;
            self.seen += 1;
            self.pending.push_back(nsid);
        }
        self.more = entries == LIST_ENTRIES;
    }

    fn next(&mut self) -> Option<Job> {
        if let Some(nsid) = self.pending.pop_front() {
            self.described = Identifiers::default();
            return Some(if self.rules.descriptors {
                Job::Descriptors { nsid }
            } else {
                Job::IdentifyNamespace { nsid }
            });
        }
        mem::take(&mut self.more).then_some(Job::NamespaceList { after: self.last })
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::super::super::encode::Limited;
    use super::super::super::pair::CommandCaps;
    use super::super::super::spec::identify::Namespace as IdentifyNamespace;
    use super::*;

    const OK: Completion = Completion { dw0: 0, sqhd: 0, sqid: 0, cid: 0, status: Status(0) };
    const FAILED: Completion = Completion { status: Status(Status::INVALID_FIELD), ..OK };
    const NOT_NOW: Completion = Completion { status: Status(Status::NAMESPACE_NOT_READY), ..OK };
    const DONE: Next = Next::Done { whole: true };

    fn rules() -> Rules {
        let limited = Limited { bytes: 1 << 20, blocks: 256 };
        let caps =
            CommandCaps { transfer: 1 << 20, discard: limited, zeroes: limited, ..CommandCaps::default() };
        let common = Common { caps, volatile_cache: true, has_siblings: true, bogus_identifiers: false };
        Rules { list: true, descriptors: false, highest: 2000, common }
    }

    fn list(ids: impl Iterator<Item = u32>) -> Page {
        let bytes: Vec<u8> = ids.flat_map(u32::to_le_bytes).collect();
        Page::of(&bytes)
    }

    fn namespace(blocks: u64) -> Page {
        let mut data = IdentifyNamespace::new_zeroed();
        data.nsze = blocks.into();
        data.lbaf[0].lbads = 9;
        Page::of(data.as_bytes())
    }

    /// Answers all questions about single namespaces with one that is there; the first question of another kind.
    fn until_list(namespaces: &mut Namespaces, mut next: Next) -> Next {
        while let Next::Ask(Job::IdentifyNamespace { nsid }) = next {
            next = namespaces.identified(nsid, &OK, &namespace(8)).unwrap();
        }
        next
    }

    #[test]
    fn a_full_page_of_the_list_is_followed_by_the_next() {
        let mut namespaces = Namespaces::new(0, 5000);
        assert_eq!(namespaces.begin(rules()), Some(Next::Ask(Job::NamespaceList { after: 0 })));
        let next = namespaces.listed(0, &OK, &list(1..=1024)).unwrap();
        let next = until_list(&mut namespaces, next);
        assert_eq!(next, Next::Ask(Job::NamespaceList { after: 1024 }));
        let next = namespaces.listed(1024, &OK, &list([1500].into_iter())).unwrap();
        assert_eq!(until_list(&mut namespaces, next), DONE);
        assert_eq!(namespaces.all().len(), 1025);
    }

    #[test]
    fn a_list_that_does_not_rise_ends_there() {
        for ids in [[7, 7], [7, 2001]] {
            let mut namespaces = Namespaces::new(0, 5000);
            namespaces.begin(rules());
            let next = namespaces.listed(0, &OK, &list(ids.into_iter())).unwrap();
            assert_eq!(until_list(&mut namespaces, next), DONE);
            assert_eq!(namespaces.all().len(), 1, "{ids:?}");
        }
    }

    #[test]
    fn without_a_list_every_number_is_asked_about() {
        for by_version in [true, false] {
            let mut namespaces = Namespaces::new(0, 3);
            let mut next = namespaces.begin(Rules { list: !by_version, ..rules() }).unwrap();
            if !by_version {
                next = namespaces.listed(0, &FAILED, &list([].into_iter())).unwrap();
            }
            let first = Next::Ask(Job::IdentifyNamespace { nsid: 1 });
            assert_eq!(next, first);
            assert_eq!(until_list(&mut namespaces, next), DONE);
            assert_eq!(namespaces.all().len(), 3, "and no more than are served");
        }
    }

    #[test]
    fn a_look_that_is_asked_for_meanwhile_is_done_afterwards() {
        let mut namespaces = Namespaces::new(0, 10);
        namespaces.begin(rules());
        assert_eq!(namespaces.begin(rules()), None);
        assert_eq!(namespaces.listed(0, &OK, &list([].into_iter())), Ok(DONE));
        assert!(namespaces.take_again() && !namespaces.take_again());
    }

    /// With these, by an earlier look.
    fn known(ids: &[u32]) -> Namespaces {
        let mut namespaces = Namespaces::new(0, 5000);
        namespaces.begin(rules());
        let next = namespaces.listed(0, &OK, &list(ids.iter().copied())).unwrap();
        assert_eq!(until_list(&mut namespaces, next), DONE);
        namespaces
    }

    fn ids(namespaces: &Namespaces) -> Vec<u32> {
        namespaces.all().iter().map(|known| known.namespace().nsid).collect()
    }

    #[test]
    fn a_list_that_fails_takes_no_namespace_away_and_is_to_be_asked_again() {
        let full: Vec<u32> = (500..=1000).chain([1030]).collect();
        let mut namespaces = known(&full);
        for status in [NOT_NOW, Completion { status: Status(0x4006), ..OK }] {
            namespaces.begin(rules());
            assert_eq!(namespaces.listed(0, &status, &list([].into_iter())), Ok(Next::Done { whole: false }));
            assert_eq!(ids(&namespaces), full);
        }
        namespaces.begin(rules());
        let next = namespaces.listed(0, &OK, &list(2..=1025)).unwrap();
        assert_eq!(until_list(&mut namespaces, next), Next::Ask(Job::NamespaceList { after: 1025 }));
        let next = namespaces.listed(1025, &NOT_NOW, &list([].into_iter()));
        assert_eq!(next, Ok(Next::Done { whole: false }));
        assert_eq!(ids(&namespaces), (2..=1025).chain([1030]).collect::<Vec<_>>());
    }

    #[test]
    fn a_namespace_that_is_not_ready_is_believed_to_be_what_it_was_until_it_is() {
        let mut namespaces = known(&[1, 2]);
        namespaces.begin(rules());
        namespaces.listed(0, &OK, &list(1..=3)).unwrap();
        for (nsid, status) in [(1, NOT_NOW), (2, Completion { status: Status(0x400b), ..OK }), (3, NOT_NOW)] {
            let next = namespaces.identified(nsid, &status, &namespace(8)).unwrap();
            assert_eq!(next == Next::Done { whole: false }, nsid == 3, "{next:?}");
        }
        assert_eq!(ids(&namespaces), [1], "the second is no more, of the third nothing was known");
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_an_anomaly() {
        let mut namespaces = Namespaces::new(0, 10);
        namespaces.begin(rules());
        namespaces.forget();
        let page = namespace(8);
        assert_eq!(namespaces.listed(0, &OK, &page), Err(Anomaly::NotListing));
        assert_eq!(namespaces.described(1, &OK, &page), Err(Anomaly::NotListing));
        assert_eq!(namespaces.identified(1, &OK, &page), Err(Anomaly::NotListing));
    }
}
