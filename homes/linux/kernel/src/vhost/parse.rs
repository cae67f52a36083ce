//! From one whole message to a call that holds only valid values.

use std::os::fd::OwnedFd;

use super::request::{Call, Region, RegionFile, Why};
use super::wire::{
    CONFIG, CONFIG_SPACE, FrontendReq, INFLIGHT, INFLIGHT_SHORT, REGION, RING_INDEX, RING_NO_DESCRIPTOR,
    SINGLE_REGION_PADDING, TABLE, VhostUserConfig, VhostUserInflight, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures as Protocol, VhostUserU64, VhostUserVirtioFeatures, VhostUserVringAddr,
    VhostUserVringState, decode,
};
use super::{DESCRIPTORS_MAX, RING_SIZE_MAX};

/// What both sides have agreed on so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    /// Device features on offer, `PROTOCOL_FEATURES` among them.
    pub(super) offered: u64,
    /// Device features acknowledged.
    pub(super) features: u64,
    /// Protocol features acknowledged.
    pub(super) protocol: Protocol,
    /// How many queues the device has.
    pub(super) queues: u16,
}

/// Protocol features on offer.
pub(super) const PROTOCOL: Protocol = Protocol::MQ
    .union(Protocol::CONFIG)
    .union(Protocol::REPLY_ACK)
    .union(Protocol::CONFIGURE_MEM_SLOTS)
    .union(Protocol::RESET_DEVICE)
    .union(Protocol::BACKEND_REQ)
    .union(Protocol::INFLIGHT_SHMFD);

pub(super) const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// A message that is right.
#[derive(Debug)]
pub(super) enum Parsed {
    /// For the control role.
    Call(Call),
    /// `SET_FEATURES`, with the flag `PROTOCOL_FEATURES` still in.
    Features(u64),
    GetFeatures,
    GetProtocolFeatures,
    SetProtocolFeatures(Protocol),
    GetQueueNum,
    GetMaxMemSlots,
    /// `SET_OWNER`: a session starts.
    Owner,
    /// `RESET_OWNER`, which the specification tells back-ends to ignore.
    Ignored,
}

