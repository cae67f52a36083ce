//! Which part of which dataspace a window shows.
#![expect(unsafe_code, reason = "makes windows of what is attached")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::ptr::NonNull;

use nvme_mem::Owner;
use nvme_platform::Window;

use crate::kernel::Cap;

/// Which dataspace a window shows, and where in it the window begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The dataspace.
    pub dataspace: Cap,
    /// The window's first byte in it.
    pub offset: u64,
    /// How many bytes the whole dataspace has.
    pub size: u64,
}

/// The resource of an attached window's owner.
struct Attachment {
    place: Place,
    /// Keeps the bytes.
    region: Window,
    _with: Box<dyn Any + Send + Sync>,
}

/// A window onto what `region` shows, which begins at `place`. For implementors of
/// [`Dataspaces`](crate::kernel::Dataspaces); the capability must stay as long as the window's owner, which `with` is dropped
/// with.
pub fn attached(region: Window, place: Place, with: Box<dyn Any + Send + Sync>) -> Window {
    let len = region.len();
    let base: *mut u8 = core::ptr::with_exposed_provenance_mut(region.address());
    let base = NonNull::new(base).unwrap_or(NonNull::dangling());
    let owner = Owner::new(Box::new(Attachment { place, region, _with: with }));
    // SAFETY: the owner holds `region`, which keeps these bytes mapped, and to which there is no reference either.
    unsafe { Window::new(base, len, Arc::new(owner)) }
}

/// What a window shows. `None`: it was not [`attached`].
pub fn place(window: &Window) -> Option<Place> {
    let attachment = window.owner().resource()?.downcast_ref::<Attachment>()?;
    let into = window.address().checked_sub(attachment.region.address())?;
    let offset = attachment.place.offset.checked_add(into as u64)?;
    Some(Place { offset, ..attachment.place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_window_knows_its_place() {
        let whole = Place { dataspace: Cap(0x5000), offset: 0x10_0000, size: 0x20_0000 };
        let window = attached(nvme_mem::heap(8192).unwrap(), whole, Box::new(()));
        let part = window.sub(4096, 4096).unwrap();
        drop(window);
        assert_eq!(place(&part), Some(Place { offset: 0x10_1000, ..whole }));
        assert_eq!(place(&nvme_mem::heap(4096).unwrap()), None);
    }
}
