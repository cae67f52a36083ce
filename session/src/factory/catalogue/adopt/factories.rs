//! Factories that another server made, and that go on in this one.
//!
//! Each holds what it held: by what its devices were bound to, which may be gone and come back. What that is worth now, its maker says, as
//! ever.

use alloc::vec::Vec;

use nvme_policy::{Access, Ceiling, DeviceName, Tag};

use super::super::super::device::{Bound, PartitionEntry};
use super::super::super::error::CreateError;
use super::super::home::Home;
use super::super::tree::{FACTORIES_MAX, FACTORY_DEPTH_MAX, Holding};
use super::super::{Catalogue, FactoryId};
use super::{Placed, PlacedPartition};

/// A device that a factory holds, or is to hold once it is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedHolding {
    /// By what it was named.
    pub name: DeviceName,
    /// What may be done there at most.
    pub access: Access,
    /// What it was bound to; `None` while it was never there. Of a whole namespace the blocks say nothing.
    pub at: Option<Placed>,
}

/// A factory that another server made.
#[derive(Clone, Debug)]
pub struct AdoptedFactory {
    /// Its number.
    pub number: u64,
    /// Which made it.
    pub parent: FactoryId,
    /// What it may give at most.
    pub ceiling: Ceiling,
    /// What listings call it.
    pub tag: Option<Tag>,
    /// What it holds.
    pub holdings: Vec<PlacedHolding>,
}

impl Catalogue {
    /// The number of the next factory.
    pub fn next_factory(&self) -> u64 {
        self.tree.next()
    }

    /// The numbers below this one were used by another server.
    pub fn begin_factories_at(&mut self, next: u64) {
        self.tree.begin_at(next);
    }

    /// The factory of that number; the server's own is 0.
    pub fn factory_numbered(&self, number: u64) -> Option<FactoryId> {
        if number == FactoryId::SERVER.number() {
            return Some(FactoryId::SERVER);
        }
        self.tree.iter().map(|factory| factory.id).find(|id| id.number() == number)
    }

    /// What a factory holds, by what it was bound to.
    pub fn holdings(&self, id: FactoryId) -> Vec<PlacedHolding> {
        let factory = self.tree.get(id);
        let holdings = factory.into_iter().flat_map(|factory| &factory.holdings);
        holdings.map(placed).collect()
    }

    /// Goes on with a factory that another server made, under its number. One of the operator's is here already, by the same words; it holds
    /// what it held there.
    pub fn adopt_factory(&mut self, adopted: AdoptedFactory) -> Result<FactoryId, CreateError> {
        let AdoptedFactory { number, parent, ceiling, tag, holdings } = adopted;
        let holdings: Option<Vec<Holding>> = holdings.into_iter().map(|held| self.holding(held)).collect();
        let holdings = holdings.ok_or(CreateError::NotHeld)?;
        let known = self.tree.iter().position(|factory| factory.id.number() == number);
        let id = if let Some(index) = known {
            let Some(factory) = self.tree.at_mut(index) else { return Err(CreateError::FactoryEnded) };
            if (factory.parent, factory.ceiling, &factory.tag) != (parent, ceiling, &tag) {
                return Err(CreateError::NotHeld);
            }
            factory.holdings = holdings;
            factory.id
        } else {
            // Its maker is here, was there before it, and gives as much.
            if number <= parent.number() || self.ceiling(parent)?.meet(&ceiling) != ceiling {
                return Err(CreateError::NotHeld);
            }
            let depth = self.tree.get(parent).map_or(0, |f| f.depth) + 1;
            if depth > FACTORY_DEPTH_MAX {
                return Err(CreateError::TooDeep { allowed: FACTORY_DEPTH_MAX });
            }
            if self.tree.len() >= FACTORIES_MAX || number == FactoryId::SERVER.number() {
                return Err(CreateError::NoRoomForFactory { allowed: FACTORIES_MAX });
            }
            self.tree.add_numbered(number, parent, ceiling, tag, holdings)
        };
        self.bind_holdings();
        Ok(id)
    }

    /// Not bound to anything here yet. `None`: there is no such place. (A partition whose disk is not there cannot be gone on with.)
    fn holding(&self, placed: PlacedHolding) -> Option<Holding> {
        let PlacedHolding { name, access, at } = placed;
        let Some(at) = at else { return Some(Holding::absent(name, access)) };
        let part = match &at.partition {
            None => None,
            Some(part) => {
                let disk = self.disks.iter().find(|disk| at.is_on(disk))?;
                let partition = PartitionEntry {
                    number: part.number,
                    id: part.id,
                    label: part.label.clone(),
                    extent: at.extent(disk)?,
                    read_only: None,
                };
                Some(Bound { partition, id_taken: part.id_taken, label_taken: part.label_taken })
            }
        };
        let block_size = Some(at.block_size);
        Some(Holding { name, access, home: Some(Home::of_placed(at)), block_size, part, grant: None })
    }
}

fn placed(holding: &Holding) -> PlacedHolding {
    let Holding { name, access, home, block_size, part, .. } = holding;
    let at = home.as_ref().zip(*block_size).map(|(home, block_size)| {
        let (first, blocks) = home.part.unwrap_or_default();
        Placed {
            serial: home.serial.clone(),
            place: home.place,
            disk_identity: home.disk_identity().clone(),
            nsid: home.nsid,
            block_size,
            first,
            blocks,
            partition: part.as_ref().filter(|_| home.part.is_some()).map(PlacedPartition::of),
        }
    });
    PlacedHolding { name: name.clone(), access: *access, at }
}
