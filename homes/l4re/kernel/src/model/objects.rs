//! Slots, gates and interrupts.

use super::world::{Gate, Id, Irq, Model, Object, Ready, World};
use crate::kernel::{Cap, Capabilities, L4Error, Label, Objects};

impl World {
    fn spend(&mut self) -> Result<(), L4Error> {
        self.quota = self.quota.checked_sub(1).ok_or(L4Error::NOMEM)?;
        Ok(())
    }

    fn check_label(&self, label: Label) {
        assert!(label.0.is_multiple_of(4), "{label:?}: the low two bits are the sender's rights");
        let taken = self.objects.keys().any(|id| self.label_of(*id) == Some(label));
        assert!(!taken, "{label:?} is taken");
    }

    pub(super) fn raise(&mut self, id: Id) {
        let Some(Object::Irq(irq)) = self.objects.get_mut(&id) else { return };
        irq.raised += 1;
        if irq.label.is_some() && !self.ready.contains(&Ready::Irq(id)) {
            self.ready.push_back(Ready::Irq(id));
        }
    }

    /// Takes an object away from everybody. Whoever calls it is told.
    pub(super) fn kill(&mut self, id: Id) {
        if self.objects.remove(&id).is_none() {
            return;
        }
        self.ready.retain(|ready| *ready != Ready::Irq(id));
        let aborted: alloc::vec::Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| call.to == id && call.is_waiting())
            .map(|(number, _)| *number)
            .collect();
        for call in aborted {
            self.abort(call);
        }
    }

    /// Gates that nobody else has any more go.
    pub(super) fn collect(&mut self) {
        let held = |id: Id| self.tasks.values().any(|task| task.values().any(|slot| slot.object == id));
        let gone = |(id, object): (&Id, &Object)| match object {
            Object::Gate(gate) if gate.own && gate.sent && !held(*id) => Some(*id),
            _ => None,
        };
        let gone: alloc::vec::Vec<Id> = self.objects.iter().filter_map(gone).collect();
        for id in &gone {
            self.kill(*id);
        }
        if let Some(deletion) = self.deletion.filter(|_| !gone.is_empty()) {
            self.raise(deletion);
        }
    }
}

impl Capabilities for Model {
    fn named(&self, name: &str) -> Option<Cap> {
        self.world().names.get(name).copied()
    }

    fn same(&self, a: Cap, b: Cap) -> bool {
        let world = self.world();
        matches!((world.object(a), world.object(b)), (Some((a, _)), Some((b, _))) if a == b)
    }

    fn valid(&self, cap: Cap) -> bool {
        self.world().object(cap).is_some()
    }

    fn release(&mut self, cap: Cap) {
        let mut world = self.world();
        world.slot(cap);
        world.slots.remove(&cap.0);
        world.given.remove(&cap.0);
        let in_use =
            |(_, slot, owner): &(Id, usize, alloc::sync::Weak<_>)| *slot == cap.0 && owner.strong_count() > 0;
        assert!(!world.attached.iter().any(in_use), "slot {:#x} is given back, and attached", cap.0);
    }
}

impl Objects for Model {
    fn gate(&mut self, label: Label) -> Result<Cap, L4Error> {
        let mut world = self.world();
        world.check_label(label);
        world.spend()?;
        let id = world.make(Object::Gate(Gate { label: Some(label), own: true, sent: false }));
        Ok(world.install(id, true))
    }

    fn serve(&mut self, gate: Cap, label: Label) -> Result<(), L4Error> {
        let mut world = self.world();
        world.check_label(label);
        let id = world.slot(gate).object;
        match world.objects.get_mut(&id) {
            Some(Object::Gate(gate)) => {
                gate.label = Some(label);
                Ok(())
            }
            _ => Err(L4Error::NOSYS),
        }
    }

    fn irq(&mut self, label: Label) -> Result<Cap, L4Error> {
        let mut world = self.world();
        world.check_label(label);
        world.spend()?;
        let id = world.make(Object::Irq(Irq { label: Some(label), raised: 0 }));
        Ok(world.install(id, true))
    }

    fn raise_on_deletion(&mut self, irq: Cap) -> Result<(), L4Error> {
        let mut world = self.world();
        let Some((id, Object::Irq(_))) = world.object(irq) else { return Err(L4Error::INVAL) };
        world.deletion = Some(id);
        Ok(())
    }

    fn delete(&mut self, object: Cap) {
        let mut world = self.world();
        let id = world.slot(object).object;
        world.slots.remove(&object.0);
        world.kill(id);
    }

    fn trigger(&self, irq: Cap) {
        let mut world = self.world();
        let id = world.slot(irq).object;
        world.raise(id);
    }
}
