//! The numbers of vhost-user: requests and feature bits.
//!
//! What a front-end may say is listed whole, so that a message can be refused by its name, whether it is served here or not.

/// An enumeration of numbers on the wire, of which others may come.
macro_rules! numbers {
    ($(#[$about:meta])* pub enum $name:ident { $($number:ident = $value:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[expect(non_camel_case_types, reason = "named as the specification names them")]
        #[repr(u32)]
        pub enum $name {
            $(#[doc = concat!("`VHOST_USER_", stringify!($number), "`")] $number = $value,)+
        }

        impl TryFrom<u32> for $name {
            type Error = ();

            fn try_from(number: u32) -> Result<Self, ()> {
                match number {
                    $($value => Ok(Self::$number),)+
                    _ => Err(()),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(number: $name) -> Self {
                number as Self
            }
        }
    };
}

numbers! {
    /// What front-ends ask (vhost-user, "Front-end message types").
    pub enum FrontendReq {
        GET_FEATURES = 1,
        SET_FEATURES = 2,
        SET_OWNER = 3,
        RESET_OWNER = 4,
        SET_MEM_TABLE = 5,
        SET_LOG_BASE = 6,
        SET_LOG_FD = 7,
        SET_VRING_NUM = 8,
        SET_VRING_ADDR = 9,
        SET_VRING_BASE = 10,
        GET_VRING_BASE = 11,
        SET_VRING_KICK = 12,
        SET_VRING_CALL = 13,
        SET_VRING_ERR = 14,
        GET_PROTOCOL_FEATURES = 15,
        SET_PROTOCOL_FEATURES = 16,
        GET_QUEUE_NUM = 17,
        SET_VRING_ENABLE = 18,
        SEND_RARP = 19,
        NET_SET_MTU = 20,
        SET_BACKEND_REQ_FD = 21,
        IOTLB_MSG = 22,
        SET_VRING_ENDIAN = 23,
        GET_CONFIG = 24,
        SET_CONFIG = 25,
        CREATE_CRYPTO_SESSION = 26,
        CLOSE_CRYPTO_SESSION = 27,
        POSTCOPY_ADVISE = 28,
        POSTCOPY_LISTEN = 29,
        POSTCOPY_END = 30,
        GET_INFLIGHT_FD = 31,
        SET_INFLIGHT_FD = 32,
        GPU_SET_SOCKET = 33,
        RESET_DEVICE = 34,
        VRING_KICK = 35,
        GET_MAX_MEM_SLOTS = 36,
        ADD_MEM_REG = 37,
        REM_MEM_REG = 38,
        SET_STATUS = 39,
        GET_STATUS = 40,
        GET_SHARED_OBJECT = 41,
        SET_DEVICE_STATE_FD = 42,
        CHECK_DEVICE_STATE = 43,
        GET_SHMEM_CONFIG = 44,
    }
}

numbers! {
    /// What back-ends ask (vhost-user, "Back-end message types"), as far as this one does.
    pub enum BackendReq {
        CONFIG_CHANGE_MSG = 2,
    }
}

/// Sets of bits on the wire.
macro_rules! bits {
    ($(#[$about:meta])* pub struct $name:ident($of:ty) { $($(#[$bit_about:meta])* $bit:ident = $value:expr,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name($of);

        impl $name {
            $($(#[$bit_about])* pub const $bit: Self = Self($value);)+

            /// As a number.
            pub const fn bits(self) -> $of {
                self.0
            }
        }
    };
}

bits! {
    /// The flags of a header (vhost-user, "Header").
    pub struct VhostUserHeaderFlag(u32) {
        /// The bits that are the version.
        VERSION = 3,
        /// This is a reply.
        REPLY = 1 << 2,
        /// The sender wants to know whether it was done.
        NEED_REPLY = 1 << 3,
    }
}

bits! {
    /// The feature bits that vhost-user adds to those of a device.
    pub struct VhostUserVirtioFeatures(u64) {
        /// Log what is written to memory, for migration. Never offered.
        LOG_ALL = 1 << 26,
        /// There are protocol features, and rings start disabled.
        PROTOCOL_FEATURES = 1 << 30,
    }
}

bits! {
    /// Features of the protocol (vhost-user, "Protocol features").
    pub struct VhostUserProtocolFeatures(u64) {
        /// `GET_QUEUE_NUM`.
        MQ = 1,
        /// A request can ask for an acknowledgement.
        REPLY_ACK = 1 << 3,
        /// `SET_BACKEND_REQ_FD`.
        BACKEND_REQ = 1 << 5,
        /// `GET_CONFIG`, `SET_CONFIG`.
        CONFIG = 1 << 9,
        /// `GET_INFLIGHT_FD`, `SET_INFLIGHT_FD`.
        INFLIGHT_SHMFD = 1 << 12,
        /// `RESET_DEVICE`.
        RESET_DEVICE = 1 << 13,
        /// `GET_MAX_MEM_SLOTS`, `ADD_MEM_REG`, `REM_MEM_REG`.
        CONFIGURE_MEM_SLOTS = 1 << 15,
        /// `SET_STATUS`, `GET_STATUS`.
        STATUS = 1 << 16,
    }
}

impl VhostUserProtocolFeatures {
    /// None.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// These and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What of these bits is among `offered`; `Err`: bits that are not.
    pub const fn among(bits: u64, offered: Self) -> Result<Self, u64> {
        match bits & !offered.0 {
            0 => Ok(Self(bits)),
            surplus => Err(surplus),
        }
    }
}
