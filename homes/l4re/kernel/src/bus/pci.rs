//! One function's configuration space (PCI Local Bus 3.0, chapter 6; PCI Express Base 4.0, 7.5).

use core::fmt;

use super::traits::{BusHandle, Vbus, Width};
use crate::kernel::L4Error;

const ID: u32 = 0x00;
const COMMAND: u32 = 0x04;
const STATUS: u32 = 0x06;
/// Class code in the upper three bytes, revision in the lowest.
const CLASS: u32 = 0x08;
const BAR0: u32 = 0x10;
const CAPABILITIES: u32 = 0x34;

pub(super) const COMMAND_MEMORY: u32 = 1 << 1;
pub(super) const COMMAND_MASTER: u32 = 1 << 2;
pub(super) const COMMAND_NO_PIN: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 4;

pub(super) const CAP_MSI: u8 = 0x05;
const CAP_EXPRESS: u8 = 0x10;
pub(super) const CAP_MSIX: u8 = 0x11;
/// Most capabilities that a list can have: each begins at another multiple of four behind the header.
const CAPABILITIES_MAX: usize = 48;

/// NVM Express I/O controller (PCI Code and ID Assignment 1.13, 01h 08h 02h).
const CLASS_NVME: u32 = 0x01_08_02;

/// Of the PCI Express capability: Device Capabilities and Device Control, and their bits for a function-level reset.
const EXPRESS_CAPABLE: u32 = 4;
const EXPRESS_CONTROL: u32 = 8;
const CAN_RESET: u32 = 1 << 28;
const RESET: u32 = 1 << 15;

/// Why a function cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PciError {
    /// The bus refused an access.
    Bus(L4Error),
    /// It answers no more.
    Gone,
    /// What it needs for that is not there, or makes no sense.
    Lacks(&'static str),
}

impl From<L4Error> for PciError {
    fn from(why: L4Error) -> Self {
        Self::Bus(why)
    }
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(why) => write!(f, "the bus refused it: {why}"),
            Self::Gone => f.write_str("the device is gone"),
            Self::Lacks(what) => write!(f, "it has no {what} that can be used"),
        }
    }
}

impl core::error::Error for PciError {}

/// A function.
#[derive(Clone)]
pub(super) struct Function<P> {
    platform: P,
    pub(super) handle: BusHandle,
}

impl<P: Vbus> Function<P> {
    pub(super) fn new(platform: P, handle: BusHandle) -> Self {
        Self { platform, handle }
    }

    pub(super) fn read(&self, register: u32, width: Width) -> Result<u32, L4Error> {
        self.platform.config_read(self.handle, register, width)
    }

    pub(super) fn write(&self, register: u32, width: Width, value: u32) -> Result<(), L4Error> {
        self.platform.config_write(self.handle, register, width, value)
    }

    /// Vendor and device.
    pub(super) fn id(&self) -> Result<(u16, u16), L4Error> {
        let id = self.read(ID, Width::Dword)?;
        Ok((id as u16, (id >> 16) as u16))
    }

    pub(super) fn is_nvme(&self) -> Result<bool, L4Error> {
        Ok(self.read(CLASS, Width::Dword)? >> 8 == CLASS_NVME)
    }

    /// Whether nothing answers there.
    pub(super) fn is_gone(&self) -> bool {
        self.read(COMMAND, Width::Word).is_ok_and(|command| command == 0xffff)
            || self.read(ID, Width::Dword).is_ok_and(|id| id == u32::MAX)
    }

    /// Changes the command register, and sees that it did.
    pub(super) fn command(&self, set: u32, clear: u32) -> Result<(), PciError> {
        let before = self.read(COMMAND, Width::Word)?;
        if before == 0xffff {
            return Err(PciError::Gone);
        }
        self.write(COMMAND, Width::Word, before & !clear | set)?;
        let now = self.read(COMMAND, Width::Word)?;
        if now & set == set && now & clear == 0 { Ok(()) } else { Err(PciError::Lacks("command register")) }
    }

    /// Where a capability is.
    pub(super) fn capability(&self, kind: u8) -> Result<Option<u32>, L4Error> {
        if self.read(STATUS, Width::Word)? & STATUS_CAPABILITIES == 0 {
            return Ok(None);
        }
        let mut at = self.read(CAPABILITIES, Width::Byte)? & !3;
        for _ in 0..CAPABILITIES_MAX {
            if at == 0 {
                break;
            }
            let header = self.read(at, Width::Word)?;
            if header as u8 == kind {
                return Ok(Some(at));
            }
            at = header >> 8 & !3;
        }
        Ok(None)
    }

    /// Where a memory BAR's registers are on the bus.
    pub(super) fn bar(&self, index: u32) -> Result<u64, PciError> {
        if index > 5 {
            return Err(PciError::Lacks("such BAR"));
        }
        let register = BAR0 + index * 4;
        let low = self.read(register, Width::Dword)?;
        let high = match low & 0b111 {
            0b000 => 0,
            0b100 if index < 5 => self.read(register + 4, Width::Dword)?,
            _ => return Err(PciError::Lacks("memory BAR")),
        };
        match u64::from(low & !0xf) | u64::from(high) << 32 {
            0 => Err(PciError::Lacks("address for its BAR")),
            at => Ok(at),
        }
    }

    /// Begins a function-level reset, if there is one. The function may not be touched for 100 ms then.
    pub(super) fn reset(&self) -> Result<(), PciError> {
        let express = self.capability(CAP_EXPRESS)?.ok_or(PciError::Lacks("function-level reset"))?;
        if self.read(express + EXPRESS_CAPABLE, Width::Dword)? & CAN_RESET == 0 {
            return Err(PciError::Lacks("function-level reset"));
        }
        let control = self.read(express + EXPRESS_CONTROL, Width::Word)?;
        self.write(express + EXPRESS_CONTROL, Width::Word, control | RESET)?;
        Ok(())
    }
}
