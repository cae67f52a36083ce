//! What a client asks, what it is told, and why it is refused.

use std::fmt;
use std::os::fd::OwnedFd;

use super::wire::FrontendReq;

/// Which request a reply belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub(super) u64);

impl Token {
    /// Of a request that nobody made, so that nobody is answered: a connection's machine counts its own from 1.
    pub const NOBODY: Self = Self(0);
}

/// What the machine has for the control role.
#[derive(Debug)]
pub enum Incoming {
    /// Something to do; it wants one [`Reply`].
    Request(Request),
    /// A request that was refused here and answered with a failure; the connection goes on. For the log.
    Refused(Refusal),
}

/// A checked request. Until it is answered ([`Machine::reply`](super::Machine::reply)) nothing more is read.
#[derive(Debug)]
pub struct Request {
    /// To be given back with the reply.
    pub token: Token,
    /// What to do.
    pub call: Call,
}

/// A range of the client's memory. It is not empty, and neither its addresses nor its offsets wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Guest address.
    pub guest: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address in the client's own process, in which ring addresses are given.
    pub user: u64,
    /// Where it starts in its file, in bytes.
    pub offset: u64,
}

/// A region with its memory file.
#[derive(Debug)]
pub struct RegionFile {
    /// The range.
    pub region: Region,
    /// The file, unchecked: see [`MemoryFile`](crate::memory::MemoryFile).
    pub file: OwnedFd,
}

/// What a client asks for. Ring indices are below the number of the device's queues.
#[derive(Debug)]
pub enum Call {
    /// These features were acknowledged, all of them offered ones. The flag `PROTOCOL_FEATURES` is taken out: see
    /// [`Machine::rings_start_enabled`](super::Machine::rings_start_enabled).
    SetFeatures(u64),
    /// The whole table of memory, as a difference from the one before.
    SetMemTable(Vec<RegionFile>),
    /// One region more.
    AddRegion(RegionFile),
    /// One region less; guest address, client address and size tell which. The offset says nothing.
    RemoveRegion(Region),
    /// Entries of a ring: a power of two, at most [`RING_SIZE_MAX`](super::RING_SIZE_MAX).
    SetRingSize {
        /// Which ring.
        ring: u16,
        /// Entries.
        size: u16,
    },
    /// Where a ring's parts are, as client addresses, aligned as virtio wants them.
    SetRingAddresses {
        /// Which ring.
        ring: u16,
        /// Descriptor table.
        desc: u64,
        /// Available ring.
        avail: u64,
        /// Used ring.
        used: u64,
    },
    /// The next index of the available ring to be looked at.
    SetRingBase {
        /// Which ring.
        ring: u16,
        /// The index.
        base: u16,
    },
    /// Stop a ring, and answer [`Reply::RingBase`] when nothing of it is in flight.
    GetRingBase {
        /// Which ring.
        ring: u16,
    },
    /// Start a ring; its kicks come by this eventfd (none: it is to be polled).
    SetKick {
        /// Which ring.
        ring: u16,
        /// The eventfd, unchecked.
        event: Option<OwnedFd>,
    },
    /// How to tell the driver of used buffers (none: it polls).
    SetCall {
        /// Which ring.
        ring: u16,
        /// The eventfd, unchecked.
        event: Option<OwnedFd>,
    },
    /// How to tell the client of a broken ring.
    SetError {
        /// Which ring.
        ring: u16,
        /// The eventfd, unchecked.
        event: Option<OwnedFd>,
    },
    /// Process a ring's requests, or leave them alone.
    EnableRing {
        /// Which ring.
        ring: u16,
        /// Whether to process.
        on: bool,
    },
    /// Read configuration space; wants [`Reply::Config`] with as many bytes.
    GetConfig {
        /// First byte.
        offset: u32,
        /// Number of bytes; the end is within [`CONFIG_SPACE`](super::wire::CONFIG_SPACE).
        len: u32,
    },
    /// Write configuration space.
    SetConfig {
        /// First byte.
        offset: u32,
        /// The bytes; the end is within [`CONFIG_SPACE`](super::wire::CONFIG_SPACE).
        data: Vec<u8>,
    },
    /// Stop every ring and go back to the state after power-on; memory stays registered.
    ResetDevice,
    /// A session starts on a connection that had one (`SET_OWNER`): clear away everything that is left of that, memory too. A
    /// QEMU that gets a new device for its chardev sends this, and nothing that ends the old one's.
    StartSession,
    /// Give the client memory in which what is in flight is kept, for so many rings of so many entries; wants
    /// [`Machine::reply_inflight`](super::Machine::reply_inflight).
    GetInflight {
        /// Rings, at most as many as the device has, and at least one.
        rings: u16,
        /// Entries of each: a power of two, at most [`RING_SIZE_MAX`](super::RING_SIZE_MAX).
        size: u16,
    },
    /// Keep what is in flight there, and take again first what was in flight when it was used last.
    SetInflight {
        /// Rings that it has room for.
        rings: u16,
        /// Entries of each.
        size: u16,
        /// Where it is; it has as much room as it needs.
        offset: u64,
        /// The file, unchecked: see [`MemoryFile`](crate::memory::MemoryFile).
        file: OwnedFd,
    },
    /// The channel for messages to the client, for [`Connection::set_channel`](super::Connection::set_channel).
    SetBackendChannel(OwnedFd),
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It was done. For every call but [`Call::GetRingBase`] and [`Call::GetConfig`].
    Done,
    /// The answer to [`Call::GetRingBase`].
    RingBase(u16),
    /// The answer to [`Call::GetConfig`].
    Config(Vec<u8>),
    /// It could not be done. Where the protocol has no way to say so, the connection ends.
    Failed,
}

