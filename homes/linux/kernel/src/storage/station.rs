//! A thread's place at the storage: its ring, if it has one, and the bell that wakes it.
//!
//! A thread [`takes`](take) its place once. Requests that it begins go out with its next [`turn`], and come back in one.
//! Before it sleeps it [`arms`](arm); what comes back then makes [`event`] readable, or rings the bell.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_soft::{Begun, Request};

use super::image::Image;
use super::ring::{Ring, Seed};
use crate::events::Doorbell;

struct Station {
    ring: Option<Ring>,
    bell: Arc<Doorbell>,
}

thread_local! {
    static HERE: RefCell<Option<Station>> = const { RefCell::new(None) };
}

/// Takes the calling thread's place. The ring is enabled, and is this thread's alone from here on.
pub fn take(seed: Option<Seed>, bell: &Arc<Doorbell>) -> io::Result<()> {
    let ring = seed.map(Seed::enable).transpose()?;
    HERE.with_borrow_mut(|here| *here = Some(Station { ring, bell: Arc::clone(bell) }));
    Ok(())
}

fn with_ring<T>(what: impl FnOnce(&mut Ring) -> T) -> Option<T> {
    HERE.with_borrow_mut(|here| here.as_mut()?.ring.as_mut().map(what))
}

/// Submits what was begun, and ends what came back. True: something did.
pub fn turn() -> bool {
    with_ring(Ring::turn).unwrap_or(false)
}

/// Asks to be woken. False: something came back, or is to be submitted; another turn comes first.
#[must_use = "a thread that sleeps nevertheless is not woken"]
pub fn arm() -> bool {
    with_ring(Ring::arm).unwrap_or(true)
}

/// The thread is awake.
pub fn disarm() {
    with_ring(|ring| ring.disarm());
}

/// What becomes readable when something came back, to be watched at its edges.
pub fn event() -> Option<Arc<OwnedFd>> {
    with_ring(|ring| ring.event())
}

/// The calling thread's bell, if it took its place.
pub(super) fn bell() -> Option<Arc<Doorbell>> {
    HERE.with_borrow(|here| here.as_ref().map(|here| Arc::clone(&here.bell)))
}

/// Begins a request on the calling thread's ring. `Err`: it has none.
pub(super) fn begin(image: &Arc<Image>, request: Request) -> Result<Begun, Request> {
    HERE.with_borrow_mut(|here| {
        match here.as_mut().and_then(|here| here.ring.as_mut().zip(Some(&here.bell))) {
            Some((ring, bell)) => Ok(ring.begin(image, request, bell)),
            None => Err(request),
        }
    })
}
