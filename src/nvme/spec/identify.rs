//! Identify data (Base 5.17.2, NVM 4.1.5).
#![expect(
    missing_docs,
    reason = "fields without a comment are not used; their names are the specification's"
)]

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Values of CNS.
pub mod cns {
    /// Identify Namespace data structure (NVM 4.1.5.1).
    pub const NAMESPACE: u32 = 0x00;
    /// Identify Controller data structure (Base 5.17.2.1).
    pub const CONTROLLER: u32 = 0x01;
    /// Active Namespace ID list (Base 5.17.2.3).
    pub const ACTIVE_NAMESPACES: u32 = 0x02;
    /// Namespace Identification Descriptor list (Base 5.17.2.4).
    pub const DESCRIPTORS: u32 = 0x03;
    /// I/O Command Set specific Identify Controller data structure (NVM 4.1.5.4); CSI 0.
    pub const CONTROLLER_NVM: u32 = 0x06;
}

/// Values of NIDT, what a descriptor holds (Base 5.17.2.4, figure 277).
pub mod nidt {
    /// IEEE Extended Unique Identifier, 8 bytes.
    pub const EUI64: u8 = 1;
    /// Namespace Globally Unique Identifier, 16 bytes.
    pub const NGUID: u8 = 2;
    /// Namespace UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// Command Set Identifier, one byte.
    pub const COMMAND_SET: u8 = 4;
}

/// CMIC: the subsystem may have several controllers.
pub const CMIC_CONTROLLERS: u8 = 1 << 1;
/// OACS: the controller takes Doorbell Buffer Config: it is a virtual one.
pub const OACS_DOORBELL_BUFFERS: u16 = 1 << 8;
/// NMIC: the namespace may be shared by several controllers.
pub const NMIC_SHARED: u8 = 1;
/// NSFEAT: NPDG counts (NVM 4.1.5.1, OPTPERF).
pub const NSFEAT_OPTPERF: u8 = 1 << 4;

/// Identifiers in one Active Namespace ID list.
pub const LIST_ENTRIES: usize = 1024;

/// Identify Controller (Base 5.17.2.1, figure 275).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Controller {
    /// PCI vendor.
    pub vid: U16,
    /// PCI subsystem vendor.
    pub ssvid: U16,
    /// Serial number, ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// Model number.
    pub mn: [u8; 40],
    /// Firmware revision.
    pub fr: [u8; 8],
    pub rab: u8,
    pub ieee: [u8; 3],
    /// Multi-path; bit 1: there may be several controllers in the subsystem.
    pub cmic: u8,
    /// Largest transfer: smallest page << MDTS bytes; 0: no limit.
    pub mdts: u8,
    /// The controller's number in its subsystem.
    pub cntlid: U16,
    pub ver: U32,
    pub rtd3r: U32,
    /// Time that a shutdown may take, in microseconds; 0: not said.
    pub rtd3e: U32,
    /// Optional asynchronous events; bit 8: namespace attribute notices.
    pub oaes: U32,
    pub ctratt: U32,
    pub rrls: U16,
    pub reserved102: [u8; 9],
    /// Controller type; 0: not said, 1: I/O.
    pub cntrltype: u8,
    pub fguid: [u8; 16],
    /// Command Retry Delay Times 1 to 3, in units of 100 ms; 0: none.
    pub crdt: [U16; 3],
    pub reserved134: [u8; 122],
    pub oacs: U16,
    /// Most Aborts at a time, less one.
    pub acl: u8,
    /// Most Asynchronous Event Requests at a time, less one.
    pub aerl: u8,
    pub frmw: u8,
    /// Log page attributes.
    pub lpa: u8,
    pub elpe: u8,
    pub reserved263: [u8; 249],
    /// Submission queue entry sizes: required in 3:0, largest in 7:4, as powers of two.
    pub sqes: u8,
    /// Completion queue entry sizes.
    pub cqes: u8,
    pub maxcmd: U16,
    /// Number of namespaces: the highest identifier.
    pub nn: U32,
    /// Optional NVM commands.
    pub oncs: U16,
    pub fuses: U16,
    pub fna: u8,
    /// Bit 0: there is a volatile write cache.
    pub vwc: u8,
    pub awun: U16,
    pub awupf: U16,
    pub icsvscc: u8,
    pub nwpc: u8,
    pub acwu: U16,
    pub cdfs: U16,
    /// SGL support; bits 1:0: 0 none, 1 any alignment, 2 dwords.
    pub sgls: U32,
    pub mnan: U32,
    pub reserved544: [u8; 224],
    /// The NVM subsystem's NVMe Qualified Name, ended by a zero byte.
    pub subnqn: [u8; 256],
    pub reserved1024: [u8; 3072],
}
const _: () = assert!(size_of::<Controller>() == 4096);
const _: () = assert!(offset_of!(Controller, mdts) == 77 && offset_of!(Controller, oaes) == 92);
const _: () = assert!(offset_of!(Controller, cntrltype) == 111 && offset_of!(Controller, oacs) == 256);
const _: () = assert!(offset_of!(Controller, sqes) == 512 && offset_of!(Controller, nn) == 516);
const _: () = assert!(offset_of!(Controller, vwc) == 525 && offset_of!(Controller, sgls) == 536);
const _: () = assert!(offset_of!(Controller, subnqn) == 768 && offset_of!(Controller, crdt) == 128);
const _: () = assert!(offset_of!(Controller, cmic) == 76 && offset_of!(Controller, cntlid) == 78);

