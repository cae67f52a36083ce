//! DMA spaces: dataspaces are mapped there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use nvme_platform::{DmaRights, Iova, Window};

use super::memory::{Mapped, Memory};
use super::world::{Bus, Function, World};
use crate::attachment::{Place, attached};
use crate::bus::{DmaSpaces, DriverDataspaces};
use crate::kernel::{Cap, L4Error};

/// Gives a slot back when the last window is gone.
struct Release(Bus, Cap);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

impl Bus {
    /// A new dataspace of a client's, of which `together` bytes lie together on the bus.
    pub fn dataspace(&self, len: usize, together: u64) -> Cap {
        let window = nvme_mem::heap(len).expect("memory");
        let mut world = self.world();
        let object = 1 + world.dma.memory.len() as u64;
        world.dma.memory.insert(object, Memory { window, together });
        world.dma.slot(object)
    }

    /// What is answered from now on when a part of a dataspace is mapped that is mapped already. `None`: it is mapped again, as L4Re does since
    /// June 2026 where there is no IOMMU.
    pub fn set_collision(&self, code: Option<L4Error>) {
        self.world().dma.collision = code;
    }

    /// Deletes a dataspace, and gives its memory to another, as L4Re's memory server does.
    pub fn delete_and_reuse(&self, dataspace: Cap) -> Cap {
        let mut world = self.world();
        let object = world.dma.object(dataspace);
        let memory = world.dma.memory.remove(&object).expect("it is there");
        let next = 1000 + object;
        world.dma.memory.insert(next, memory);
        // The bus still has the old one's addresses for it.
        for mapped in world.dma.mapped.iter_mut().filter(|m| m.object == object) {
            mapped.object = next;
        }
        world.dma.slot(next)
    }

    /// Attaches a part of a dataspace.
    pub fn attach(&self, dataspace: Cap, offset: u64, len: usize) -> Window {
        let (own, size, part) = {
            let mut world = self.world();
            let object = world.dma.object(dataspace);
            let own = world.dma.slot(object);
            let memory = &world.dma.memory[&object].window;
            (own, memory.len() as u64, memory.sub(offset as usize, len).expect("inside"))
        };
        attached(part, Place { dataspace: own, offset, size }, Box::new(Release(self.clone(), own)))
    }

    /// What the devices of a domain reach: dataspaces by number, with offset, length and bus address.
    pub fn mappings(&self, domain: Option<u32>) -> Vec<(u64, u64, u64, u64)> {
        let world = self.world();
        let Some(space) = world.dma.spaces.get(&domain) else { return Vec::new() };
        let of = world.dma.mapped.iter().filter(|m| m.space == *space);
        of.map(|m| (m.object, m.offset, m.len, m.at)).collect()
    }

    /// How many capability slots are in use.
    pub fn slots(&self) -> usize {
        self.world().dma.slots.len()
    }

    /// Whether everything was taken from a domain.
    pub fn is_unassigned(&self, domain: Option<u32>) -> bool {
        self.world().dma.unassigned.contains(&domain)
    }
}

impl World {
    /// The devices of a space.
    fn devices(&mut self, space: Cap) -> impl Iterator<Item = &mut Function> {
        let domains: Vec<Option<u32>> =
            self.dma.spaces.iter().filter(|(_, cap)| **cap == space).map(|(domain, _)| *domain).collect();
        self.functions.iter_mut().filter(move |f| domains.contains(&f.domain) && f.behind.is_some())
    }
}

impl DmaSpaces for Bus {
    fn space(&self, domain: Option<u32>) -> Result<Cap, L4Error> {
        let mut world = self.world();
        if let Some(space) = world.dma.spaces.get(&domain) {
            return Ok(*space);
        }
        let space = world.dma.slot(0);
        world.dma.spaces.insert(domain, space);
        Ok(space)
    }

    fn map(
        &self,
        space: Cap,
        dataspace: Cap,
        offset: u64,
        len: u64,
        rights: DmaRights,
    ) -> Result<(u64, u64), L4Error> {
        let mut world = self.world();
        let object = world.dma.object(dataspace);
        let memory = world.dma.memory.get(&object).ok_or(L4Error::INVAL)?;
        let size = memory.window.len() as u64;
        if offset >= size {
            return Err(L4Error::RANGE);
        }
        let len = len.min(size - offset).min(memory.together - offset % memory.together);
        let overlaps = |m: &Mapped| {
            m.space == space && m.object == object && m.offset < offset + len && offset < m.offset + m.len
        };
        if let Some(code) = world.dma.collision
            && world.dma.mapped.iter().any(overlaps)
        {
            return Err(code);
        }
        let part = memory.window.sub(offset as usize, len as usize).map_err(|_| L4Error::RANGE)?;
        let mut places: Vec<Iova> = Vec::new();
        for function in world.devices(space) {
            if let Some(behind) = &mut function.behind {
                let dma = behind.device().dma();
                let at = dma.reserve(&part, rights).map_err(|_| L4Error::NOMEM)?;
                dma.map(at, &part, rights).map_err(|_| L4Error::NOMEM)?;
                places.push(at);
            }
        }
        let at = places.first().ok_or(L4Error::NODEV)?.0;
        assert!(places.iter().all(|place| place.0 == at), "the devices of a domain see the same addresses");
        world.dma.mapped.push(Mapped { space, object, offset, len, at });
        Ok((at, len))
    }

    fn unmap(&self, space: Cap, at: u64, _: u64) -> Result<(), L4Error> {
        let mut world = self.world();
        let holds = |m: &Mapped| m.space == space && m.at <= at && at < m.at + m.len;
        let index = world.dma.mapped.iter().position(holds).ok_or(L4Error::NOENT)?;
        let mapped = world.dma.mapped.remove(index);
        for function in world.devices(space) {
            if let Some(behind) = &mut function.behind {
                behind.device().dma().unmap(Iova(mapped.at), mapped.len).map_err(|_| L4Error::INVAL)?;
            }
        }
        Ok(())
    }

    fn unassign(&self, domain: Option<u32>) -> Result<(), L4Error> {
        self.world().dma.unassigned.push(domain);
        Ok(())
    }

    fn duplicate(&self, dataspace: Cap) -> Result<Cap, L4Error> {
        let mut world = self.world();
        let object = world.dma.object(dataspace);
        Ok(world.dma.slot(object))
    }
}

impl DriverDataspaces for Bus {
    fn same(&self, a: Cap, b: Cap) -> bool {
        let world = self.world();
        let object = world.dma.object(a);
        // What is not there is nothing, and so not the same.
        object == world.dma.object(b) && world.dma.memory.contains_key(&object)
    }

    fn is_there(&self, dataspace: Cap) -> bool {
        let world = self.world();
        let object = world.dma.object(dataspace);
        world.dma.memory.contains_key(&object)
    }

    fn release(&self, dataspace: Cap) {
        let removed = self.world().dma.slots.remove(&dataspace);
        assert!(removed.is_some(), "slot {:#x} is given back twice", dataspace.0);
    }

    fn memory(&self, len: usize) -> Result<Window, L4Error> {
        let dataspace = self.dataspace(len, u64::MAX);
        let window = self.attach(dataspace, 0, len);
        self.release(dataspace);
        Ok(window)
    }
}
