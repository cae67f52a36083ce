//! The numbers of the vhost-user protocol, as its specification gives them.
//!
//! Written down again rather than taken from the server's side, so that a mistake there is not repeated here.

/// Front-end requests ("Front-end message types").
pub mod request {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;
}

/// Back-end requests ("Back-end message types").
pub mod back_end_request {
    /// The device's configuration changed.
    pub const CONFIG_CHANGE_MSG: u32 = 2;
}

/// Protocol feature bits, as masks.
pub mod protocol {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// Bits of a header's flags.
pub mod flag {
    /// The version in the low two bits.
    pub const VERSION: u32 = 1;
    /// Set in a reply.
    pub const REPLY: u32 = 1 << 2;
    /// The front-end wants an acknowledgement.
    pub const NEED_REPLY: u32 = 1 << 3;
}

/// In a vring descriptor message: no descriptor came with it.
pub const VRING_NO_FD: u64 = 1 << 8;

/// Bytes of a header: request, flags and payload size, 32 bits each in the host's byte order.
pub const HEADER_LEN: usize = 12;

/// The bytes of a header.
pub fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&request.to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// A message that came in.
#[derive(Debug)]
pub struct Message {
    /// Which request it answers (or makes).
    pub request: u32,
    /// The header's flags.
    pub flags: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<std::os::fd::OwnedFd>,
}

impl Message {
    /// The payload as one number, when it is eight bytes long.
    pub fn number(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.payload.as_slice().try_into().ok()?))
    }
}

/// A memory region as messages describe it, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegionWords {
    /// First guest address.
    pub guest: u64,
    /// Length in bytes.
    pub size: u64,
    /// First client ("user") address, the one that ring addresses are in.
    pub user: u64,
    /// Where the region starts in its file.
    pub offset: u64,
}

impl RegionWords {
    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([self.guest, self.size, self.user, self.offset]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
