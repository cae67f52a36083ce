//! A bus, what was found on it, and the driver over that.

use nvme_core::nvme::{Controller, ControllerEvent, Options as DriverOptions, QueuePair};
use nvme_l4re::bus::{BusHandle, Found, Interrupts, L4Device, Options, Skipped, find};
use nvme_l4re::kernel::Label;
use nvme_l4re::model::bus::{Bus, Shape};
use nvme_platform::Time;
use nvme_soft::SoftHandle;

use crate::soft::Soft;

pub(crate) type Result = std::result::Result<Found<Bus>, Skipped>;

/// Puts an NVMe controller on the bus.
pub(crate) fn add(bus: &Bus, serial: &str, shape: Shape, domain: Option<u32>) -> (BusHandle, SoftHandle) {
    let (soft, handle) = Soft::new(serial);
    (bus.add_function(shape, domain, Box::new(soft)), handle)
}

/// All controllers. Labels are 0x100, 0x104 and so on.
pub(crate) fn all(bus: &Bus, options: Options) -> Vec<Result> {
    let mut next = 0xfc;
    let mut label = || {
        next += 4;
        Label(next)
    };
    find(bus, options, &mut label).unwrap()
}

/// The only one.
pub(crate) fn one(bus: &Bus, options: Options) -> (Driven, Interrupts) {
    let mut all = all(bus, options);
    assert_eq!(all.len(), 1);
    let found = all.remove(0).unwrap_or_else(|s| panic!("{}", s.why));
    (Driven::new(found.device), found.interrupts)
}

pub(crate) struct Driven {
    pub(crate) controller: Controller,
    pub(crate) now: Time,
}

impl Driven {
    pub(crate) fn new(device: L4Device<Bus>) -> Self {
        let controller = Controller::new(Box::new(device), 0, DriverOptions::default());
        Self { controller, now: Time::from_nanos(1) }
    }

    /// The next event; time goes from deadline to deadline.
    pub(crate) fn event(&mut self) -> ControllerEvent {
        for _ in 0..100_000 {
            if let Some(event) = self.controller.poll(self.now) {
                return event;
            }
            let next = self.controller.next_deadline().expect("something to wait for");
            self.now = next.max(self.now + std::time::Duration::from_micros(1));
        }
        panic!("nothing happens");
    }

    pub(crate) fn ready(&mut self) {
        let event = self.event();
        assert!(matches!(event, ControllerEvent::Ready), "{event:?}");
    }

    pub(crate) fn pair(&mut self) -> QueuePair {
        self.controller.create_pair(64, 7).unwrap();
        match self.event() {
            ControllerEvent::PairReady { token: 7, pair } => pair,
            other => panic!("{other:?}"),
        }
    }
}
