//! The controller: control, and what all its parts share. `control` is locked before anything else is.

use alloc::sync::{Arc, Weak};
use core::ops::Deref;
use core::sync::atomic::Ordering;

use nvme_platform::Time;
use spin::Mutex;

use crate::control::Control;
use crate::faulty::Faults;
use crate::shared::{Outside, Shared, World};
use crate::storage::Told;

pub(crate) struct Chip {
    pub(crate) control: Mutex<Control>,
    shared: Shared,
}

impl Chip {
    pub(crate) fn new(
        world: World,
        queues: u16,
        control: Control,
        faults: Option<Faults>,
        outside: Outside,
    ) -> Arc<Self> {
        Arc::new_cyclic(|chip: &Weak<Self>| Self {
            control: Mutex::new(control),
            shared: Shared::new(world, queues, faults, outside, Weak::<Self>::clone(chip)),
        })
    }

    /// Tells the time: admin commands that a rule delays and that are due go on. Not inside a gate.
    pub(crate) fn tell(&self, now: Time) {
        self.shared.now.fetch_max(now.as_nanos(), Ordering::Relaxed);
        self.absorb();
    }

    /// Control looks at what it was told meanwhile.
    pub(crate) fn absorb(&self) {
        self.control.lock().absorb(&self.shared);
    }
}

impl Deref for Chip {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Told for Chip {
    fn came_back(&self) {
        self.absorb();
    }
}
