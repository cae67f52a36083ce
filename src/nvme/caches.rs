//! What is to be done around a transfer where a device does not look into the CPU's caches: [`Caches`](nvme_platform::Caches).

use nvme_platform::{Caches, DmaRights};
use nvme_session::memory::Windows;
use nvme_session::operation::Operation;
use nvme_session::queue::Request;

use super::clients::Clients;

/// Has the device see what a client wrote, and nothing of what is in the caches come over what the device is going to write.
#[cold]
pub(super) fn before<W: Windows + ?Sized>(caches: &dyn Caches, operation: &Operation, windows: &W) {
    let (transfer, rights) = match operation {
        Operation::Read(transfer) => (transfer, DmaRights::ReadWrite),
        Operation::Write { transfer, .. } => (transfer, DmaRights::Read),
        _ => return,
    };
    for memory in transfer.memory().iter().filter_map(|range| windows.window(range)) {
        caches.before(&memory, rights);
    }
}

/// Whatever the controller says of a read, it may have written there: nothing of what was loaded meanwhile is to be seen.
#[cold]
pub(super) fn after(caches: &dyn Caches, request: &Request, clients: &dyn Clients) {
    let Operation::Read(transfer) = request.operation() else { return };
    for memory in transfer.memory().iter().filter_map(|range| clients.window(request.tag(), range)) {
        caches.after(&memory);
    }
}
