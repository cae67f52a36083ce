//! Another host of the same subsystem: an admin queue and nothing else, for what the driver never asks for.

use std::time::{Duration, Instant};

use nvme_core::nvme::spec::command::{Command, admin, feature};
use nvme_platform::{Bus, DmaPool, DriverMemory, Registers};

use crate::device::QemuDevice;

/// Namespace Attachment (Base 5.21).
const NAMESPACE_ATTACHMENT: u8 = 0x15;
const DEPTH: u16 = 4;

pub(crate) struct Rival {
    device: QemuDevice,
    sq: DriverMemory,
    cq: DriverMemory,
    data: DriverMemory,
    issued: u16,
}

impl Rival {
    /// Enables the controller.
    pub(crate) fn new(mut device: QemuDevice) -> Self {
        let [sq, cq, data] = [(); 3].map(|()| device.allocate(1).unwrap());
        device.master(true).unwrap();
        device.write32(0x24, u32::from(DEPTH - 1) << 16 | u32::from(DEPTH - 1));
        device.write64(0x28, sq.iova().0);
        device.write64(0x30, cq.iova().0);
        // Entries of 64 and 16 bytes; EN.
        device.write32(0x14, 6 << 16 | 4 << 20 | 1);
        let mut rival = Self { device, sq, cq, data, issued: 0 };
        rival.wait(|rival| rival.device.read32(0x1c) & 1 != 0);
        rival
    }

    fn wait(&mut self, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !so(self) {
            assert!(Instant::now() < end, "the other controller does not answer");
        }
    }

    /// Runs one command with its data page.
    fn run(&mut self, command: &Command) {
        let command =
            Command { cid: self.issued.into(), dptr: [self.data.iova().0.into(), 0.into()], ..*command };
        let slot = self.issued % DEPTH;
        let phase = u32::from((self.issued / DEPTH).is_multiple_of(2));
        self.sq.window().write_value(usize::from(slot) * 64, &command).unwrap();
        self.issued += 1;
        let next = u32::from(self.issued % DEPTH);
        self.device.write32(0x1000, next);
        let mut last = 0;
        self.wait(|rival| {
            last = rival.cq.window().load32(usize::from(slot) * 16 + 12).unwrap();
            last >> 16 & 1 == phase
        });
        assert_eq!(last >> 17, 0, "status of {command:?}");
        self.device.write32(0x1004, next);
    }

    /// Attaches a namespace to controller 0, or detaches it from there.
    pub(crate) fn attach(&mut self, nsid: u32, attach: bool) {
        // Controller list: one entry, controller 0 (Base 4.5.1).
        self.data.window().write(0, &[1, 0, 0, 0]).unwrap();
        let (nsid, cdw10) = (nsid.into(), u32::from(!attach).into());
        self.run(&Command { opcode: NAMESPACE_ATTACHMENT, nsid, cdw10, ..Command::default() });
    }

    /// Turns the write cache off, which all controllers of the subsystem share in QEMU.
    pub(crate) fn write_cache_off(&mut self) {
        let cdw10 = feature::VOLATILE_WRITE_CACHE.into();
        self.run(&Command { opcode: admin::SET_FEATURES, cdw10, ..Command::default() });
    }
}
