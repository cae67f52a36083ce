//! What a client says to its connection, as bytes.

use std::collections::VecDeque;

use nvme_linux::vhost::wire::{
    FrontendReq, Header, VhostUserInflight, VhostUserMemory, VhostUserMemoryRegion, VhostUserU64,
    VhostUserVringAddr, VhostUserVringState, encode,
};

use crate::driver::{Driver, LEN, REGIONS, RING, guest, user};

/// The file in which a client keeps what is in flight, where regions are told by their numbers.
pub(crate) const JOURNAL: usize = 16;

/// A message of an honest client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    GetFeatures,
    Owner,
    GetProtocol,
    SetProtocol,
    SetFeatures,
    Add(u8),
    Remove(u8),
    Table(u8),
    Num(u8),
    Addresses(u8),
    Base(u8),
    GetBase(u8),
    Kick(u8),
    Call(u8),
    Enable(u8, bool),
    WriteBack(bool),
    Reset,
    OwnerAgain,
    GetInflight,
    SetInflight,
}

impl Message {
    /// A device is brought up.
    pub(crate) fn boot(queues: u16, inflight: bool) -> VecDeque<Self> {
        let journal: &[Self] = if inflight { &[Self::GetInflight, Self::SetInflight] } else { &[] };
        let mut all = VecDeque::from([
            Self::GetFeatures,
            Self::GetProtocol,
            Self::SetProtocol,
            Self::Owner,
            Self::SetFeatures,
        ]);
        all.extend(journal);
        all.extend([Self::Add(0), Self::Add(1)]);
        for queue in 0..queues as u8 {
            all.extend(Self::start(queue));
        }
        all
    }

    /// A queue is started.
    pub(crate) fn start(queue: u8) -> [Self; 6] {
        [
            Self::Num(queue),
            Self::Addresses(queue),
            Self::Base(queue),
            Self::Call(queue),
            Self::Kick(queue),
            Self::Enable(queue, true),
        ]
    }

    fn request(self) -> FrontendReq {
        use FrontendReq as R;
        match self {
            Self::GetFeatures => R::GET_FEATURES,
            Self::Owner | Self::OwnerAgain => R::SET_OWNER,
            Self::GetProtocol => R::GET_PROTOCOL_FEATURES,
            Self::SetProtocol => R::SET_PROTOCOL_FEATURES,
            Self::SetFeatures => R::SET_FEATURES,
            Self::Add(_) => R::ADD_MEM_REG,
            Self::Remove(_) => R::REM_MEM_REG,
            Self::Table(_) => R::SET_MEM_TABLE,
            Self::Num(_) => R::SET_VRING_NUM,
            Self::Addresses(_) => R::SET_VRING_ADDR,
            Self::Base(_) => R::SET_VRING_BASE,
            Self::GetBase(_) => R::GET_VRING_BASE,
            Self::Kick(_) => R::SET_VRING_KICK,
            Self::Call(_) => R::SET_VRING_CALL,
            Self::Enable(..) => R::SET_VRING_ENABLE,
            Self::WriteBack(_) => R::SET_CONFIG,
            Self::Reset => R::RESET_DEVICE,
            Self::GetInflight => R::GET_INFLIGHT_FD,
            Self::SetInflight => R::SET_INFLIGHT_FD,
        }
    }

    /// The ring that it starts, or stops to start it again.
    pub(crate) fn ring(self) -> Option<usize> {
        match self {
            Self::Num(n)
            | Self::Addresses(n)
            | Self::Base(n)
            | Self::Kick(n)
            | Self::Call(n)
            | Self::Enable(n, _) => Some(n.into()),
            _ => None,
        }
    }

    /// The regions that a message is about, as files go with it.
    pub(crate) fn regions(self) -> Vec<usize> {
        match self {
            Self::Add(region) => vec![usize::from(region) % REGIONS],
            Self::SetInflight => vec![JOURNAL],
            Self::Table(mask) => (0..REGIONS).filter(|r| mask >> r & 1 == 1).collect(),
            _ => Vec::new(),
        }
    }

