//! Links the core, and the software controller, without std. What a home has to bring is all that is here: an
//! allocator and a panic handler. `cargo xtask test` links the archive into a shared object with nothing else
//! but libc's memory functions.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use core::panic::PanicInfo;

use nvme_core::server::control::{Config, Control};
use nvme_core::server::worker::Worker;
use nvme_platform::Time;

#[global_allocator]
static HEAP: linked_list_allocator::LockedHeap = linked_list_allocator::LockedHeap::empty();

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Both roles over a software controller, on one thread.
pub fn serve(config: Config, soft: nvme_soft::Config, now: fn() -> Time) {
    let poll_for = core::time::Duration::ZERO;
    let (mut control, mut worker) = (Control::new(config), Worker::new(poll_for));
    if let Ok(device) = nvme_soft::SoftDevice::new(soft) {
        control.add_device("soft", Box::new(device));
    }
    loop {
        control.poll(now());
        while let Some((_, message)) = control.take_message() {
            worker.handle(message, now());
        }
        worker.pass(now(), &now);
        while let Some(message) = worker.take_message() {
            control.from_worker(0, message, now());
        }
        while control.take_event().is_some() {}
    }
}
