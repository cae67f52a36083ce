//! Kernel objects: gates, interrupts, threads, capability slots. What the C headers have as inline functions.
#![expect(unsafe_code, reason = "makes system calls")]

use super::c;
use super::env;
use super::ipc::{l4_ipc_call, l4_ipc_send};
use super::types::{
    L4_BASE_TASK_CAP, L4_CAP_FPAGE_R, L4_CAP_FPAGE_RWS, L4_CAP_FPAGE_RWSD, L4_FP_DELETE_OBJ,
    L4_INVALID_CAP_BIT, L4_ITEM_MAP, L4_PROTO_FACTORY, L4_PROTO_IRQ, L4_PROTO_IRQ_SENDER, L4_PROTO_KOBJECT,
    L4_PROTO_TASK, L4_PROTO_THREAD, l4_cap_idx_t, l4_msgtag_t, l4_mword_t, l4_obj_fpage, l4_umword_t,
};
use super::utcb::l4_utcb;
use crate::kernel::{Cap, L4Error};

const TASK_MAP: l4_umword_t = 0;
const TASK_UNMAP: l4_umword_t = 1;
const TASK_CAP_INFO: l4_umword_t = 2;
const THREAD_REGISTER_DELETE_IRQ: l4_umword_t = 5;
const KOBJECT_DEC_REFCNT: l4_umword_t = 0;
const RCV_EP_BIND: l4_umword_t = 0x10;
const IRQ_EOI: l4_umword_t = 4;
/// An argument of a factory: an unsigned word.
const VARG_UMWORD: l4_umword_t = 1 | 8 << 16;

/// A free capability slot.
pub(super) fn cap_alloc() -> Result<Cap, L4Error> {
    // SAFETY: no arguments; the allocator is L4Re's, which locks.
    let slot = unsafe { c::l4re_util_cap_alloc() };
    if slot & L4_INVALID_CAP_BIT != 0 { Err(L4Error::NOMEM) } else { Ok(Cap(slot)) }
}

/// Empties a slot of ours and gives it back.
pub(super) fn cap_free(cap: Cap) {
    // SAFETY: the slot came from the allocator, and whoever had it gives it up; emptying it takes no memory away.
    unsafe { c::l4re_util_cap_free_um(cap.0) };
}

/// Calls an object that the kernel implements, with words (and one capability behind them).
///
/// # Safety
/// As for [`l4_ipc_call`].
unsafe fn call(
    object: l4_cap_idx_t,
    protocol: l4_mword_t,
    words: &[l4_umword_t],
    item: Option<l4_umword_t>,
    into: Option<Cap>,
) -> Result<l4_msgtag_t, L4Error> {
    let utcb = l4_utcb();
    utcb.set_mrs(words);
    if let Some(item) = item {
        utcb.set_mr(words.len(), L4_ITEM_MAP);
        utcb.set_mr(words.len() + 1, item);
    }
    let tag = l4_msgtag_t::new(protocol, words.len(), usize::from(item.is_some()));
    // SAFETY: the caller's promise.
    unsafe { l4_ipc_call(object, tag, into.map(|cap| cap.0)) }
}

/// Asks a factory for an object, in a new slot.
///
/// # Safety
/// As for [`l4_ipc_call`], for the factory.
pub(super) unsafe fn l4_factory_create(
    factory: l4_cap_idx_t,
    words: &[l4_umword_t],
    item: Option<l4_umword_t>,
) -> Result<Cap, L4Error> {
    let slot = cap_alloc()?;
    // SAFETY: the caller's promise; the slot is new.
    match unsafe { call(factory, L4_PROTO_FACTORY, words, item, Some(slot)) } {
        Ok(_) => Ok(slot),
        Err(why) => {
            cap_free(slot);
            Err(why)
        }
    }
}

/// A gate that reports to this program's server thread.
pub(super) fn create_gate(label: u64) -> Result<Cap, L4Error> {
    let thread = l4_obj_fpage(env::get().main_thread, L4_CAP_FPAGE_RWS);
    let words = [0, VARG_UMWORD, label as l4_umword_t];
    // SAFETY: the kernel's factory makes a gate.
    unsafe { l4_factory_create(env::get().factory, &words, Some(thread)) }
}

/// An interrupt, bound to nothing.
pub(super) fn create_irq() -> Result<Cap, L4Error> {
    // SAFETY: the kernel's factory makes an interrupt.
    unsafe { l4_factory_create(env::get().factory, &[L4_PROTO_IRQ_SENDER as l4_umword_t], None) }
}

