//! What goes over the bus, as NVM Express Base Specification 1.4 lays it out (clauses beside each).

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version reported in VS: 1.4.0.
pub const VERSION: u32 = 0x0001_0400;

/// Byte offsets of controller registers (3.1).
pub mod reg {
    /// Controller Capabilities (3.1.1).
    pub const CAP: u32 = 0x00;
    /// Version (3.1.2).
    pub const VS: u32 = 0x08;
    /// Interrupt Mask Set (3.1.3).
    pub const INTMS: u32 = 0x0c;
    /// Interrupt Mask Clear (3.1.4).
    pub const INTMC: u32 = 0x10;
    /// Controller Configuration (3.1.5).
    pub const CC: u32 = 0x14;
    /// Controller Status (3.1.6).
    pub const CSTS: u32 = 0x1c;
    /// Admin Queue Attributes (3.1.8).
    pub const AQA: u32 = 0x24;
    /// Admin Submission Queue Base Address (3.1.9).
    pub const ASQ: u32 = 0x28;
    /// Admin Completion Queue Base Address (3.1.10).
    pub const ACQ: u32 = 0x30;
    /// The first doorbell (3.1.24).
    pub const DOORBELLS: u32 = 0x1000;
}

/// Controller Configuration (3.1.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// EN.
    pub enable: bool,
    #[bits(3)]
    __: u8,
    /// CSS; 0 is the NVM command set.
    #[bits(3)]
    pub command_set: u8,
    /// MPS: the memory page is 2^(12 + MPS).
    #[bits(4)]
    pub page_size: u8,
    /// AMS.
    #[bits(3)]
    pub arbitration: u8,
    /// SHN: 1 normal, 2 abrupt.
    #[bits(2)]
    pub shutdown: u8,
    /// IOSQES, a power of two.
    #[bits(4)]
    pub sq_entry: u8,
    /// IOCQES, a power of two.
    #[bits(4)]
    pub cq_entry: u8,
    __: u8,
}

/// Controller Status (3.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// RDY.
    pub ready: bool,
    /// CFS.
    pub fatal: bool,
    /// SHST: 0 normal operation, 1 occurring, 2 complete.
    #[bits(2)]
    pub shutdown: u8,
    /// NSSRO.
    pub subsystem_reset: bool,
    /// PP.
    pub paused: bool,
    #[bits(26)]
    __: u32,
}

/// Controller Capabilities (3.1.1).
#[bitfield(u64)]
pub struct Cap {
    /// MQES, 0's based.
    pub mqes: u16,
    /// CQR.
    pub contiguous: bool,
    #[bits(2)]
    pub arbitration: u8,
    #[bits(5)]
    __: u8,
    /// TO, in units of 500 ms.
    pub timeout: u8,
    /// DSTRD.
    #[bits(4)]
    pub stride: u8,
    /// NSSRS.
    pub subsystem_reset: bool,
    /// CSS; bit 0 is the NVM command set.
    pub command_sets: u8,
    #[bits(3)]
    __: u8,
    /// MPSMIN.
    #[bits(4)]
    pub page_min: u8,
    /// MPSMAX.
    #[bits(4)]
    pub page_max: u8,
    __: u8,
}

/// Admin opcodes (5, figure 139).
pub mod admin {
    /// Delete I/O Submission Queue (5.6).
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue (5.4).
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page (5.14).
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue (5.5).
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue (5.3).
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify (5.15).
    pub const IDENTIFY: u8 = 0x06;
    /// Abort (5.1).
    pub const ABORT: u8 = 0x08;
    /// Set Features (5.21).
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features (5.13).
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request (5.2).
    pub const ASYNC_EVENT: u8 = 0x0c;
}

/// NVM opcodes (6, figure 346).
pub mod nvm {
    /// Flush (6.8).
    pub const FLUSH: u8 = 0x00;
    /// Write (6.15).
    pub const WRITE: u8 = 0x01;
    /// Read (6.9).
    pub const READ: u8 = 0x02;
    /// Write Zeroes (6.17).
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management (6.7).
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Feature identifiers (5.21.1).
pub mod feature {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const EVENTS: u8 = 0x0b;
}

/// A submission queue entry (4.2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sqe {
    /// Opcode.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace identifier.
    pub nsid: U32,
    /// Command dwords 2 and 3.
    pub cdw2: [U32; 2],
    /// Metadata pointer.
    pub metadata: U64,
    /// PRP entries 1 and 2, or an SGL descriptor.
    pub data: [U64; 2],
    /// Command dwords 10 to 15.
    pub cdw: [U32; 6],
}

