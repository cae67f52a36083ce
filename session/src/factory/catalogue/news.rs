//! A controller has news: namespaces that came, went, or have another size.

use alloc::vec::Vec;

use nvme_policy::{Access, Extent, Grant, Namespace};

use super::{Catalogue, Holder, ReservationId, SessionId, overlap, reaches_table};

impl Catalogue {
    /// The controller has these namespaces (whole extents) and no others any more; their tables are to be read again, and
    /// nothing is granted there before. Whoever has a whole namespace that has grown has all of it from now on: the
    /// sessions of which that is so, with what they hold now.
    pub fn keep_namespaces(&mut self, controller: u16, present: &[Extent]) -> Vec<(SessionId, Grant)> {
        let is_there = |n: Namespace| present.iter().any(|e| e.namespace() == n);
        self.disks.retain(|n| n.controller != controller || is_there(n));
        // Whoever reserved what is gone waits for it to appear.
        for reserved in &mut self.reserved {
            let gone = |e: &Extent| self.disks.get(e.namespace()).is_none();
            if reserved.extent.as_ref().is_some_and(gone) {
                reserved.extent = None;
            }
        }
        let mut grown = Vec::new();
        for extent in present {
            if let Some(disk) = self.disks.get_mut(extent.namespace()) {
                disk.stale = true;
                self.follow(extent, &mut grown);
            }
        }
        self.bind_holdings();
        grown
    }

    /// Lets those who have a whole namespace grow with it. Nobody else can have had what is new of it, but for one case:
    /// it shrank before, and somebody still holds a part that lay behind its end.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever has a whole namespace has all of it, and the access stays"
    )]
    fn follow(&mut self, whole: &Extent, grown: &mut Vec<(SessionId, Grant)>) {
        for at in 0..self.live.len() {
            let Some(live) = self.live.get(at) else { return };
            let (id, access) = (live.id, live.access);
            let others = self.claims().filter(|h| h.session != Some(id));
            if live.whole && grows(&live.extent, whole) && is_free(others, whole, access) {
                grown.push((id, Grant::new(*whole, access)));
                if let Some(live) = self.live.get_mut(at) {
                    live.extent = *whole;
                }
            }
        }
        for at in 0..self.reserved.len() {
            let id = Some(ReservationId(at));
            let Some(reserved) = self.reserved.get(at) else { return };
            let access = reserved.policy.access();
            let is_whole = reserved.is_whole();
            let others = self.claims().filter(|h| h.reservation != id);
            if is_whole
                && reserved.extent.is_some_and(|e| grows(&e, whole))
                && is_free(others, whole, access)
                && let Some(reserved) = self.reserved.get_mut(at)
            {
                reserved.extent = Some(*whole);
            }
        }
        // A session that did not reach the end of the namespace may do so now that this is nearer.
        for live in self.live.iter_mut().filter(|l| l.extent.namespace() == whole.namespace()) {
            live.rewrites |= live.access == Access::ReadWrite && reaches_table(&live.extent, whole);
        }
    }

    /// The controller is gone, with all its namespaces. Sessions that are live there have to be ended.
    pub fn remove_controller(&mut self, controller: u16) {
        self.keep_namespaces(controller, &[]);
    }
}

/// Whether the namespace is now `whole`, and longer than `extent`, which was all of it.
fn grows(extent: &Extent, whole: &Extent) -> bool {
    extent.namespace() == whole.namespace()
        && extent.block_size() == whole.block_size()
        && extent.blocks() < whole.blocks()
}

/// Whether a place that these have, with what they do there, leaves it to somebody with that access.
fn is_free(mut holders: impl Iterator<Item = Holder>, extent: &Extent, access: Access) -> bool {
    let readers = |h: &Holder| access == Access::ReadOnly && h.access == Access::ReadOnly;
    holders.all(|h| readers(&h) || !overlap(&h.extent, extent))
}
