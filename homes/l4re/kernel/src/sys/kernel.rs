//! The kernel's side of the home's traits.
#![expect(unsafe_code, reason = "makes system calls for the traits of the home")]

use alloc::sync::Arc;

use nvme_platform::{DmaRights, PAGE, Time, Window};

use super::arch::Clock;
use super::callers::Callers;
use super::env;
use super::ipc::{l4_ipc_receive, l4_ipc_reply};
use super::types::{
    L4_CAP_FPAGE_R, L4_CAP_FPAGE_RW, L4_CAP_FPAGE_RWSD, L4_CAP_FPAGE_S, L4_ITEM_MAP, RECEIVED, l4_msgtag_t,
    l4_mword_t, l4_obj_fpage, l4_umword_t,
};
use super::utcb::l4_utcb;
use super::vbus::{Hardware, Spaces, dma_map, dma_unmap};
use super::{allocate, memory, objects, vanish};
use crate::kernel::{
    Caller, Cap, Capabilities, DataspaceInfo, Dataspaces, HandOut, Incoming, Ipc, L4Error, Label, Message,
    Objects, Reply, WORDS_MAX,
};

/// Rights in a delivered label.
const RIGHTS: l4_umword_t = 3;
/// What moe answers when a range is mapped already, which only memory of its own can be: until May 2026, and since. (Without an IOMMU
/// newer ones do not look.)
const MAPPED_ALREADY: [L4Error; 2] = [L4Error(-17), L4Error(-99)];

/// This task and its server thread. To be used on that thread, the main one.
pub struct Kernel {
    clock: Clock,
    /// The free slot for the next capability that comes.
    slot: Option<Cap>,
    delivered: bool,
    callers: Callers,
    spaces: Spaces,
}

impl Kernel {
    /// For the main thread.
    pub fn new() -> Self {
        vanish::install();
        let (clock, callers) = (env::clock(), Callers::new());
        Self { clock, slot: None, delivered: true, callers, spaces: Arc::default() }
    }

    /// The virtual bus of this capability.
    pub fn bus(&self, vbus: Cap) -> Result<Hardware, L4Error> {
        Hardware::new(vbus, Arc::clone(&self.spaces))
    }

    fn write_reply(reply: &Reply) -> l4_msgtag_t {
        let utcb = l4_utcb();
        let words = reply.words.len().min(WORDS_MAX - if reply.cap.is_some() { 2 } else { 0 });
        for (at, word) in reply.words.iter().take(words).enumerate() {
            utcb.set_mr(at, *word as l4_umword_t);
        }
        if let Some((cap, rights)) = reply.cap {
            let rights = match rights {
                HandOut::Ro => L4_CAP_FPAGE_R,
                HandOut::Rw => L4_CAP_FPAGE_RW,
                HandOut::Rwsd => L4_CAP_FPAGE_RWSD,
            };
            utcb.set_mr(words, L4_ITEM_MAP);
            utcb.set_mr(words + 1, l4_obj_fpage(cap.0, rights));
        }
        l4_msgtag_t::new(reply.label as l4_mword_t, words, usize::from(reply.cap.is_some()))
    }

    /// Copies the message out, before anything else uses the UTCB.
    fn read_message(&mut self, tag: l4_msgtag_t, message: &mut Message) {
        let utcb = l4_utcb();
        message.protocol = tag.label() as i64;
        message.words.clear();
        message.words.extend((0..tag.words()).map(|at| utcb.mr(at) as u64));
        let (mask, mapped) = RECEIVED;
        let has_cap = tag.items() > 0 && utcb.mr(tag.words()) & mask == mapped;
        message.cap = if has_cap { self.slot.take() } else { None };
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Ipc for Kernel {
    fn receive(
        &mut self,
        reply: Option<&Reply>,
        until: Option<Time>,
        message: &mut Message,
    ) -> Option<Incoming> {
        // Without a slot, capabilities cannot come; words can.
        if self.slot.is_none() {
            self.slot = objects::cap_alloc().ok();
        }
        let micros = until.map(|until| (until - self.now()).as_nanos().div_ceil(1000) as u64);
        let reply = reply.map(Self::write_reply);
        // SAFETY: the slot is free: it is taken from `self` when something came into it.
        let (delivered, came) =
            unsafe { l4_ipc_receive(self.callers.place(), reply, self.slot.map(|cap| cap.0), micros) };
        self.delivered = delivered;
        let (tag, label) = came?;
        self.read_message(tag, message);
        Some(Incoming { object: Label((label & !RIGHTS) as u64), special: label & L4_CAP_FPAGE_S != 0 })
    }

    fn delivered(&self) -> bool {
        self.delivered
    }

    fn keep(&mut self) -> Option<Caller> {
        self.callers.keep()
    }

    fn answer(&mut self, caller: Caller, reply: &Reply) -> bool {
        let place = self.callers.take(caller);
        l4_ipc_reply(place, Self::write_reply(reply))
    }

    fn now(&self) -> Time {
        self.clock.now()
    }
}

impl Capabilities for Kernel {
    fn named(&self, name: &str) -> Option<Cap> {
        env::cap(name)
    }

    fn same(&self, a: Cap, b: Cap) -> bool {
        objects::same_object(a, b)
    }

    fn valid(&self, cap: Cap) -> bool {
        objects::cap_valid(cap)
    }

    fn release(&mut self, cap: Cap) {
        objects::cap_free(cap);
    }
}

impl Objects for Kernel {
    fn gate(&mut self, label: Label) -> Result<Cap, L4Error> {
        let gate = objects::create_gate(label.0)?;
        // Our own capability does not keep it: the client's does, once it was sent.
        match objects::dec_refcnt(gate) {
            Ok(()) => Ok(gate),
            Err(why) => {
                objects::delete(gate);
                Err(why)
            }
        }
    }

    fn serve(&mut self, gate: Cap, label: Label) -> Result<(), L4Error> {
        objects::bind(gate, label.0)
    }

    fn irq(&mut self, label: Label) -> Result<Cap, L4Error> {
        let irq = objects::create_irq()?;
        match objects::bind(irq, label.0) {
            Ok(()) => Ok(irq),
            Err(why) => {
                objects::delete(irq);
                Err(why)
            }
        }
    }

    fn raise_on_deletion(&mut self, irq: Cap) -> Result<(), L4Error> {
        objects::register_del_irq(irq)
    }

    fn delete(&mut self, object: Cap) {
        objects::delete(object);
    }

    fn trigger(&self, irq: Cap) {
        objects::trigger(irq);
    }
}

impl Dataspaces for Kernel {
    fn is_memory(&mut self, dataspace: Cap) -> bool {
        let Some(space) = self.spaces.lock().values().next().copied() else { return false };
        match dma_map(space, dataspace, 0, PAGE as u64, DmaRights::ReadWrite) {
            Ok((at, len)) => dma_unmap(space, at, len).is_ok(),
            Err(why) => MAPPED_ALREADY.contains(&why),
        }
    }

    fn info(&mut self, dataspace: Cap) -> Result<DataspaceInfo, L4Error> {
        memory::info(dataspace)
    }

    fn attach(&mut self, dataspace: Cap, offset: u64, len: usize, writable: bool) -> Result<Window, L4Error> {
        memory::attach_dataspace(dataspace, offset, len, writable)
    }

    fn allocate(&mut self, len: usize) -> Result<Cap, L4Error> {
        allocate::pinned(len)
    }

    fn has_reserve(&mut self) -> bool {
        allocate::has_reserve()
    }

    fn vanished(&mut self) -> bool {
        vanish::take()
    }
}
