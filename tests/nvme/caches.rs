//! Devices that do not look into the CPU's caches.

use std::sync::{Arc, Mutex};

use nvme_platform::{
    Bus, Caches, Device, DeviceError, DmaPool, DmaRights, DmaSpace, QueueDoorbells, Registers, Window,
};
use nvme_session::operation::Outcome;
use nvme_soft::SoftDevice;

use crate::rig::{GUEST, REGION, Rig, config, options, pattern};

/// Where, how much, and for which direction before a transfer; none after it.
type Told = (usize, usize, Option<DmaRights>);

/// What was asked for: a window's address and length, and for what; `None`: after a read.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Told>>>);

impl Caches for Seen {
    fn before(&self, memory: &Window, rights: DmaRights) {
        self.0.lock().unwrap().push((memory.address(), memory.len(), Some(rights)));
    }

    fn after(&self, memory: &Window) {
        self.0.lock().unwrap().push((memory.address(), memory.len(), None));
    }
}

struct Incoherent(SoftDevice, Seen);

impl Device for Incoherent {
    fn registers(&mut self) -> &mut dyn Registers {
        self.0.registers()
    }

    fn dma(&mut self) -> &mut dyn DmaSpace {
        self.0.dma()
    }

    fn pool(&mut self) -> &mut dyn DmaPool {
        self.0.pool()
    }

    fn bus(&mut self) -> &mut dyn Bus {
        self.0.bus()
    }

    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        self.0.doorbells(queue, stride)
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        Some(Arc::new(self.1.clone()))
    }
}

#[test]
fn caches_are_seen_to_before_and_after_each_transfer() {
    let seen = Seen::default();
    let device = |soft| -> Box<dyn Device> { Box::new(Incoherent(soft, seen.clone())) };
    let mut rig = Rig::ready(Rig::over(config(512), options(), device));
    let mut pair = rig.pair(32);
    rig.client.write(GUEST, &pattern(3, 8192));
    let at = |guest: u64| rig.client.address(guest);
    let [first, second, edge] = [at(GUEST), at(GUEST + 4096), at(GUEST + REGION - 512)];
    let next = at(GUEST + REGION);
    let (read, write) = (Some(DmaRights::Read), Some(DmaRights::ReadWrite));
    // One range, which goes the fast way elsewhere; and one over two regions.
    let operation = rig.write(64, &[(GUEST, 4096)]);
    assert_eq!(rig.run(&mut pair, operation).1, Outcome::Done);
    assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), [(first, 4096, read)]);
    let operation = rig.read(64, &[(GUEST + 4096, 4096)]);
    assert_eq!(rig.run(&mut pair, operation).1, Outcome::Done);
    let expected = [(second, 4096, write), (second, 4096, None)];
    assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), expected);
    let operation = rig.read(64, &[(GUEST + REGION - 512, 512), (GUEST + REGION, 512)]);
    let (commands, outcome) = rig.run(&mut pair, operation);
    assert_eq!(outcome, Outcome::Done);
    let mut asked = std::mem::take(&mut *seen.0.lock().unwrap());
    asked.sort_by_key(|(at, ..)| *at);
    let mut expected = vec![(edge, 512, write), (edge, 512, None), (next, 512, write), (next, 512, None)];
    expected.sort_by_key(|(at, ..)| *at);
    assert_eq!(asked, expected, "{commands} commands");
}
