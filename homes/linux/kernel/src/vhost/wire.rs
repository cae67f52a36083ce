//! What goes over the socket: the header, and the message types of the `vhost` crate.
//!
//! All numbers are in the machine's byte order (vhost-user, "Message Specification").

pub use vhost::vhost_user::message::{
    BackendReq, FrontendReq, VhostUserConfig, VhostUserHeaderFlag, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures, VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;
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

/// The message type `T` that `bytes` are, when the length is its length.
pub fn decode<T: ByteValued + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    let into = value.as_mut_slice();
    if into.len() != bytes.len() {
        return None;
    }
    into.copy_from_slice(bytes);
    Some(value)
}

/// The bytes of a message type.
pub fn encode<T: ByteValued>(value: &T) -> &[u8] {
    value.as_slice()
}

/// The whole message that tells the front-end that the configuration space changed
/// (`VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`), to be sent over the back-end's own channel. It wants no reply.
pub fn config_changed() -> [u8; HEADER] {
    let header = Header::request(BackendReq::CONFIG_CHANGE_MSG.into(), false, 0);
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}
