//! Feature bits (virtio 1.2, 5.2.3 and 6), and which of them are offered.

use nvme_policy::{Access, Grant};

use super::ConfigSpace;
use crate::Transport;
use crate::operation::Limits;

/// Largest size of a segment is in `size_max`.
pub const SIZE_MAX: u64 = 1 << 1;
/// Largest number of segments is in `seg_max`.
pub const SEG_MAX: u64 = 1 << 2;
/// The device is read-only.
pub const RO: u64 = 1 << 5;
/// The block size is in `blk_size`.
pub const BLK_SIZE: u64 = 1 << 6;
/// Flush requests.
pub const FLUSH: u64 = 1 << 9;
/// Topology is in the configuration space.
pub const TOPOLOGY: u64 = 1 << 10;
/// The cache mode can be changed by `writeback`.
pub const CONFIG_WCE: u64 = 1 << 11;
/// Several queues.
pub const MQ: u64 = 1 << 12;
/// Discard requests.
pub const DISCARD: u64 = 1 << 13;
/// Write-zeroes requests.
pub const WRITE_ZEROES: u64 = 1 << 14;
/// Indirect descriptors.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Event indices.
pub const EVENT_IDX: u64 = 1 << 29;
/// virtio 1.0 and up.
pub const VERSION_1: u64 = 1 << 32;

/// What is offered only over a transport that can handle it.
pub const OPTIONAL: u64 = EVENT_IDX | MQ;

/// What a session's device offers to its driver.
#[derive(Clone, Debug)]
pub struct Offer {
    features: u64,
    config: ConfigSpace,
}

impl Offer {
    /// Over that transport, with up to `queues` queues: one without [`MQ`]. Bits of the transport's own are its own affair.
    pub fn new(grant: &Grant, limits: &Limits, transport: Transport, queues: u16) -> Self {
        let features = common(grant, limits) | transport.features & OPTIONAL;
        let queues = if features & MQ == 0 { 1 } else { queues };
        Self { features, config: ConfigSpace::new(grant, limits, queues) }
    }

    /// The feature bits.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Its device is gone: from now on it has no sectors. (Some front-ends tell their driver of nothing but the capacity.)
    pub fn lose(&mut self) {
        self.config = self.config.clone().empty();
    }

    /// The configuration space in that cache mode; true: write-back.
    pub fn config_space(&self, write_back: bool) -> ConfigSpace {
        self.config.clone().with_write_back(write_back)
    }

    /// A write to the configuration space by a driver that acknowledged `features`: the cache mode that it chose, or
    /// `None` when it may not write that. Only `writeback` can be written, with 0 or 1, where CONFIG_WCE was
    /// negotiated.
    pub fn write_config(&self, features: u64, offset: u32, bytes: &[u8]) -> Option<bool> {
        match bytes {
            [on @ (0 | 1)] if offset == ConfigSpace::WRITEBACK && features & CONFIG_WCE != 0 => {
                Some(*on == 1)
            }
            _ => None,
        }
    }

    /// Whether a driver may acknowledge these features: nothing that was not offered. `transport` are the bits that
    /// the home offered on its own.
    pub fn accepts(&self, acknowledged: u64, transport: u64) -> bool {
        acknowledged & !(self.features | transport) == 0
    }
}

