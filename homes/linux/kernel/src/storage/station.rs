//! A thread's place at the storage: its ring, if it has one, and the bell that wakes it.
//!
//! A thread [`takes`](take) its place once. Requests that it begins go out with its next [`turn`], and come back in one.
//! Before it sleeps it [`arms`](arm), or [`rests`](rest); what comes back then makes [`event`] readable, or rings the bell.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nvme_platform::Time;
use nvme_soft::{Begun, Request};

use super::image::Image;
use super::ring::{Ring, Seed};
use crate::events::Doorbell;

struct Station {
    rings: Vec<Ring>,
    bell: Arc<Doorbell>,
}

thread_local! {
    static HERE: RefCell<Option<Station>> = const { RefCell::new(None) };
}

/// Takes the calling thread's place. The ring is enabled, and is this thread's alone from here on.
pub fn take(seed: Option<Seed>, bell: &Arc<Doorbell>) -> io::Result<()> {
    let rings = seed.map(Seed::enable).transpose()?.unwrap_or_default();
    HERE.with_borrow_mut(|here| *here = Some(Station { rings, bell: Arc::clone(bell) }));
    Ok(())
}

/// Gives the calling thread's rings up, unless something is under way there: the kernel writes to its memory as long as that lasts.
pub fn leave() {
    HERE.with_borrow_mut(|here| {
        if let Some(here) = here.as_mut().filter(|here| here.rings.iter().all(Ring::is_idle)) {
            here.rings.clear();
        }
    });
}

fn with_rings<T>(what: impl FnOnce(&mut [Ring]) -> T) -> Option<T> {
    HERE.with_borrow_mut(|here| here.as_mut().map(|here| what(&mut here.rings)))
}

/// Submits what was begun, and ends what came back. True: something did.
pub fn turn(now: Time) -> bool {
    with_rings(|rings| rings.iter_mut().fold(false, |any, ring| ring.turn(now) | any)).unwrap_or(false)
}

/// Whether storage has much to do for each queue that waits for it, and for how many it has: then no answer is worth being polled for.
pub fn deep(now: Time) -> Option<usize> {
    with_rings(|rings| {
        let mut busy = rings.iter().filter(|ring| !ring.is_idle());
        let queues = busy.try_fold(0, |sum, ring| ring.is_deep(now).then(|| sum + ring.queues()))?;
        (queues > 0).then_some(queues)
    })
    .flatten()
}

/// For how long the thread can sleep without being woken by what comes back, instead of [arming](arm). `None`: it should be woken.
pub fn rest(now: Time) -> Option<Duration> {
    with_rings(|rings| {
        let mut shortest = None;
        for ring in rings.iter_mut().filter(|ring| !ring.is_idle()) {
            let rest = ring.rest(now)?;
            shortest = Some(shortest.map_or(rest, |other: Duration| other.min(rest)));
        }
        shortest
    })
    .flatten()
}

/// Asks to be woken. False: something came back, or is to be submitted; another turn comes first.
#[must_use = "a thread that sleeps nevertheless is not woken"]
pub fn arm() -> bool {
    with_rings(|rings| {
        let first = rings.iter_mut().position(|ring| !ring.arm());
        // Those before it have nothing to be woken for.
        rings.iter_mut().take(first.unwrap_or(0)).for_each(Ring::disarm);
        first.is_none()
    })
    .unwrap_or(true)
}

/// The thread is awake.
pub fn disarm() {
    with_rings(|rings| rings.iter_mut().for_each(Ring::disarm));
}

/// What becomes readable when something came back, to be watched at its edges.
pub fn event() -> Option<Arc<OwnedFd>> {
    with_rings(|rings| rings.first().map(Ring::event)).flatten()
}

/// The calling thread's bell, if it took its place.
pub(super) fn bell() -> Option<Arc<Doorbell>> {
    HERE.with_borrow(|here| here.as_ref().map(|here| Arc::clone(&here.bell)))
}

/// Begins a request on the calling thread's ring for that image. `Err`: it has none.
pub(super) fn begin(image: &Arc<Image>, request: Request) -> Result<Begun, Request> {
    HERE.with_borrow_mut(|here| {
        match here.as_mut().and_then(|here| here.rings.get_mut(image.ring()).zip(Some(&here.bell))) {
            Some((ring, bell)) => Ok(ring.begin(image, request, bell)),
            None => Err(request),
        }
    })
}
