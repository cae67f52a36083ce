//! What a controller and its namespaces are, as far as it was checked.

use heapless::String;
use nvme_policy::{BlockSize, Extent, Namespace};
use nvme_session::factory::Identifiers;
use nvme_session::operation::Limits;

/// What a controller said about itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControllerInfo {
    /// PCI vendor (Identify Controller, VID).
    pub vendor: u16,
    /// Serial number without the padding at its ends. It may hold spaces and colons; what is not printable ASCII
    /// is a question mark.
    pub serial: String<20>,
    /// Model number, likewise.
    pub model: String<40>,
    /// Firmware revision, likewise.
    pub firmware: String<8>,
    /// Name of its NVM subsystem (NQN), likewise; empty when it says none, or one that is known not to be its own.
    pub subsystem: String<256>,
    /// Its number in the subsystem (CNTLID).
    pub number: u16,
    /// Whether there may be other controllers in the subsystem (CMIC).
    pub has_siblings: bool,
    /// Version (VS): major, minor, tertiary.
    pub version: (u16, u8, u8),
    /// Whether there is a volatile write cache.
    pub volatile_cache: bool,
    /// Longest transfer of one command in bytes, as the driver uses it.
    pub transfer_bytes: u32,
    /// How memory may be described to it.
    pub sgl: SglSupport,
    /// I/O queue pairs that the controller granted, the scan's included.
    pub pairs: u16,
}

/// What kinds of scatter-gather lists a controller takes (Identify Controller, SGLS), and we may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SglSupport {
    /// None: PRPs only.
    #[default]
    None,
    /// Addresses and lengths must be multiples of four bytes.
    Dword,
    /// Any address and length.
    Byte,
}

/// One namespace that can be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceInfo {
    /// All of its blocks.
    pub extent: Extent,
    /// What commands on it may do.
    pub limits: Limits,
    /// Whether the controller protects it from being written.
    pub read_only: bool,
    /// Whether other controllers of the subsystem may have it, too: there may be some (CMIC), and they may (NMIC).
    pub shared: bool,
    /// What it is known by everywhere.
    pub unique: Identifiers,
}

impl NamespaceInfo {
    /// Which one it is.
    pub fn namespace(&self) -> Namespace {
        self.extent.namespace()
    }

    /// Its number of blocks.
    pub fn blocks(&self) -> u64 {
        self.extent.blocks()
    }

    /// The size of its blocks.
    pub fn block_size(&self) -> BlockSize {
        self.extent.block_size()
    }
}