/// Checks a message. `files` are the descriptors that came with it; a call takes what is its own, the rest stays.
pub(super) fn parse(
    request: FrontendReq,
    payload: &[u8],
    files: &mut Vec<OwnedFd>,
    agreed: &Agreed,
) -> Result<Parsed, Why> {
    use FrontendReq as R;
    let needs = |feature| if agreed.protocol.contains(feature) { Ok(()) } else { Err(Why::NotNegotiated) };
    match request {
        R::GET_FEATURES => bare(payload, files).map(|()| Parsed::GetFeatures),
        R::GET_PROTOCOL_FEATURES => bare(payload, files).map(|()| Parsed::GetProtocolFeatures),
        R::SET_OWNER => bare(payload, files).map(|()| Parsed::Owner),
        R::RESET_OWNER => bare(payload, files).map(|()| Parsed::Ignored),
        R::SET_FEATURES => {
            let bits = number(payload, files)?;
            let surplus = bits & !agreed.offered;
            if surplus == 0 { Ok(Parsed::Features(bits)) } else { Err(Why::Features(surplus)) }
        }
        R::SET_PROTOCOL_FEATURES => {
            let bits = number(payload, files)?;
            Protocol::among(bits, PROTOCOL).map(Parsed::SetProtocolFeatures).map_err(Why::Features)
        }
        R::GET_QUEUE_NUM => {
            needs(Protocol::MQ)?;
            bare(payload, files).map(|()| Parsed::GetQueueNum)
        }
        R::GET_MAX_MEM_SLOTS => {
            needs(Protocol::CONFIGURE_MEM_SLOTS)?;
            bare(payload, files).map(|()| Parsed::GetMaxMemSlots)
        }
        R::SET_MEM_TABLE => table(payload, files).map(|regions| Parsed::Call(Call::SetMemTable(regions))),
        R::ADD_MEM_REG => {
            needs(Protocol::CONFIGURE_MEM_SLOTS)?;
            let region = single_region(payload)?;
            let file = one(files)?;
            Ok(Parsed::Call(Call::AddRegion(RegionFile { region, file })))
        }
        R::REM_MEM_REG => {
            needs(Protocol::CONFIGURE_MEM_SLOTS)?;
            // "For compatibility with existing incorrect implementations, the back-end MAY accept messages with one
            // file descriptor", and closes it.
            if files.len() > 1 {
                return Err(Why::Descriptors(files.len()));
            }
            Ok(Parsed::Call(Call::RemoveRegion(single_region(payload)?)))
        }
        R::SET_VRING_NUM => {
            let (ring, num) = ring_state(payload, files, agreed.queues)?;
            let size = u16::try_from(num).ok().filter(|n| n.is_power_of_two() && *n <= RING_SIZE_MAX);
            let size = size.ok_or(Why::RingSize(num))?;
            Ok(Parsed::Call(Call::SetRingSize { ring, size }))
        }
        R::SET_VRING_BASE => {
            let (ring, num) = ring_state(payload, files, agreed.queues)?;
            let base = u16::try_from(num).map_err(|_| Why::RingBase(num))?;
            Ok(Parsed::Call(Call::SetRingBase { ring, base }))
        }
        R::GET_VRING_BASE => {
            // The number is the reply's; clients leave anything there.
            let (ring, _) = ring_state(payload, files, agreed.queues)?;
            Ok(Parsed::Call(Call::GetRingBase { ring }))
        }
        R::SET_VRING_ADDR => ring_addresses(payload, files, agreed.queues).map(Parsed::Call),
        R::SET_VRING_KICK => ring_event(payload, files, agreed.queues)
            .map(|(ring, event)| Parsed::Call(Call::SetKick { ring, event })),
        R::SET_VRING_CALL => ring_event(payload, files, agreed.queues)
            .map(|(ring, event)| Parsed::Call(Call::SetCall { ring, event })),
        R::SET_VRING_ERR => ring_event(payload, files, agreed.queues)
            .map(|(ring, event)| Parsed::Call(Call::SetError { ring, event })),
        R::SET_VRING_ENABLE => {
            if agreed.features & PROTOCOL_FEATURES == 0 {
                return Err(Why::NotNegotiated);
            }
            let (ring, num) = ring_state(payload, files, agreed.queues)?;
            match num {
                0 | 1 => Ok(Parsed::Call(Call::EnableRing { ring, on: num == 1 })),
                other => Err(Why::Value(u64::from(other))),
            }
        }
        R::GET_CONFIG => {
            needs(Protocol::CONFIG)?;
            let (offset, data) = config(payload, files)?;
            let len = u32::try_from(data.len()).map_err(|_| Why::ConfigRange)?;
            Ok(Parsed::Call(Call::GetConfig { offset, len }))
        }
        R::SET_CONFIG => {
            needs(Protocol::CONFIG)?;
            let (offset, data) = config(payload, files)?;
            Ok(Parsed::Call(Call::SetConfig { offset, data: data.to_vec() }))
        }
        R::RESET_DEVICE => {
            needs(Protocol::RESET_DEVICE)?;
            bare(payload, files).map(|()| Parsed::Call(Call::ResetDevice))
        }
        R::GET_INFLIGHT_FD => {
            needs(Protocol::INFLIGHT_SHMFD)?;
            let VhostUserInflight { num_queues, queue_size, .. } = inflight(payload, agreed.queues)?;
            none(files)?;
            Ok(Parsed::Call(Call::GetInflight { rings: num_queues, size: queue_size }))
        }
        R::SET_INFLIGHT_FD => {
            needs(Protocol::INFLIGHT_SHMFD)?;
            let VhostUserInflight {
                mmap_size, mmap_offset: offset, num_queues: rings, queue_size: size, ..
            } = inflight(payload, agreed.queues)?;
            if mmap_size < inflight_len(rings, size) || offset.checked_add(mmap_size).is_none() {
                return Err(Why::InflightRange);
            }
            Ok(Parsed::Call(Call::SetInflight { rings, size, offset, file: one(files)? }))
        }
        R::SET_BACKEND_REQ_FD => {
            needs(Protocol::BACKEND_REQ)?;
            size(payload, 0)?;
            Ok(Parsed::Call(Call::SetBackendChannel(one(files)?)))
        }
        _ => Err(Why::NotOffered),
    }
}

