//! Configuration spaces.

use alloc::vec::Vec;

use crate::bus::{Message, Width};

/// Registers, and behind them the MSI-X table, as in QEMU's controller.
pub(super) const REGISTERS: usize = 0x2000;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CLASS: usize = 0x08;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const MSI: usize = 0x50;
const MSIX: usize = 0x70;
const EXPRESS: usize = 0x80;
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 10;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const NO_PIN: u16 = 1 << 10;

/// What a function is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its class, as 24 bits.
    pub class: u32,
    /// Vectors in its MSI-X table; `None`: no MSI-X.
    pub msix: Option<u16>,
    /// Whether it has MSI.
    pub msi: bool,
    /// Whether its function can be reset.
    pub can_reset: bool,
    /// Whether its registers are memory, as they must be.
    pub memory: bool,
    /// Whether BARs can be written: behind io they cannot, and are lost by a reset.
    pub keeps_bars: bool,
}

impl Default for Shape {
    /// An NVMe controller like QEMU's.
    fn default() -> Self {
        Self {
            class: 0x01_08_02,
            msix: Some(16),
            msi: false,
            can_reset: true,
            memory: true,
            keeps_bars: true,
        }
    }
}

/// What a write does besides.
#[derive(Default)]
pub(super) struct Change {
    pub(super) master: Option<bool>,
    pub(super) reset: bool,
}

pub(super) struct Config {
    shape: Shape,
    bytes: [u8; 256],
    /// The MSI-X table, by words.
    table: Vec<u32>,
    bar: u64,
    lost: bool,
}

impl Config {
    pub(super) fn new(shape: Shape, bar: u64) -> Self {
        let mut config = Self { shape, bytes: [0; 256], table: Vec::new(), bar, lost: false };
        config.power_on();
        config.set32(BAR0, bar as u32 | if shape.memory { 0b100 } else { 1 });
        // As firmware leaves it: decoding, and mastering the bus.
        config.set16(COMMAND, MEMORY | MASTER);
        config
    }