/// Has a gate or an interrupt report to the server thread under this label.
pub(super) fn bind(object: Cap, label: u64) -> Result<(), L4Error> {
    let thread = l4_obj_fpage(env::get().main_thread, L4_CAP_FPAGE_RWS);
    // SAFETY: the kernel binds it. (With a capability that has no right to serve, the message goes to the server at its other
    // end: the program was then started with a wrong capability, by the one whom it trusts.)
    unsafe { call(object.0, L4_PROTO_KOBJECT, &[RCV_EP_BIND, label as l4_umword_t], Some(thread), None) }
        .map(|_| ())
}

/// Takes our own reference from a gate: it is gone when the last other one is.
pub(super) fn dec_refcnt(object: Cap) -> Result<(), L4Error> {
    // SAFETY: the kernel changes a counter of an object that we made.
    unsafe { call(object.0, L4_PROTO_KOBJECT, &[KOBJECT_DEC_REFCNT, 1], None, None) }.map(|_| ())
}

/// Raises the interrupt whenever a gate of the server thread is gone.
pub(super) fn register_del_irq(irq: Cap) -> Result<(), L4Error> {
    let item = l4_obj_fpage(irq.0, L4_CAP_FPAGE_RWS);
    let thread = env::get().main_thread;
    // SAFETY: the kernel takes note of an interrupt.
    unsafe { call(thread, L4_PROTO_THREAD, &[THREAD_REGISTER_DELETE_IRQ], Some(item), None) }.map(|_| ())
}

/// Whether there is an object in the slot.
pub(super) fn cap_valid(cap: Cap) -> bool {
    // SAFETY: the kernel looks.
    let tag = unsafe { call(L4_BASE_TASK_CAP, L4_PROTO_TASK, &[TASK_CAP_INFO, cap.0], None, None) };
    tag.is_ok_and(|tag| tag.label() > 0)
}

/// Whether both are the same object, with the same rights of those that count.
pub(super) fn cap_equal(a: Cap, b: Cap) -> bool {
    // SAFETY: the kernel looks.
    let tag = unsafe { call(L4_BASE_TASK_CAP, L4_PROTO_TASK, &[TASK_CAP_INFO, a.0, b.0], None, None) };
    tag.is_ok_and(|tag| tag.label() == 1)
}

/// A second capability to the same object, with no more than these rights, in a new slot.
pub(super) fn cap_copy(cap: Cap, rights: l4_umword_t) -> Result<Cap, L4Error> {
    let slot = cap_alloc()?;
    let from = l4_obj_fpage(L4_BASE_TASK_CAP, L4_CAP_FPAGE_RWS);
    // Where it goes: an object item that maps.
    let spot = slot.0 | L4_ITEM_MAP;
    let words = [TASK_MAP, spot, l4_obj_fpage(cap.0, rights)];
    // SAFETY: the kernel maps a capability into a slot that was free.
    let done = unsafe { call(L4_BASE_TASK_CAP, L4_PROTO_TASK, &words, Some(from), None) };
    if done.is_ok() && cap_valid(slot) {
        return Ok(slot);
    }
    cap_free(slot);
    Err(done.err().unwrap_or(L4Error::NOENT))
}

/// Whether both are the same object, whatever their rights.
pub(super) fn same_object(a: Cap, b: Cap) -> bool {
    if cap_equal(a, b) {
        // Empty slots are equal too. A slot of ours that is empty is not filled again, so one that has something now had it then.
        return cap_valid(a);
    }
    // The kernel compares some of the rights too: compare copies that have the same.
    let Ok(first) = cap_copy(a, L4_CAP_FPAGE_R) else { return false };
    let same = cap_copy(b, L4_CAP_FPAGE_R).is_ok_and(|second| {
        let same = cap_equal(first, second) && cap_valid(first);
        cap_free(second);
        same
    });
    cap_free(first);
    same
}

/// Deletes an object of ours, and gives its slot back.
pub(super) fn delete(object: Cap) {
    let words = [TASK_UNMAP, L4_FP_DELETE_OBJ, l4_obj_fpage(object.0, L4_CAP_FPAGE_RWSD)];
    // SAFETY: the kernel deletes a gate or an interrupt; no memory.
    let _ = unsafe { call(L4_BASE_TASK_CAP, L4_PROTO_TASK, &words, None, None) };
    cap_free(object);
}

/// Raises an interrupt: anybody's. What is no interrupt and does not wait for a message gets none.
pub(super) fn trigger(irq: Cap) {
    // SAFETY: an empty message, sent at once or not at all.
    let _ = unsafe { l4_ipc_send(irq.0, l4_msgtag_t::new(L4_PROTO_IRQ, 0, 0)) };
}

/// Lets an interrupt come again.
pub(super) fn unmask(irq: Cap) -> Result<(), L4Error> {
    l4_utcb().set_mr(0, IRQ_EOI);
    // SAFETY: the kernel unmasks an interrupt of ours. There is no answer.
    unsafe { l4_ipc_send(irq.0, l4_msgtag_t::new(L4_PROTO_IRQ, 1, 0)) }
}
