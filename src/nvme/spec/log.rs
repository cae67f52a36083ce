//! Log pages (Base 5.16.1) and asynchronous events (Base 5.2.1).

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Log page identifiers.
pub mod page {
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const SMART: u8 = 0x02;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
}

/// An entry of the Error Information log (Base 5.16.1.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorEntry {
    /// Rising number of the error; 0: no entry.
    pub count: U64,
    /// Submission queue.
    pub sqid: U16,
    /// Command.
    pub cid: U16,
    /// Status, with a phase tag in bit 0.
    pub status: U16,
    /// Where in the command.
    pub location: U16,
    /// First block.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// The rest.
    pub rest: [u8; 36],
}
const _: () = assert!(size_of::<ErrorEntry>() == 64);

/// SMART / Health Information (Base 5.16.1.3).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Health {
    /// Critical warning bits.
    pub critical: u8,
    /// Kelvins.
    pub temperature: U16,
    /// Percent.
    pub spare: u8,
    /// Percent.
    pub spare_threshold: u8,
    /// Percent; may exceed 100.
    pub used: u8,
    /// Not used.
    pub reserved6: [u8; 26],
    /// Read, written, and their commands.
    pub traffic: [U128; 4],
    /// Minutes.
    pub busy: U128,
    /// How often.
    pub power_cycles: U128,
    /// Hours.
    pub hours: U128,
    /// How often.
    pub unsafe_shutdowns: U128,
    /// How many.
    pub media_errors: U128,
    /// How many.
    pub error_entries: U128,
    /// The rest.
    pub rest: [u8; 320],
}
const _: () = assert!(size_of::<Health>() == 512 && offset_of!(Health, media_errors) == 160);

/// Event types (dword 0 of the completion, bits 2:0).
pub mod event {
    /// Error status.
    pub const ERROR: u8 = 0;
    /// SMART / health status.
    pub const SMART: u8 = 1;
    /// Notice.
    pub const NOTICE: u8 = 2;
    /// Error information: persistent internal error (Base 5.2.1).
    pub const PERSISTENT: u8 = 3;
    /// Notice information: namespace attribute changed.
    pub const NAMESPACE_CHANGED: u8 = 0;
}
