//! What the operator may choose, and how long the driver waits.

use core::time::Duration;

use nvme_policy::PciPlace;

/// A function on the PCI bus, by its configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
}

/// Choices and deadlines of one controller.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Do not use SGLs, even where the controller can (`--nosgl`).
    pub nosgl: bool,
    /// What the home knows about the device, for [`quirks`](super::quirks).
    pub pci: Option<PciId>,
    /// Where it is, for names.
    pub place: Option<PciPlace>,
    /// How often a controller on a bus is looked at though nothing happens: one that is pulled out, or whose status is fatal,
    /// interrupts nobody. Where `pci` says that it is on one.
    pub watch_every: Duration,
    /// How long an I/O command may take before [`expired`](super::QueuePair::expired) names it.
    pub io_timeout: Duration,
    /// How long an admin command may take before the controller counts as stuck.
    pub admin_timeout: Duration,
    /// How long Abort may take. Short: it is the first step of recovery, and optional for the controller.
    pub abort_timeout: Duration,
    /// Shortest wait for CSTS.RDY, whatever CAP.TO says (many controllers say too little).
    pub ready_floor: Duration,
    /// Longest wait for CSTS.RDY, whatever CAP.TO says.
    pub ready_ceiling: Duration,
    /// Longest transfer of one command, in bytes, whatever MDTS says. At most 1 MiB, so that one list page is enough.
    pub transfer_max: u32,
    /// Most bytes that one discard covers, so that a deadline covers each.
    pub discard_max: u64,
    /// Most bytes that one write-zeroes covers.
    pub write_zeroes_max: u64,
    /// Most entries of an I/O queue, 2 to 1,024. Each has a page of its own for lists, so this bounds the memory of a pair.
    pub depth_max: u16,
    /// Chunks of bounce memory for each queue pair; see [`BOUNCE_CHUNK`](super::BOUNCE_CHUNK).
    pub bounce_chunks: u16,
    /// Most I/O queue pairs to ask for.
    pub pairs_max: u16,
    /// Most namespaces to serve.
    pub namespaces_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nosgl: false,
            pci: None,
            place: None,
            watch_every: Duration::from_secs(1),
            io_timeout: Duration::from_secs(30),
            admin_timeout: Duration::from_secs(10),
            abort_timeout: Duration::from_secs(2),
            ready_floor: Duration::from_secs(1),
            ready_ceiling: Duration::from_secs(128),
            transfer_max: 1 << 20,
            discard_max: 1 << 30,
            write_zeroes_max: 32 << 20,
            depth_max: 1024,
            bounce_chunks: 4,
            pairs_max: 512,
            namespaces_max: 1024,
        }
    }
}