    /// Its header and its payload. `features`: what the driver acknowledges; `base`: where its queues go on.
    pub(crate) fn bytes(self, driver: &Driver, features: u64) -> (Vec<u8>, Vec<u8>) {
        let number = |value: u64| encode(&VhostUserU64 { value }).to_vec();
        let state = |index: u8, num: u32| encode(&VhostUserVringState { index: index.into(), num }).to_vec();
        let region = |region: usize| VhostUserMemoryRegion {
            guest_phys_addr: guest(region),
            memory_size: LEN[region],
            user_addr: user(region),
            mmap_offset: 0,
        };
        let single = |index: u8| {
            let mut bytes = vec![0; 8];
            bytes.extend_from_slice(encode(&region(usize::from(index) % REGIONS)));
            bytes
        };
        let payload = match self {
            Self::GetFeatures | Self::Owner | Self::OwnerAgain | Self::GetProtocol | Self::Reset => {
                Vec::new()
            }
            // MQ, REPLY_ACK, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS
            Self::SetProtocol => number(1 | 1 << 3 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15),
            Self::GetInflight | Self::SetInflight => {
                let (num_queues, queue_size) = (driver.queues.len() as u16, RING);
                let mmap_size = nvme_linux::vhost::inflight_len(num_queues, queue_size);
                let what = VhostUserInflight { mmap_size, num_queues, queue_size, ..Default::default() };
                encode(&what).to_vec()
            }
            Self::SetFeatures => number(features),
            Self::Add(index) | Self::Remove(index) => single(index),
            Self::Table(_) => {
                let regions = self.regions();
                let head = VhostUserMemory { num_regions: regions.len() as u32, padding: 0 };
                let mut bytes = encode(&head).to_vec();
                for index in regions {
                    bytes.extend_from_slice(encode(&region(index)));
                }
                bytes
            }
            Self::Num(queue) => state(queue, RING.into()),
            Self::Base(queue) => state(queue, driver.queues[usize::from(queue)].base.into()),
            Self::GetBase(queue) => state(queue, 0),
            Self::Enable(queue, on) => state(queue, on.into()),
            Self::Addresses(queue) => {
                let (descriptor, available, used) = Driver::rings(queue.into());
                let index = queue.into();
                encode(&VhostUserVringAddr { index, flags: 0, descriptor, used, available, log: 0 }).to_vec()
            }
            Self::Kick(queue) | Self::Call(queue) => number(u64::from(queue) | 1 << 8),
            Self::WriteBack(on) => {
                let mut bytes = Vec::new();
                for word in [32_u32, 1, 0] {
                    bytes.extend_from_slice(&word.to_le_bytes());
                }
                bytes.push(on.into());
                bytes
            }
        };
        let own_answer =
            matches!(self, Self::GetFeatures | Self::GetProtocol | Self::GetBase(_) | Self::GetInflight);
        let header =
            Header::request(self.request().into(), !own_answer && self != Self::Owner, payload.len() as u32);
        (encode(&header).to_vec(), payload)
    }

    /// Whether it is answered.
    pub(crate) fn is_answered(self) -> bool {
        self != Self::Owner
    }
}

/// A message of a hostile client: a header, a payload, and how many descriptors go with them.
pub(crate) fn forged(kind: u8, value: u64) -> (Vec<u8>, Vec<u8>, usize) {
    let request = u32::from(kind % 45);
    let word = |shift: u32| (value >> shift) as u32;
    let (ring, small) = (word(0) % 4, word(8) & 0x7ff);
    let region = |index: u64| VhostUserMemoryRegion {
        guest_phys_addr: guest(0) + (value & 7) * 0x1000 + (index << 32),
        memory_size: [0x1000, 0x8000, 0x5000, 0x800, 0x10_0000, LEN[1]][(value >> 4) as usize % 6],
        user_addr: user(0) + (value & 7) * 0x1000 + (index << 33),
        mmap_offset: [0, 0x1000, 0x200, 0x8000][(value >> 8) as usize % 4],
    };
    let single = |index| {
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(encode(&region(index)));
        bytes
    };
    let count = |n: u64| (n % 4) as u32;
    let (payload, files) = match request {
        2 => (encode(&VhostUserU64 { value: value & 0x1_ffff_ffff }).to_vec(), 0),
        16 => (encode(&VhostUserU64 { value: value & 0xffff }).to_vec(), 0),
        5 => {
            let regions = count(value >> 12);
            let mut bytes = encode(&VhostUserMemory { num_regions: regions, padding: 0 }).to_vec();
            for index in 0..u64::from(regions) {
                bytes.extend_from_slice(encode(&region(index)));
            }
            (bytes, regions as usize)
        }
        8 => (encode(&VhostUserVringState { index: ring, num: 1 << (small % 12) }).to_vec(), 0),
        10 | 11 => (encode(&VhostUserVringState { index: ring, num: small }).to_vec(), 0),
        18 => (encode(&VhostUserVringState { index: ring, num: small & 1 }).to_vec(), 0),
        9 => {
            let (descriptor, available, used) = Driver::rings((ring % 3) as u16);
            let off = u64::from(small & 3) * 0x40;
            let (index, flags, log) = (ring, 0, 0);
            let used = used + off;
            (encode(&VhostUserVringAddr { index, flags, descriptor, used, available, log }).to_vec(), 0)
        }
        12..=14 => (encode(&VhostUserU64 { value: u64::from(ring) | 1 << 8 }).to_vec(), 0),
        31 | 32 => {
            let (num_queues, queue_size) = (ring as u16, 1 << (small % 7));
            let mmap_size =
                nvme_linux::vhost::inflight_len(num_queues, queue_size) + u64::from(small & 0x100);
            let mmap_offset = [0, 0x40, 0x1000, 1][(value >> 12) as usize % 4];
            let what =
                VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size, ..Default::default() };
            (encode(&what).to_vec(), (request - 31) as usize)
        }
        37 => (single(value >> 16 & 3), 1),
        38 => (single(value >> 16 & 3), 0),
        24 | 25 => {
            let mut bytes = Vec::new();
            for word in [small % 64, 1, 0] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.push((value >> 20) as u8 & 1);
            (bytes, 0)
        }
        _ => (vec![0; value.is_multiple_of(20).into()], 0),
    };
    let header = Header::request(request, value >> 40 & 7 != 0, payload.len() as u32);
    (encode(&header).to_vec(), payload, files)
}
