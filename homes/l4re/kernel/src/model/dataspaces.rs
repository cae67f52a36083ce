//! Dataspaces: windows on the heap.
#![expect(unsafe_code, reason = "makes windows of the model's memory")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use nvme_platform::{Owner, PAGE, Window};

use super::world::{Dataspace, Id, Kind, Model, Object, World};
use crate::kernel::{Cap, DataspaceInfo, Dataspaces, L4Error};

/// What is behind the owner of a window that was attached.
pub struct Attached {
    /// The dataspace's number.
    pub object: u64,
    /// Where in it the window begins.
    pub offset: u64,
    /// Keeps the bytes.
    _memory: Window,
}

impl Model {
    fn dataspace(&self, cap: Cap) -> Option<(Id, Kind, Window)> {
        match self.world().object(cap) {
            Some((id, Object::Dataspace(found))) => Some((id, found.kind, found.memory.clone())),
            _ => None,
        }
    }
}

impl Dataspaces for Model {
    fn is_memory(&mut self, dataspace: Cap) -> bool {
        self.dataspace(dataspace).is_some_and(|(_, kind, _)| matches!(kind, Kind::Memory | Kind::ReadOnly))
    }

    fn info(&mut self, dataspace: Cap) -> Result<DataspaceInfo, L4Error> {
        let Some((id, kind, memory)) = self.dataspace(dataspace) else { return Err(L4Error::INVAL) };
        let world = self.world();
        let own = world.own.contains(&id);
        assert!(own || matches!(kind, Kind::Memory | Kind::ReadOnly), "a client's capability was called");
        if kind == Kind::Bus {
            return Err(L4Error::NOSYS);
        }
        let writable = kind != Kind::ReadOnly && world.slot(dataspace).writable;
        Ok(DataspaceInfo { size: memory.len() as u64, writable })
    }

    fn attach(&mut self, dataspace: Cap, offset: u64, len: usize, writable: bool) -> Result<Window, L4Error> {
        let Some((id, kind, memory)) = self.dataspace(dataspace) else { return Err(L4Error::INVAL) };
        let mut world = self.world();
        let own = world.own.contains(&id);
        assert!(own || matches!(kind, Kind::Memory | Kind::ReadOnly), "a client's capability was attached");
        assert!(offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE), "whole pages are attached");
        if writable && (kind == Kind::ReadOnly || !world.slot(dataspace).writable) {
            return Err(L4Error::PERM);
        }
        world.attach_quota = world.attach_quota.checked_sub(1).ok_or(L4Error::NOMEM)?;
        let at = usize::try_from(offset).map_err(|_| L4Error::RANGE)?;
        let part = memory.sub(at, len).map_err(|_| L4Error::RANGE)?;
        let base = NonNull::new(part.address() as *mut u8).filter(|_| len > 0).ok_or(L4Error::INVAL)?;
        let owner = Arc::new(Owner::new(Box::new(Attached { object: id, offset, _memory: memory })));
        world.attached.push((id, dataspace.0, Arc::downgrade(&owner)));
        // SAFETY: the bytes are the heap's, valid and writable as long as the window that the owner keeps; nobody has a
        // reference to them.
        Ok(unsafe { Window::new(base, len, owner) })
    }

    fn allocate(&mut self, len: usize) -> Result<Cap, L4Error> {
        let memory = nvme_mem::heap(len.next_multiple_of(PAGE)).ok_or(L4Error::NOMEM)?;
        let mut world = self.world();
        world.quota = world.quota.checked_sub(1).ok_or(L4Error::NOMEM)?;
        let id = world.make(Object::Dataspace(Dataspace { kind: Kind::Memory, memory }));
        world.own.push(id);
        Ok(world.install(id, true))
    }

    fn has_reserve(&mut self) -> bool {
        self.world().reserve
    }

    fn vanished(&mut self) -> bool {
        core::mem::take(&mut self.world().vanished)
    }
}

impl World {
    /// The dataspace is gone. The real kernel notices at the next access; here it is noticed at once.
    pub(super) fn vanish(&mut self, dataspace: Id) {
        let Some(Object::Dataspace(gone)) = self.objects.remove(&dataspace) else { panic!("no dataspace") };
        for (_, _, owner) in self.attached.iter().filter(|(id, ..)| *id == dataspace) {
            if let Some(owner) = owner.upgrade() {
                owner.fail();
                self.vanished = true;
            }
        }
        let _ = gone.memory.fill(0, gone.memory.len(), 0);
    }
}
