//! Configuration space by ports CF8h and CFCh, and the one piece of a slot that takes a device away.

use crate::qtest::Qtest;

pub(crate) const ID: u8 = 0x00;
pub(crate) const COMMAND: u8 = 0x04;
pub(crate) const BAR0: u8 = 0x10;
pub(crate) const BUSES: u8 = 0x18;
pub(crate) const WINDOW: u8 = 0x20;
const CAPABILITIES: u8 = 0x34;

/// Command: memory decoding, bus mastering.
pub(crate) const MEMORY: u32 = 1 << 1;
pub(crate) const MASTER: u32 = 1 << 2;

pub(crate) const CAP_EXPRESS: u8 = 0x10;
pub(crate) const CAP_MSIX: u8 = 0x11;

/// A function on the bus.
#[derive(Clone)]
pub(crate) struct Function {
    qtest: Qtest,
    bus: u8,
    devfn: u8,
}

impl Function {
    pub(crate) fn new(qtest: Qtest, bus: u8, devfn: u8) -> Self {
        Self { qtest, bus, devfn }
    }

    fn select(&self, register: u8) {
        let address = 1 << 31 | u32::from(self.bus) << 16 | u32::from(self.devfn) << 8;
        self.qtest.out32(0xcf8, address | u32::from(register & 0xfc));
    }

    pub(crate) fn read(&self, register: u8) -> u32 {
        self.select(register);
        self.qtest.in32(0xcfc)
    }

    pub(crate) fn write(&self, register: u8, value: u32) {
        self.select(register);
        self.qtest.out32(0xcfc, value);
    }

    /// Whether nothing answers there.
    pub(crate) fn absent(&self) -> bool {
        self.read(ID) == u32::MAX
    }

    /// Changes bits of the command register.
    pub(crate) fn command(&self, clear: u32, set: u32) {
        // The status register beside it is cleared by ones.
        self.write(COMMAND, (self.read(COMMAND) & 0xffff & !clear) | set);
    }

    /// Where a capability is.
    pub(crate) fn capability(&self, kind: u8) -> Option<u8> {
        let mut at = self.read(CAPABILITIES) as u8;
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            let [id, next, ..] = self.read(at).to_le_bytes();
            if id == kind {
                return Some(at);
            }
            at = next;
        }
        None
    }

    /// Of a root port: takes the power from its slot, as a guest does when it lets go of the device.
    pub(crate) fn power_off(&self) {
        let express = self.capability(CAP_EXPRESS).expect("a root port");
        // Slot Control (PCI Express 7.5.3.10): power indicator off (11b at 9:8), power controller off (bit 10).
        let control = self.read(express + 0x18) & 0xffff;
        self.write(express + 0x18, (control & !(0b11 << 8)) | 0b11 << 8 | 1 << 10);
    }

    /// Of a root port: brings bus `bus` and one MiB of addresses at `at` behind it.
    pub(crate) fn open_port(&self, bus: u8, at: u64) {
        self.write(BUSES, u32::from(bus) << 16 | u32::from(bus) << 8);
        let window = (at >> 16) as u32 & 0xfff0;
        self.write(WINDOW, window << 16 | window);
        self.command(0, MEMORY | MASTER);
    }

    /// Function level reset, where there is one.
    pub(crate) fn reset(&self) -> bool {
        let Some(express) = self.capability(CAP_EXPRESS) else { return false };
        // Device Capabilities bit 28; Device Control bit 15.
        if self.read(express + 4) & 1 << 28 == 0 {
            return false;
        }
        let control = self.read(express + 8) & 0xffff;
        self.write(express + 8, control | 1 << 15);
        true
    }
}
