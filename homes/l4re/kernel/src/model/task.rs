//! Another task, as the test plays it.

use alloc::collections::BTreeMap;

use nvme_platform::{PAGE, Window};

use super::world::{
    Answer, Call, CallId, Dataspace, Gate, Id, Irq, Kind, Model, NOTHING, Object, Ready, Said, Slot, TaskCap,
};

/// A task. It goes on living when this is dropped, until it [dies](Task::die); a copy stands for the same one.
#[derive(Clone)]
pub struct Task {
    model: Model,
    id: Id,
}

impl Task {
    pub(super) fn new(model: Model, id: Id) -> Self {
        Self { model, id }
    }

    fn hold(&self, slot: Slot) -> TaskCap {
        let mut world = self.model.world();
        let number = world.number();
        let held = world.tasks.entry(self.id).or_default();
        held.insert(number, slot);
        TaskCap(number)
    }

    fn held(&self, cap: TaskCap) -> Slot {
        let world = self.model.world();
        let slot = world.tasks.get(&self.id).and_then(|held: &BTreeMap<u64, Slot>| held.get(&cap.0));
        *slot.expect("a capability of the task's own")
    }

    fn make(&self, object: Object) -> TaskCap {
        let object = self.model.world().make(object);
        self.hold(Slot { object, writable: true, special: true, deletable: true })
    }

    /// A gate that the task under test may serve, and knows by that name.
    pub fn channel(&self, name: &str) -> TaskCap {
        let cap = self.make(Object::Gate(Gate { label: None, own: false, sent: false }));
        self.model.name(name, self.held(cap).object, true);
        cap
    }

    /// A dataspace of its own.
    pub fn dataspace(&self, kind: Kind, len: usize) -> TaskCap {
        let memory = nvme_mem::heap(len.next_multiple_of(PAGE)).expect("memory");
        self.make(Object::Dataspace(Dataspace { kind, memory }))
    }

    /// Lets the task under test know one of its capabilities by a name: it trusts it then.
    pub fn trust(&self, name: &str, cap: TaskCap) {
        let Slot { object, writable, .. } = self.held(cap);
        self.model.name(name, object, writable);
        self.model.world().own.push(object);
    }

    /// Deletes a dataspace, whoever else has a capability to it.
    pub fn delete_dataspace(&self, cap: TaskCap) {
        let id = self.held(cap).object;
        self.model.world().vanish(id);
    }

    /// An interrupt of its own.
    pub fn irq(&self) -> TaskCap {
        self.make(Object::Irq(Irq { label: None, raised: 0 }))
    }

    /// Some other object.
    pub fn other(&self) -> TaskCap {
        self.make(Object::Other)
    }

    /// The same capability without the S right.
    pub fn weaker(&self, cap: TaskCap) -> TaskCap {
        self.hold(Slot { special: false, ..self.held(cap) })
    }

    /// The same capability without the D right.
    pub fn undeletable(&self, cap: TaskCap) -> TaskCap {
        self.hold(Slot { deletable: false, ..self.held(cap) })
    }

    /// The same capability without the right to write.
    pub fn read_only(&self, cap: TaskCap) -> TaskCap {
        self.hold(Slot { writable: false, ..self.held(cap) })
    }

    /// Gives another task what it has.
    pub fn give(&self, cap: TaskCap, to: &Task) -> TaskCap {
        to.hold(self.held(cap))
    }

    /// Maps a dataspace.
    pub fn window(&self, cap: TaskCap) -> Window {
        let id = self.held(cap).object;
        match self.model.world().objects.get(&id) {
            Some(Object::Dataspace(found)) => found.memory.clone(),
            _ => panic!("no dataspace"),
        }
    }

    /// Calls an object. The answer comes when the task under test gives it.
    pub fn call(&self, cap: TaskCap, said: Said) -> CallId {
        let slot = self.held(cap);
        let mut world = self.model.world();
        let number = world.number();
        let there = world.objects.contains_key(&slot.object);
        let answer = (!there).then_some(Answer::Gone);
        let call = Call { from: self.id, to: slot.object, special: slot.special, said, answer };
        world.calls.insert(number, call);
        if there {
            world.ready.push_back(Ready::Call(CallId(number)));
        }
        CallId(number)
    }

    /// The answer to a call, if it was given.
    pub fn answer(&self, call: CallId) -> Option<Answer> {
        self.model.world().calls.get(&call.0).and_then(|call| call.answer.clone())
    }

    /// Raises an interrupt that it has.
    pub fn trigger(&self, cap: TaskCap) {
        let id = self.held(cap).object;
        self.model.world().raise(id);
    }

    /// How often an interrupt of its own was raised.
    pub fn raised(&self, cap: TaskCap) -> u64 {
        let id = self.held(cap).object;
        match self.model.world().objects.get(&id) {
            Some(Object::Irq(irq)) => irq.raised,
            _ => 0,
        }
    }

    /// Gives a capability up.
    pub fn release(&self, cap: TaskCap) {
        let mut world = self.model.world();
        if let Some(held) = world.tasks.get_mut(&self.id) {
            held.remove(&cap.0);
        }
        world.collect();
    }

    /// Deletes an object: with the D right it is gone for everybody, without it only this capability is.
    pub fn delete(&self, cap: TaskCap) {
        if self.held(cap).deletable {
            self.destroy(cap);
        }
        self.release(cap);
    }

    /// Takes one of its objects away from everybody, as a memory server does when its client's account is closed.
    pub fn destroy(&self, cap: TaskCap) {
        let id = self.held(cap).object;
        let mut world = self.model.world();
        let gate = matches!(world.objects.get(&id), Some(Object::Gate(_)));
        world.kill(id);
        if let Some(deletion) = world.deletion.filter(|_| gate) {
            world.raise(deletion);
        }
    }

    /// It is gone, with all that it held and all that it gave; what it had called is not answered any more.
    pub fn die(self) {
        let mut world = self.model.world();
        world.tasks.remove(&self.id);
        let given = world.given.iter().filter(|(_, from)| **from == self.id).map(|(slot, _)| *slot);
        let given: alloc::vec::Vec<usize> = given.collect();
        for slot in given {
            if let Some(slot) = world.slots.get_mut(&slot) {
                slot.object = NOTHING;
            }
        }
        let calls = world.calls.iter().filter(|(_, call)| call.from == self.id && call.is_waiting());
        let calls: alloc::vec::Vec<u64> = calls.map(|(number, _)| *number).collect();
        for call in calls {
            world.abort(call);
        }
        world.collect();
    }
}