/// OAES: Namespace Attribute Notices.
pub const OAES_NAMESPACE: u32 = 1 << 8;
/// ONCS: Dataset Management.
pub const ONCS_DSM: u16 = 1 << 2;
/// ONCS: Write Zeroes.
pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;

/// Identify Controller of the NVM command set (NVM 4.1.5.4).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControllerNvm {
    pub vsl: u8,
    /// Longest Write Zeroes: smallest page << WZSL bytes; 0: no limit.
    pub wzsl: u8,
    pub wusl: u8,
    /// Most ranges of a Dataset Management; 0: no limit.
    pub dmrl: u8,
    /// Most blocks in one of its ranges; 0: no limit.
    pub dmrsl: U32,
    /// Most blocks in all of its ranges; 0: no limit.
    pub dmsl: U64,
    pub reserved16: [u8; 4080],
}
const _: () = assert!(size_of::<ControllerNvm>() == 4096);

/// An LBA format (NVM 4.1.5.1, figure 98).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LbaFormat {
    /// Bytes of metadata for each block.
    pub ms: U16,
    /// Bytes of a block, as a power of two.
    pub lbads: u8,
    pub rp: u8,
}

/// Identify Namespace (NVM 4.1.5.1, figure 97).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Namespace {
    /// Size in blocks; 0: not active.
    pub nsze: U64,
    pub ncap: U64,
    pub nuse: U64,
    /// Features; bit 4: what the namespace prefers is said (NPDG and its neighbours).
    pub nsfeat: u8,
    /// Number of LBA formats, less one.
    pub nlbaf: u8,
    /// Format in use: low bits of its index in 3:0, high bits in 6:5.
    pub flbas: u8,
    pub mc: u8,
    pub dpc: u8,
    /// End-to-end protection; bits 2:0: type, 0 none.
    pub dps: u8,
    /// Sharing; bit 0: other controllers may have it, too.
    pub nmic: u8,
    pub rescap: u8,
    pub fpi: u8,
    /// What deallocated blocks are; bits 2:0: 1 they read as zeroes, bit 3: Write Zeroes may deallocate.
    pub dlfeat: u8,
    pub reserved34: [u8; 34],
    /// Blocks that are preferably deallocated together, less one.
    pub npdg: U16,
    pub reserved70: [u8; 29],
    /// Attributes; bit 0: write protected.
    pub nsattr: u8,
    pub reserved100: [u8; 4],
    /// Globally unique identifier; zeroes: none.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier; zeroes: none.
    pub eui64: [u8; 8],
    /// Formats.
    pub lbaf: [LbaFormat; 64],
    pub vendor: [u8; 3712],
}
const _: () = assert!(size_of::<Namespace>() == 4096);
const _: () = assert!(offset_of!(Namespace, nsattr) == 99 && offset_of!(Namespace, lbaf) == 128);
const _: () = assert!(
    offset_of!(Namespace, nmic) == 30
        && offset_of!(Namespace, dlfeat) == 33
        && offset_of!(Namespace, npdg) == 68
        && offset_of!(Namespace, nguid) == 104
);