    fn power_on(&mut self) {
        self.bytes = [0; 256];
        self.set32(0, 0x0010_1b36);
        self.set32(CLASS, self.shape.class << 8 | 2);
        self.set32(BAR0, 0b100);
        let entries = self.shape.msix.unwrap_or(0);
        // All vectors are masked.
        self.table = (0..u32::from(entries) * 4).map(|word| u32::from(word % 4 == 3)).collect();
        let mut last = CAPABILITIES;
        let list = [(MSI, 0x05, self.shape.msi), (MSIX, 0x11, entries > 0), (EXPRESS, 0x10, true)];
        for (at, id, _) in list.into_iter().filter(|(.., there)| *there) {
            self.bytes[at] = id;
            self.bytes[last] = at as u8;
            last = at + 1;
        }
        self.set16(STATUS, 1 << 4);
        // 64 bits, maskable, eight messages wanted.
        self.set16(MSI + 2, if self.shape.msi { 1 << 8 | 1 << 7 | 3 << 1 } else { 0 });
        self.set16(MSIX + 2, entries.saturating_sub(1));
        self.set32(MSIX + 4, REGISTERS as u32);
        self.set32(EXPRESS + 4, u32::from(self.shape.can_reset) << 28);
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn read(&self, register: u32, width: Width) -> u32 {
        let (at, bytes) = (register as usize, width as usize / 8);
        assert!(at.is_multiple_of(bytes) && at + bytes <= 256, "register {at:#x}");
        self.bytes[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    pub(super) fn write(&mut self, register: u32, width: Width, value: u32) -> Change {
        let mut change = Change::default();
        let at = register as usize;
        match (at, width) {
            (COMMAND, Width::Word) => {
                let before = self.get16(COMMAND);
                let now = value as u16 & COMMAND_WRITABLE;
                self.set16(COMMAND, now);
                change.master = ((before ^ now) & MASTER != 0).then_some(now & MASTER != 0);
            }
            (BAR0, Width::Dword) => {
                if self.shape.keeps_bars {
                    self.set32(BAR0, value & !0xf | 0b100);
                    self.lost = u64::from(value & !0xf) != self.bar;
                }
            }
            (0x14, Width::Dword) => {}
            (0x18..0x28, Width::Dword) => assert_eq!(value, 0, "a BAR that is not there"),
            (MSI_CONTROL, Width::Word) if self.shape.msi => {
                let fixed = self.get16(MSI + 2) & !(0x71);
                self.set16(MSI + 2, fixed | value as u16 & 0x71);
            }
            (MSI_ADDRESS..MSI_END, Width::Dword | Width::Word) if self.shape.msi => {
                assert!(self.get16(MSI + 2) & 1 == 0, "MSI is changed while it is on");
                self.bytes[at..at + width as usize / 8]
                    .copy_from_slice(&value.to_le_bytes()[..width as usize / 8]);
            }
            (MSIX_CONTROL, Width::Word) if self.shape.msix.is_some() => {
                let fixed = self.get16(MSIX + 2) & 0x7ff;
                self.set16(MSIX + 2, fixed | value as u16 & 0xc000);
            }
            (EXPRESS_CONTROL, Width::Word) => {
                if value & 1 << 15 != 0 && self.shape.can_reset {
                    self.power_on();
                    self.lost = true;
                    change = Change { master: Some(false), reset: true };
                }
            }
            _ => panic!("register {at:#x} is written, {width:?}"),
        }
        change
    }

    /// Whether its registers answer.
    pub(super) fn decodes(&self) -> bool {
        self.get16(COMMAND) & MEMORY != 0 && !self.lost
    }

    pub(super) fn table(&self) -> Vec<[u32; 4]> {
        self.table.chunks_exact(4).map(|entry| core::array::from_fn(|i| entry[i])).collect()
    }

    pub(super) fn table_read(&self, at: usize) -> u32 {
        self.table.get(at / 4).copied().unwrap_or(0)
    }

    pub(super) fn table_write(&mut self, at: usize, value: u32) {
        let open = self.table_read(at | 12) & 1 == 0;
        let enabled = self.get16(MSIX + 2) & 0xc000 == 0x8000;
        assert!(at % 16 == 12 || !(open && enabled), "a vector is changed while it is open");
        if let Some(word) = self.table.get_mut(at / 4) {
            *word = value;
        }
    }

    /// What the function writes for a vector, if it may.
    pub(super) fn message(&self, vector: u16) -> Option<Message> {
        if self.get16(COMMAND) & MASTER == 0 {
            return None;
        }
        let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        if self.get16(MSIX + 2) & 0xc000 == 0x8000 && self.shape.msix.is_some() {
            let entry = self.table.get(usize::from(vector) * 4..)?.get(..4)?;
            return (entry[3] & 1 == 0)
                .then(|| Message { address: whole(entry[0], entry[1]), data: entry[2] });
        }
        let on = self.shape.msi && self.get16(MSI + 2) & 1 != 0;
        on.then(|| Message {
            address: whole(self.get32(MSI + 4), self.get32(MSI + 8)),
            data: self.get16(MSI + 12).into(),
        })
    }

    /// Whether it interrupts by its pin.
    pub(super) fn pin(&self) -> bool {
        let messages = self.get16(MSIX + 2) & 0x8000 != 0 || self.get16(MSI + 2) & 1 != 0;
        !messages && self.get16(COMMAND) & NO_PIN == 0
    }
}

const MSI_CONTROL: usize = MSI + 2;
const MSI_ADDRESS: usize = MSI + 4;
const MSI_END: usize = MSI + 20;
const MSIX_CONTROL: usize = MSIX + 2;
const EXPRESS_CONTROL: usize = EXPRESS + 8;
