//! Messages: calls, sends, and the receive side of a server.
#![expect(unsafe_code, reason = "makes system calls")]

use super::arch;
use super::types::{
    L4_CAP_SHIFT, L4_INVALID_CAP, L4_IPC_BOTH_TIMEOUT_0, L4_IPC_NEVER, L4_RCV_ITEM_SINGLE_CAP, l4_cap_idx_t,
    l4_msgtag_t, l4_mword_t, l4_timeout_t, l4_umword_t,
};
use super::utcb::l4_utcb;
use crate::kernel::L4Error;

/// Flags of the system call: send, receive, from anybody, to the caller.
const SEND: l4_umword_t = 1;
const CALL: l4_umword_t = 3;
const RECEIVE: l4_umword_t = 2;
const WAIT: l4_umword_t = 6;
const REPLY: l4_umword_t = 8;
const REPLY_AND_WAIT: l4_umword_t = 0xf;

/// Selects a place for a caller, of those that this task has, instead of the one that each thread has.
const L4_REPLY_CAP_BIT: l4_cap_idx_t = 1 << (L4_CAP_SHIFT - 2);
/// Why nothing was received: nothing came.
const L4_IPC_RETIMEOUT: l4_umword_t = 3;

/// Errors of delivery begin here: `-(2000 + code)`.
const L4_EIPC_LO: l4_mword_t = 2000;

/// What a call answered: an error, or what is not negative, with the tag.
pub(super) fn l4_error(tag: l4_msgtag_t) -> Result<l4_msgtag_t, L4Error> {
    if tag.has_error() {
        return Err(L4Error((-L4_EIPC_LO - l4_utcb().error() as l4_mword_t) as i64));
    }
    if tag.label() < 0 { Err(L4Error(tag.label() as i64)) } else { Ok(tag) }
}

/// Calls an object with what is in the message registers. `into`: the free slot for a capability that comes back.
///
/// # Safety
/// As for [`arch::l4_ipc`]. The object must be the kernel's, or a server's that this program trusts to answer.
pub(super) unsafe fn l4_ipc_call(
    object: l4_cap_idx_t,
    tag: l4_msgtag_t,
    into: Option<l4_cap_idx_t>,
) -> Result<l4_msgtag_t, L4Error> {
    offer_buffer(into);
    // SAFETY: the caller's promise.
    let (tag, _) = unsafe { arch::l4_ipc(object, CALL, 0, tag, L4_IPC_NEVER) };
    l4_error(tag)
}

/// Sends to an object at once, or not at all. No answer.
///
/// # Safety
/// As for [`arch::l4_ipc`].
pub(super) unsafe fn l4_ipc_send(object: l4_cap_idx_t, tag: l4_msgtag_t) -> Result<(), L4Error> {
    // SAFETY: the caller's promise.
    let (tag, _) = unsafe { arch::l4_ipc(object, SEND, 0, tag, L4_IPC_BOTH_TIMEOUT_0) };
    // The label of a send is our own.
    if tag.has_error() { l4_error(tag).map(|_| ()) } else { Ok(()) }
}

/// Where the kernel remembers a caller until it is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(l4_cap_idx_t);

impl Place {
    /// The thread's own. The next receive forgets who was there.
    pub(super) const THREAD: Self = Self(L4_INVALID_CAP);

    /// The task's place of this number. Nobody else may use it.
    pub(super) const fn of_task(number: usize) -> Self {
        Self(number << L4_CAP_SHIFT | L4_REPLY_CAP_BIT)
    }

    /// Whether there is such a place, and makes room for it. To be asked before anybody can send anything.
    pub(super) fn is_there(self) -> bool {
        offer_buffer(None);
        // SAFETY: nothing comes, and nothing can be mapped.
        let (tag, _) =
            unsafe { arch::l4_ipc(self.0, WAIT, 0, l4_msgtag_t::new(0, 0, 0), L4_IPC_BOTH_TIMEOUT_0) };
        tag.has_error() && l4_utcb().error() == L4_IPC_RETIMEOUT
    }
}

/// Answers whoever is remembered there with what is in the message registers. False: nobody is.
pub(super) fn l4_ipc_reply(place: Place, reply: l4_msgtag_t) -> bool {
    // SAFETY: as in `l4_ipc_receive`.
    let (tag, _) = unsafe { arch::l4_ipc(place.0, SEND | REPLY, 0, reply, L4_IPC_BOTH_TIMEOUT_0) };
    !tag.has_error()
}

/// Takes a message from anybody, after the caller of the last one was answered with what is in the message registers, if
/// there is a `reply`. A caller that does not wait any more gets none. Says also whether the answer was delivered. Who was to be
/// answered, and who called now, is in `place`.
///
/// # Safety
/// `slot` is free.
pub(super) unsafe fn l4_ipc_receive(
    place: Place,
    reply: Option<l4_msgtag_t>,
    slot: Option<l4_cap_idx_t>,
    micros: Option<u64>,
) -> (bool, Option<(l4_msgtag_t, l4_umword_t)>) {
    let (timeout, mut delivered) = (l4_timeout_t::receive(micros), true);
    offer_buffer(slot);
    if let Some(reply) = reply {
        // SAFETY: an answer goes to whoever waits for it, and may give it a capability, never memory; what is received is
        // words, and a capability in a free slot.
        let (tag, label) = unsafe { arch::l4_ipc(place.0, REPLY_AND_WAIT, 0, reply, timeout) };
        if !tag.has_error() {
            return (true, Some((tag, label)));
        }
        // Even codes are of sending: nothing was received then.
        if l4_utcb().error() & 1 != 0 {
            return (true, None);
        }
        delivered = false;
        offer_buffer(slot);
    }
    // SAFETY: as above.
    let (tag, label) = unsafe { arch::l4_ipc(place.0, WAIT, 0, l4_msgtag_t::new(0, 0, 0), timeout) };
    (delivered, (!tag.has_error()).then_some((tag, label)))
}

/// Waits for about this long, and not less. Takes no message.
pub(super) fn l4_sleep(micros: u64) {
    offer_buffer(None);
    let (timeout, tag) = (l4_timeout_t::receive(Some(micros)), l4_msgtag_t::new(0, 0, 0));
    // SAFETY: it receives from nobody.
    let _ = unsafe { arch::l4_ipc(L4_INVALID_CAP, RECEIVE, 0, tag, timeout) };
}

/// One capability can be received, or none; and no memory, and no ports.
fn offer_buffer(slot: Option<l4_cap_idx_t>) {
    let utcb = l4_utcb();
    // Buffers for memory are looked for behind the list of those for capabilities.
    utcb.set_bdr(if slot.is_some() { 2 } else { 0 });
    let first: fn(l4_cap_idx_t) -> l4_umword_t = |slot| slot | L4_RCV_ITEM_SINGLE_CAP;
    utcb.set_br(0, slot.map_or(0, first));
    utcb.set_br(1, 0);
    utcb.set_br(2, 0);
}