/// Bytes between the journals of two rings of so many entries ("Inflight I/O tracking": a head, and a state for each descriptor, of 16
/// bytes each): whole cache lines, as QEMU's library has them.
pub fn inflight_stride(size: u16) -> u64 {
    (16 + 16 * u64::from(size)).next_multiple_of(64)
}

/// Bytes of the journals of so many rings.
pub fn inflight_len(rings: u16, size: u16) -> u64 {
    u64::from(rings) * inflight_stride(size)
}

/// Of which rings the journals are to be: at least one, and not more than the device has.
fn inflight(payload: &[u8], queues: u16) -> Result<VhostUserInflight, Why> {
    let mut bytes = [0; INFLIGHT];
    if payload.len() != INFLIGHT && payload.len() != INFLIGHT_SHORT {
        return Err(wrong_size(payload));
    }
    for (to, from) in bytes.iter_mut().zip(payload) {
        *to = *from;
    }
    let what: VhostUserInflight = decode(&bytes).ok_or(wrong_size(payload))?;
    if what.num_queues == 0 || what.num_queues > queues {
        return Err(Why::Ring(what.num_queues.into()));
    }
    if !what.queue_size.is_power_of_two() || what.queue_size > RING_SIZE_MAX {
        return Err(Why::RingSize(what.queue_size.into()));
    }
    Ok(what)
}

fn size(payload: &[u8], want: usize) -> Result<(), Why> {
    if payload.len() == want { Ok(()) } else { Err(wrong_size(payload)) }
}

fn wrong_size(payload: &[u8]) -> Why {
    Why::Size(u32::try_from(payload.len()).unwrap_or(u32::MAX))
}

fn none(files: &[OwnedFd]) -> Result<(), Why> {
    if files.is_empty() { Ok(()) } else { Err(Why::Descriptors(files.len())) }
}

fn one(files: &mut Vec<OwnedFd>) -> Result<OwnedFd, Why> {
    let n = files.len();
    files.pop_if(|_| n == 1).ok_or(Why::Descriptors(n))
}

fn bare(payload: &[u8], files: &[OwnedFd]) -> Result<(), Why> {
    size(payload, 0)?;
    none(files)
}

fn number(payload: &[u8], files: &[OwnedFd]) -> Result<u64, Why> {
    let VhostUserU64 { value } = decode(payload).ok_or(wrong_size(payload))?;
    none(files)?;
    Ok(value)
}

fn ring_index(index: u32, queues: u16) -> Result<u16, Why> {
    u16::try_from(index).ok().filter(|ring| *ring < queues).ok_or(Why::Ring(index))
}

fn ring_state(payload: &[u8], files: &[OwnedFd], queues: u16) -> Result<(u16, u32), Why> {
    let VhostUserVringState { index, num } = decode(payload).ok_or(wrong_size(payload))?;
    none(files)?;
    Ok((ring_index(index, queues)?, num))
}