/// Why a message is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The request is unknown, or belongs to a feature that is not offered.
    NotOffered,
    /// The request belongs to a feature that was not negotiated.
    NotNegotiated,
    /// Feature bits that are not offered.
    Features(u64),
    /// The payload's length is not the request's.
    Size(u32),
    /// The message carries this many descriptors, and should not.
    Descriptors(usize),
    /// No such ring.
    Ring(u32),
    /// Not a size of a ring.
    RingSize(u32),
    /// Not an index of a ring.
    RingBase(u32),
    /// A ring address that is not aligned.
    RingAlignment,
    /// A flag or value that means nothing here.
    Value(u64),
    /// The number of regions is not what the message holds, or too large.
    RegionCount(u32),
    /// A region that is empty or wraps.
    RegionRange,
    /// Outside configuration space.
    ConfigRange,
    /// A region for what is in flight that has not the room for it.
    InflightRange,
    /// The server could not do it; it says more elsewhere.
    Failed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("it is not offered"),
            Self::NotNegotiated => f.write_str("its feature was not negotiated"),
            Self::Features(bits) => write!(f, "feature bits {bits:#x} are not offered"),
            Self::Size(bytes) => write!(f, "its payload has {bytes} bytes"),
            Self::Descriptors(n) => write!(f, "it carries {n} descriptors"),
            Self::Ring(ring) => write!(f, "there is no ring {ring}"),
            Self::RingSize(size) => write!(f, "{size} is not a size of a ring"),
            Self::RingBase(base) => write!(f, "{base} is not an index of a ring"),
            Self::RingAlignment => f.write_str("a ring address is not aligned"),
            Self::Value(value) => write!(f, "the value {value:#x} means nothing there"),
            Self::RegionCount(n) => write!(f, "it does not hold {n} regions"),
            Self::RegionRange => f.write_str("a region is empty or wraps"),
            Self::ConfigRange => f.write_str("it reaches outside configuration space"),
            Self::InflightRange => f.write_str("the region for what is in flight is too small, or none"),
            Self::Failed => f.write_str("the line before says why"),
        }
    }
}

/// A request that was not taken, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The request's number ([`FrontendReq`]).
    pub request: u32,
    /// The reason.
    pub why: Why,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match FrontendReq::try_from(self.request) {
            Ok(request) => write!(f, "{request:?} refused: {}", self.why),
            Err(()) => write!(f, "request {} refused: {}", self.request, self.why),
        }
    }
}

/// What ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The version bits of a header are wrong.
    #[error("vhost-user version {0} instead of 1")]
    Version(u32),
    /// A header's flags have no place in a request.
    #[error("header flags {0:#x} in a request")]
    Flags(u32),
    /// A message is longer than any that is understood.
    #[error("a payload of {0} bytes")]
    TooLong(u32),
    /// A message came with more descriptors than any may carry.
    #[error("more than {} descriptors in one message", super::DESCRIPTORS_MAX)]
    TooManyDescriptors,
    /// More was fed than [`Machine::wanted`](super::Machine::wanted) said.
    #[error("bytes beyond the current message")]
    NotWanted,
    /// A refusal that the client cannot be told, since it did not ask for an acknowledgement.
    #[error("{0}")]
    Refused(Refusal),
}