fn common(grant: &Grant, limits: &Limits) -> u64 {
    let read_only = grant.access() == Access::ReadOnly;
    let discard = limits.discard_blocks > 0 && !read_only;
    let write_zeroes = limits.write_zeroes_blocks > 0 && !read_only;
    let mut offer = VERSION_1 | INDIRECT_DESC | SEG_MAX | SIZE_MAX | BLK_SIZE | TOPOLOGY | FLUSH | CONFIG_WCE;
    for (bit, on) in [(RO, read_only), (DISCARD, discard), (WRITE_ZEROES, write_zeroes)] {
        if on {
            offer |= bit;
        }
    }
    offer
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
mod tests {
    use nvme_policy::{BlockSize, Extent, Namespace};

    use super::*;
    use crate::queue::Direction;

    const LIMITS: Limits = Limits {
        transfer_blocks: 256,
        discard_blocks: 8,
        discard_granularity: 0,
        write_zeroes_blocks: 8,
        volatile_cache: true,
        unmaps_to_zeroes: false,
    };

    fn grant(access: Access) -> Grant {
        Grant::new(Extent::whole(Namespace { controller: 0, nsid: 1 }, 64, BlockSize::B512).unwrap(), access)
    }

    fn offer(access: Access, limits: &Limits, features: u64) -> Offer {
        let transport = Transport { direction: Direction::AsFlagged, features };
        Offer::new(&grant(access), limits, transport, 256)
    }

    #[test]
    fn a_transport_chooses_of_what_is_optional_and_nothing_else() {
        let least = offer(Access::ReadWrite, &LIMITS, 0).features();
        assert_eq!(least, 0x1_1000_6e46);
        for chosen in [0, EVENT_IDX, MQ, OPTIONAL, u64::MAX, !OPTIONAL] {
            let offered = offer(Access::ReadWrite, &LIMITS, chosen).features();
            assert_eq!(offered, least | chosen & OPTIONAL, "{chosen:#x}");
        }
    }

    #[test]
    fn a_device_without_mq_has_one_queue() {
        for (features, queues) in [(0, 1), (EVENT_IDX, 1), (MQ, 256), (OPTIONAL, 256)] {
            let mut said = [0; 2];
            offer(Access::ReadWrite, &LIMITS, features).config_space(true).read(34, &mut said);
            assert_eq!(u16::from_le_bytes(said), queues, "{features:#x}");
        }
    }

    #[test]
    fn what_the_controller_cannot_do_is_not_offered() {
        let limits = Limits { discard_blocks: 0, write_zeroes_blocks: 0, ..LIMITS };
        let offer = offer(Access::ReadWrite, &limits, OPTIONAL).features();
        assert_eq!(offer & (DISCARD | WRITE_ZEROES | RO), 0);
    }

    #[test]
    fn only_a_read_only_session_offers_ro_and_it_offers_no_discard() {
        let offer = offer(Access::ReadOnly, &LIMITS, 0);
        assert_eq!(offer.features() & (DISCARD | WRITE_ZEROES | RO), RO);
        assert!(offer.accepts(offer.features() & !RO, 0) && offer.accepts(1 << 30, 1 << 30));
        assert!(!offer.accepts(DISCARD, 0) && !offer.accepts(1 << 30, 0));
    }

    #[test]
    fn only_writeback_can_be_written_and_only_where_negotiated() {
        let offer = offer(Access::ReadWrite, &LIMITS, OPTIONAL);
        for offset in (0..300).chain([u32::MAX]) {
            let there = offset == ConfigSpace::WRITEBACK;
            assert_eq!(offer.write_config(0, offset, &[1]), None);
            assert_eq!(offer.write_config(CONFIG_WCE, offset, &[1]), there.then_some(true));
        }
        for bytes in [&[2][..], &[0, 0], &[]] {
            assert_eq!(offer.write_config(CONFIG_WCE, ConfigSpace::WRITEBACK, bytes), None);
        }
        for on in [false, true] {
            let mut byte = [7];
            offer.config_space(on).read(u64::from(ConfigSpace::WRITEBACK), &mut byte);
            assert_eq!(byte, [u8::from(on)]);
        }
    }

    #[test]
    fn a_device_that_is_gone_has_no_sectors_and_is_otherwise_what_it_was() {
        let mut offer = offer(Access::ReadWrite, &LIMITS, OPTIONAL);
        let (features, before) = (offer.features(), *offer.config_space(true).bytes());
        offer.lose();
        let after = *offer.config_space(true).bytes();
        assert_eq!((u64::from_le_bytes(before[..8].try_into().unwrap()), &after[..8]), (64, &[0; 8][..]));
        assert_eq!((offer.features(), &after[8..]), (features, &before[8..]));
    }
}