const _: () = assert!(size_of::<Sqe>() == 64);

impl Sqe {
    /// Command dword `n`, 10 to 15; others are 0.
    #[inline]
    pub fn dword(&self, n: usize) -> u32 {
        self.cdw.get(n.wrapping_sub(10)).map_or(0, |d| d.get())
    }
}

/// A completion queue entry (4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe {
    /// Command specific.
    pub result: U32,
    /// Reserved.
    pub reserved: U32,
    /// Submission queue head pointer.
    pub sq_head: U16,
    /// Submission queue identifier.
    pub sq_id: U16,
    /// Command identifier.
    pub cid: U16,
    /// Status field in bits 15:1, phase tag in bit 0.
    pub status: U16,
}

const _: () = assert!(size_of::<Cqe>() == 16);

/// The status field (4.6.1) without the phase tag: SC in bits 7:0, SCT in 10:8, DNR in 14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u16);

impl Status {
    const DO_NOT_RETRY: u16 = 1 << 14;

    const fn fault(kind: u16, code: u16) -> Self {
        Self(kind << 8 | code | Self::DO_NOT_RETRY)
    }

    /// The same, and not to be tried again.
    pub(crate) const fn for_good(self) -> Self {
        Self(self.0 | Self::DO_NOT_RETRY)
    }

    /// Status code type and status code, without DNR: what tests compare.
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Successful Completion.
    pub const SUCCESS: Self = Self(0);
    /// Invalid Command Opcode.
    pub const INVALID_OPCODE: Self = Self::fault(0, 0x01);
    /// Invalid Field in Command.
    pub const INVALID_FIELD: Self = Self::fault(0, 0x02);
    /// Data Transfer Error: the command's memory could not be reached.
    pub const DATA_TRANSFER: Self = Self(0x04);
    /// Internal Error.
    pub const INTERNAL: Self = Self(0x06);
    /// Command Abort Requested.
    pub const ABORTED: Self = Self(0x07);
    /// Invalid Namespace or Format.
    pub const INVALID_NAMESPACE: Self = Self::fault(0, 0x0b);
    /// Command Sequence Error.
    pub const SEQUENCE: Self = Self::fault(0, 0x0c);
    /// Invalid SGL Segment Descriptor.
    pub const SGL_SEGMENT: Self = Self::fault(0, 0x0d);
    /// Invalid Number of SGL Descriptors.
    pub const SGL_COUNT: Self = Self::fault(0, 0x0e);
    /// Data SGL Length Invalid.
    pub const SGL_LENGTH: Self = Self::fault(0, 0x0f);
    /// SGL Descriptor Type Invalid.
    pub const SGL_TYPE: Self = Self::fault(0, 0x11);
    /// PRP Offset Invalid.
    pub const PRP_OFFSET: Self = Self::fault(0, 0x13);
    /// Namespace is Write Protected.
    pub const WRITE_PROTECTED: Self = Self::fault(0, 0x20);
    /// LBA Out of Range.
    pub const LBA_RANGE: Self = Self::fault(0, 0x80);
    /// Completion Queue Invalid.
    pub const CQ_INVALID: Self = Self::fault(1, 0x00);
    /// Invalid Queue Identifier.
    pub const QUEUE_ID: Self = Self::fault(1, 0x01);
    /// Invalid Queue Size.
    pub const QUEUE_SIZE: Self = Self::fault(1, 0x02);
    /// Asynchronous Event Request Limit Exceeded.
    pub const EVENT_LIMIT: Self = Self::fault(1, 0x05);
    /// Invalid Interrupt Vector.
    pub const VECTOR: Self = Self::fault(1, 0x08);
    /// Invalid Log Page.
    pub const LOG_PAGE: Self = Self::fault(1, 0x09);
    /// Invalid Queue Deletion.
    pub const QUEUE_DELETION: Self = Self::fault(1, 0x0c);
    /// Feature Identifier Not Saveable.
    pub const NOT_SAVEABLE: Self = Self::fault(1, 0x0d);
    /// Capacity Exceeded (figure 128).
    pub const CAPACITY_EXCEEDED: Self = Self(0x81);
    /// Write Fault.
    pub const WRITE_FAULT: Self = Self(0x280);
    /// Unrecovered Read Error.
    pub const READ_ERROR: Self = Self(0x281);
}
