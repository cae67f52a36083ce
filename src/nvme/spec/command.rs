//! Queue entries, opcodes and status.

use core::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry (Base 3.3.3.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Command {
    /// What to do: [`admin`] or [`io`].
    pub opcode: u8,
    /// FUSE and PSDT: [`PSDT_SGL`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace.
    pub nsid: U32,
    /// Command dwords 2 and 3.
    pub cdw2: [U32; 2],
    /// Metadata pointer. Not used.
    pub mptr: U64,
    /// Data pointer: two PRP entries, or an SGL descriptor.
    pub dptr: [U64; 2],
    /// Command dwords 10 to 15.
    pub cdw10: U32,
    /// 11.
    pub cdw11: U32,
    /// 12.
    pub cdw12: U32,
    /// 13.
    pub cdw13: U32,
    /// 14.
    pub cdw14: U32,
    /// 15.
    pub cdw15: U32,
}
const _: () = assert!(size_of::<Command>() == 64);

/// The same as eight little-endian words: opcode, flags, identifier and namespace; dwords 2 and 3; metadata pointer; the two words of the
/// data pointer; dwords 10 and 11; 12 and 13; 14 and 15.
pub type Words = [u64; 8];

/// Bytes of a submission queue entry, as a power of two (CC.IOSQES).
pub const SQE_SHIFT: u8 = 6;
/// Bytes of a completion queue entry, as a power of two (CC.IOCQES).
pub const CQE_SHIFT: u8 = 4;

/// Flags: the data pointer is an SGL descriptor (PSDT = 01b).
pub const PSDT_SGL: u8 = 1 << 6;

/// A completion queue entry (Base 3.3.3.2), as far as it is taken from the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Command specific.
    pub dw0: u32,
    /// How far the controller got in the submission queue.
    pub sqhd: u16,
    /// Which submission queue.
    pub sqid: u16,
    /// Which command.
    pub cid: u16,
    /// How it ended.
    pub status: Status,
}

/// Bytes of a completion queue entry.
pub const CQE_BYTES: usize = 16;
/// Offset of the dword with the command identifier, the phase tag and the status in an entry.
pub const CQE_DW3: usize = 12;
/// Offset of the dword with SQHD and SQID.
pub const CQE_DW2: usize = 8;
/// The phase tag in the last dword.
pub const CQE_PHASE: u32 = 1 << 16;
/// Type and code of the status, in the same dword ([`Status::code`]): zero when all went well.
pub const CQE_CODE: u32 = 0x7ff << 17;

/// The status field without its phase tag (Base 3.3.3.2.1): code in bits 7:0, type in 10:8, then CRD, More, DNR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u16);

impl Status {
    /// Success.
    pub const SUCCESS: u16 = 0;
    /// Invalid Command Opcode (generic 01h).
    pub const INVALID_OPCODE: u16 = 0x001;
    /// Invalid Field in Command (generic 02h).
    pub const INVALID_FIELD: u16 = 0x002;
    /// Command Abort Requested (generic 07h).
    pub const ABORTED: u16 = 0x007;
    /// Command Aborted due to SQ Deletion (generic 08h).
    pub const SQ_DELETED: u16 = 0x008;
    /// Sanitize In Progress (generic 1Dh).
    pub const SANITIZING: u16 = 0x01d;
    /// Command Interrupted (generic 21h): it was not begun, and is to be issued again.
    pub const INTERRUPTED: u16 = 0x021;
    /// Transient Transport Error (generic 22h).
    pub const TRANSIENT_TRANSPORT: u16 = 0x022;
    /// Admin Command Media Not Ready (generic 24h).
    pub const MEDIA_NOT_READY: u16 = 0x024;
    /// Capacity Exceeded (generic 81h).
    pub const CAPACITY_EXCEEDED: u16 = 0x081;
    /// Namespace Not Ready (generic 82h).
    pub const NAMESPACE_NOT_READY: u16 = 0x082;
    /// Format In Progress (generic 84h).
    pub const FORMATTING: u16 = 0x084;
    /// Data Transfer Error (generic 04h): memory that a command names could not be reached.
    pub const DATA_TRANSFER: u16 = 0x004;
    /// Write Fault (media 80h).
    pub const WRITE_FAULT: u16 = 0x280;
    /// Unrecovered Read Error (media 81h).
    pub const READ_ERROR: u16 = 0x281;
    /// Asymmetric Access Persistent Loss (path related 01h).
    pub const ACCESS_LOST: u16 = 0x301;
    /// Asynchronous Event Request Limit Exceeded (command specific 05h).
    pub const AER_LIMIT: u16 = 0x105;
    /// Invalid Queue Identifier (command specific 01h).
    pub const INVALID_QUEUE: u16 = 0x101;

    /// Type and code: what tells one error from another.
    #[inline]
    pub fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether it is a success.
    #[inline]
    pub fn ok(self) -> bool {
        self.code() == Self::SUCCESS
    }

    /// DNR: the same command would fail again.
    pub fn do_not_retry(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    /// CRD: after which of the controller's Command Retry Delay Times it may be issued again; 0: after none.
    pub fn retry_delay(self) -> u8 {
        (self.0 >> 11 & 0b11) as u8
    }

    /// Whether it is about the moment: the same may be had in a while. All that is about the way to the controller (type 3) is, but
    /// for a way that is lost.
    pub fn is_transient(self) -> bool {
        !self.do_not_retry()
            && match self.code() {
                Self::ACCESS_LOST => false,
                Self::SANITIZING
                | Self::INTERRUPTED
                | Self::TRANSIENT_TRANSPORT
                | Self::MEDIA_NOT_READY
                | Self::NAMESPACE_NOT_READY
                | Self::FORMATTING => true,
                code => code >> 8 == 3,
            }
    }
}

/// Admin opcodes (Base 5).
pub mod admin {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const ASYNC_EVENT: u8 = 0x0c;
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// I/O opcodes (NVM 3.2; Flush: Base 7.1).
pub mod io {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Command dword 12 of Read, Write and Write Zeroes: Force Unit Access.
pub const FUA: u32 = 1 << 30;
/// CDW12 of Write Zeroes: the blocks may be deallocated.
pub const DEAC: u32 = 1 << 25;
/// Command dword 11 of Dataset Management: Attribute, Deallocate.
pub const DEALLOCATE: u32 = 1 << 2;

/// Features (Base 5.27.1).
pub mod feature {
    /// Volatile Write Cache.
    pub const VOLATILE_WRITE_CACHE: u32 = 0x06;
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u32 = 0x07;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT_CONFIGURATION: u32 = 0x0b;
    /// Host Behavior Support: 512 bytes, of which the first is ACRE (Base 5.27.1.18).
    pub const HOST_BEHAVIOR: u32 = 0x16;
}

/// A range of a Dataset Management command (NVM 3.2.3.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes: none.
    pub attributes: U32,
    /// Length in blocks.
    pub blocks: U32,
    /// First block.
    pub first: U64,
}
const _: () = assert!(size_of::<DsmRange>() == 16);