fn ring_addresses(payload: &[u8], files: &[OwnedFd], queues: u16) -> Result<Call, Why> {
    let VhostUserVringAddr { index, flags, descriptor, used, available, .. } =
        decode(payload).ok_or(wrong_size(payload))?;
    none(files)?;
    let ring = ring_index(index, queues)?;
    // The one flag there is asks for dirty logging, which is not offered.
    if flags != 0 {
        return Err(Why::Value(u64::from(flags)));
    }
    // virtio 1.2, 2.7: the alignment of the three parts of a split virtqueue.
    if descriptor % 16 != 0 || available % 2 != 0 || used % 4 != 0 {
        return Err(Why::RingAlignment);
    }
    Ok(Call::SetRingAddresses { ring, desc: descriptor, avail: available, used })
}

fn ring_event(payload: &[u8], files: &mut Vec<OwnedFd>, queues: u16) -> Result<(u16, Option<OwnedFd>), Why> {
    let VhostUserU64 { value } = decode(payload).ok_or(wrong_size(payload))?;
    if value & !(RING_INDEX | RING_NO_DESCRIPTOR) != 0 {
        return Err(Why::Value(value));
    }
    let ring = ring_index((value & RING_INDEX) as u32, queues)?;
    if value & RING_NO_DESCRIPTOR != 0 {
        none(files)?;
        return Ok((ring, None));
    }
    Ok((ring, Some(one(files)?)))
}

fn region(bytes: &[u8]) -> Result<Region, Why> {
    let VhostUserMemoryRegion {
        guest_phys_addr: guest,
        memory_size: size,
        user_addr: user,
        mmap_offset: offset,
    } = decode(bytes).ok_or(Why::RegionRange)?;
    // No end may be 2^64 or beyond: the byte after a region has an address.
    let wraps = |start: u64| start.checked_add(size).is_none();
    if size == 0 || wraps(guest) || wraps(user) || wraps(offset) {
        return Err(Why::RegionRange);
    }
    Ok(Region { guest, size, user, offset })
}

fn single_region(payload: &[u8]) -> Result<Region, Why> {
    size(payload, SINGLE_REGION_PADDING + REGION)?;
    region(payload.get(SINGLE_REGION_PADDING..).unwrap_or(&[]))
}

fn table(payload: &[u8], files: &mut Vec<OwnedFd>) -> Result<Vec<RegionFile>, Why> {
    let (head, regions) = payload.split_at_checked(TABLE).ok_or(wrong_size(payload))?;
    let VhostUserMemory { num_regions, .. } = decode(head).ok_or(wrong_size(payload))?;
    let count = usize::try_from(num_regions).ok().filter(|n| *n <= DESCRIPTORS_MAX);
    let count = count.ok_or(Why::RegionCount(num_regions))?;
    if regions.len() != count * REGION {
        return Err(Why::RegionCount(num_regions));
    }
    if files.len() != count {
        return Err(Why::Descriptors(files.len()));
    }
    let regions = regions.chunks_exact(REGION).map(region).collect::<Result<Vec<_>, _>>()?;
    Ok(regions.into_iter().zip(files.drain(..)).map(|(region, file)| RegionFile { region, file }).collect())
}

/// Offset, and the bytes that follow the head: as many as the head says.
fn config<'a>(payload: &'a [u8], files: &[OwnedFd]) -> Result<(u32, &'a [u8]), Why> {
    let (head, data) = payload.split_at_checked(CONFIG).ok_or(wrong_size(payload))?;
    let VhostUserConfig { offset, size, flags } = decode(head).ok_or(wrong_size(payload))?;
    none(files)?;
    if usize::try_from(size) != Ok(data.len()) {
        return Err(wrong_size(payload));
    }
    if size == 0 || offset.checked_add(size).is_none_or(|end| end > CONFIG_SPACE) {
        return Err(Why::ConfigRange);
    }
    // The specification counts 0 as the driver's own access and 1 as live migration's; rust-vmm's front-ends say 1 and 2.
    // All are treated as the driver's own, which may change less.
    if flags > 2 {
        return Err(Why::Value(u64::from(flags)));
    }
    Ok((offset, data))
}
