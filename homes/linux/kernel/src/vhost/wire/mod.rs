//! What goes over the socket: the header, and the messages that are served here. [`numbers`] are requests and feature bits.
//!
//! All numbers are in the machine's byte order (vhost-user, "Message Specification"). rust-vmm's crate `vhost` has all this, too, and
//! random UUIDs with it; a test of the program holds the two against each other.

mod numbers;

pub use numbers::{
    BackendReq, FrontendReq, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::DESCRIPTORS_MAX;

/// The header of every message (vhost-user, "Header").
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// A [`FrontendReq`] or a [`BackendReq`].
    pub request: u32,
    /// Version in bits 0 and 1, then [`VhostUserHeaderFlag`].
    pub flags: u32,
    /// Bytes of payload that follow.
    pub size: u32,
}

/// Bytes of a header.
pub const HEADER: usize = 12;
const _: () = assert!(size_of::<Header>() == HEADER);

/// The protocol version.
pub const VERSION: u32 = 1;
/// Bytes of the device configuration space (vhost-user, "Virtio device config space").
pub const CONFIG_SPACE: u32 = 0x1000;
/// Bytes of the padding before the one region of `ADD_MEM_REG` and `REM_MEM_REG` ("Single memory region description").
pub const SINGLE_REGION_PADDING: usize = 8;
/// `SET_VRING_KICK`, `_CALL`, `_ERR`: the ring's index.
pub const RING_INDEX: u64 = 0xff;
/// `SET_VRING_KICK`, `_CALL`, `_ERR`: no descriptor comes with the message.
pub const RING_NO_DESCRIPTOR: u64 = 0x100;

pub(super) const TABLE: usize = size_of::<VhostUserMemory>();
pub(super) const REGION: usize = size_of::<VhostUserMemoryRegion>();
pub(super) const CONFIG: usize = size_of::<VhostUserConfig>();
pub(super) const INFLIGHT: usize = size_of::<VhostUserInflight>();
/// The same without padding.
pub(super) const INFLIGHT_SHORT: usize = INFLIGHT - size_of::<u32>();

/// Most bytes of payload of any message that is understood here: a whole configuration space with its head.
pub const PAYLOAD_MAX: usize = CONFIG + CONFIG_SPACE as usize;
const _: () = assert!(TABLE + DESCRIPTORS_MAX * REGION <= PAYLOAD_MAX);

impl Header {
    /// The header of a reply of `size` bytes.
    pub fn reply(request: u32, size: u32) -> Self {
        Self { request, flags: VERSION | VhostUserHeaderFlag::REPLY.bits(), size }
    }

    /// The header of a request of `size` bytes.
    pub fn request(request: u32, need_reply: bool, size: u32) -> Self {
        let need_reply = if need_reply { VhostUserHeaderFlag::NEED_REPLY.bits() } else { 0 };
        Self { request, flags: VERSION | need_reply, size }
    }

    /// Whether the sender wants an answer to a request that has none of its own.
    pub fn need_reply(&self) -> bool {
        self.flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0
    }
}

/// A message or a part of one.
macro_rules! message {
    ($(#[$about:meta])* pub struct $name:ident: $size:literal { $($(#[$field_about:meta])* pub $field:ident: $of:ty,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_about])* pub $field: $of,)+
        }

        const _: () = assert!(size_of::<$name>() == $size);
    };
}

message! {
    /// "A single 64-bit integer".
    pub struct VhostUserU64: 8 {
        /// It.
        pub value: u64,
    }
}

message! {
    /// "A vring state description".
    pub struct VhostUserVringState: 8 {
        /// The ring.
        pub index: u32,
        /// Its size, its base, or whether it is on.
        pub num: u32,
    }
}

message! {
    /// "A vring address description". Addresses are the front-end's own.
    pub struct VhostUserVringAddr: 40 {
        /// The ring.
        pub index: u32,
        /// Bit 0 asks for a log.
        pub flags: u32,
        /// The descriptor table.
        pub descriptor: u64,
        /// The used ring.
        pub used: u64,
        /// The available ring.
        pub available: u64,
        /// The log.
        pub log: u64,
    }
}

message! {
    /// The head of "multiple memory regions description"; regions follow.
    pub struct VhostUserMemory: 8 {
        /// How many.
        pub num_regions: u32,
        /// Nothing.
        pub padding: u32,
    }
}

message! {
    /// "A memory region description".
    pub struct VhostUserMemoryRegion: 32 {
        /// Where the guest sees it.
        pub guest_phys_addr: u64,
        /// Bytes.
        pub memory_size: u64,
        /// Where the front-end sees it.
        pub user_addr: u64,
        /// Where it begins in its file.
        pub mmap_offset: u64,
    }
}

message! {
    /// The head of "a virtio device config space"; its bytes follow.
    pub struct VhostUserConfig: 12 {
        /// Where the bytes begin.
        pub offset: u32,
        /// How many there are.
        pub size: u32,
        /// Who changes it.
        pub flags: u32,
    }
}

message! {
    /// "Inflight description". QEMU's has four bytes of padding behind, rust-vmm's has not.
    pub struct VhostUserInflight: 24 {
        /// Bytes of the region.
        pub mmap_size: u64,
        /// Where it begins in its file.
        pub mmap_offset: u64,
        /// Queues that it has journals of.
        pub num_queues: u16,
        /// Descriptors of each.
        pub queue_size: u16,
        /// Nothing.
        pub padding: u32,
    }
}

/// The message type `T` that `bytes` are, when the length is its length.
pub fn decode<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}

/// The bytes of a message type.
pub fn encode<T: IntoBytes + Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}

/// The whole message that tells the front-end that the configuration space changed
/// (`VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`), to be sent over the back-end's own channel. It wants no reply.
pub fn config_changed() -> [u8; HEADER] {
    let header = Header::request(BackendReq::CONFIG_CHANGE_MSG.into(), false, 0);
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}
