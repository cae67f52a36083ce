//! Factories: what each holds, and which made which.

use alloc::vec::Vec;

use nvme_policy::{Access, BlockSize, Ceiling, DeviceName, Grant, Tag};

use super::super::device::Bound;
use super::home::Home;

/// How deep factories may stand below the server's own.
pub const FACTORY_DEPTH_MAX: usize = 8;
/// How many there may be in all.
pub const FACTORIES_MAX: usize = 64;

/// A factory, by number. No number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FactoryId(u64);

impl FactoryId {
    /// The server's own: `svr`.
    pub const SERVER: Self = Self(0);

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// One device that a factory holds. It is bound once; what comes later under its name is something else.
#[derive(Debug)]
pub(super) struct Holding {
    /// By what it was named.
    pub(super) name: DeviceName,
    /// What may be done there at most.
    pub(super) access: Access,
    /// What it was bound to; `None` while it was never there.
    pub(super) home: Option<Home>,
    /// The size of its blocks then: a partition is counted in them.
    pub(super) block_size: Option<BlockSize>,
    /// A partition, as it was then, where it is now.
    pub(super) part: Option<Bound>,
    /// What sessions are minted from; `None` while it is not there.
    pub(super) grant: Option<Grant>,
}

impl Holding {
    /// Not bound to anything so far.
    pub(super) fn absent(name: DeviceName, access: Access) -> Self {
        Self { name, access, home: None, block_size: None, part: None, grant: None }
    }

    /// Whether it is a whole namespace, and not a partition of it.
    pub(super) fn is_whole(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.part.is_none())
    }
}

/// One factory.
#[derive(Debug)]
pub(super) struct Factory {
    pub(super) id: FactoryId,
    pub(super) parent: FactoryId,
    /// 1 for those that the server's own made.
    pub(super) depth: usize,
    pub(super) ceiling: Ceiling,
    pub(super) tag: Option<Tag>,
    pub(super) holdings: Vec<Holding>,
    /// It mints no more, and goes when everything below it has gone.
    pub(super) ended: bool,
}

/// All of them but the server's own, by number: so makers stand before what they made.
#[derive(Debug)]
pub(super) struct Tree {
    factories: Vec<Factory>,
    next: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { factories: Vec::new(), next: FactoryId::SERVER.0 + 1 }
    }
}

impl Tree {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Factory> {
        self.factories.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.factories.len()
    }

    pub(super) fn get(&self, id: FactoryId) -> Option<&Factory> {
        let at = self.factories.binary_search_by_key(&id, |f| f.id).ok()?;
        self.factories.get(at)
    }

    pub(super) fn at(&self, index: usize) -> Option<&Factory> {
        self.factories.get(index)
    }

    pub(super) fn at_mut(&mut self, index: usize) -> Option<&mut Factory> {
        self.factories.get_mut(index)
    }

    /// A factory and all that it stands below, the server's own aside; from itself upwards.
    pub(super) fn upwards(&self, from: FactoryId) -> impl Iterator<Item = &Factory> {
        // Each has a parent that was there before it, so this has an end.
        core::iter::successors(self.get(from), |factory| self.get(factory.parent))
    }

    /// Whether it is `above`, or stands below it.
    pub(super) fn is_below(&self, id: FactoryId, above: FactoryId) -> bool {
        above == FactoryId::SERVER || self.upwards(id).any(|f| f.id == above)
    }

    /// The one right below the server's own that it stands below, or is.
    pub(super) fn top(&self, id: FactoryId) -> FactoryId {
        self.upwards(id).last().map_or(FactoryId::SERVER, |f| f.id)
    }

    pub(super) fn add(
        &mut self,
        parent: FactoryId,
        ceiling: Ceiling,
        tag: Option<Tag>,
        holdings: Vec<Holding>,
    ) -> FactoryId {
        let id = FactoryId(self.next);
        let depth = self.get(parent).map_or(0, |f| f.depth) + 1;
        let at = self.factories.partition_point(|f| f.id < id);
        self.factories.insert(at, Factory { id, parent, depth, ceiling, tag, holdings, ended: false });
        self.next += 1;
        id
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Numbers below this one are used.
    pub(super) fn begin_at(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// One that has a number, which no other has.
    pub(super) fn add_numbered(
        &mut self,
        number: u64,
        parent: FactoryId,
        ceiling: Ceiling,
        tag: Option<Tag>,
        holdings: Vec<Holding>,
    ) -> FactoryId {
        let next = self.next.max(number.saturating_add(1));
        self.next = number;
        let id = self.add(parent, ceiling, tag, holdings);
        self.next = next;
        id
    }

    /// Neither it nor anything below it mints any more.
    pub(super) fn end(&mut self, id: FactoryId) {
        let below: Vec<FactoryId> = self.iter().map(|f| f.id).filter(|f| self.is_below(*f, id)).collect();
        for factory in self.factories.iter_mut().filter(|f| below.contains(&f.id)) {
            factory.ended = true;
        }
    }

    /// Takes out those that ended and have nothing below them: what is below first, parents after children.
    pub(super) fn take_ended(&mut self, has_sessions: impl Fn(FactoryId) -> bool) -> Vec<FactoryId> {
        let mut gone = Vec::new();
        // Makers stand before what they made, so one way through from the end finds them all.
        for index in (0..self.factories.len()).rev() {
            let Some(factory) = self.factories.get(index) else { continue };
            let id = factory.id;
            let has_factories = self.factories.iter().any(|f| f.parent == id);
            if factory.ended && !has_factories && !has_sessions(id) {
                self.factories.remove(index);
                gone.push(id);
            }
        }
        gone
    }
}
