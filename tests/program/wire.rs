//! The messages of vhost-user as they are defined here, held against those of rust-vmm's crate.

use nvme_linux::vhost::wire as ours;
use vhost::vhost_user::message as theirs;

#[test]
fn requests_have_the_numbers_that_rust_vmm_gives_them() {
    for number in 0..=256 {
        let (own, other) = (ours::FrontendReq::try_from(number), theirs::FrontendReq::try_from(number));
        assert_eq!(own.map(|r| format!("{r:?}")), other.map(|r| format!("{r:?}")), "{number}");
        assert_eq!(own.map_or(number, u32::from), number);
    }
    let changed =
        (u32::from(ours::BackendReq::CONFIG_CHANGE_MSG), u32::from(theirs::BackendReq::CONFIG_CHANGE_MSG));
    assert_eq!(changed.0, changed.1);
}

#[test]
fn bits_are_where_rust_vmm_has_them() {
    use ours::VhostUserProtocolFeatures as Own;
    use theirs::VhostUserProtocolFeatures as Other;
    let protocol = [
        (Own::MQ, Other::MQ),
        (Own::REPLY_ACK, Other::REPLY_ACK),
        (Own::BACKEND_REQ, Other::BACKEND_REQ),
        (Own::CONFIG, Other::CONFIG),
        (Own::INFLIGHT_SHMFD, Other::INFLIGHT_SHMFD),
        (Own::RESET_DEVICE, Other::RESET_DEVICE),
        (Own::CONFIGURE_MEM_SLOTS, Other::CONFIGURE_MEM_SLOTS),
        (Own::STATUS, Other::STATUS),
    ];
    for (own, other) in protocol {
        assert_eq!(own.bits(), other.bits());
    }
    let all = protocol.iter().fold(Own::empty(), |all, (own, _)| all.union(*own));
    assert!(all.contains(Own::MQ.union(Own::STATUS)) && !Own::MQ.contains(all));
    assert_eq!(Own::among(Own::MQ.bits() | 1 << 40, all), Err(1 << 40));
    let header = |own: ours::VhostUserHeaderFlag, other: theirs::VhostUserHeaderFlag| {
        assert_eq!(own.bits(), other.bits());
    };
    header(ours::VhostUserHeaderFlag::VERSION, theirs::VhostUserHeaderFlag::VERSION);
    header(ours::VhostUserHeaderFlag::REPLY, theirs::VhostUserHeaderFlag::REPLY);
    header(ours::VhostUserHeaderFlag::NEED_REPLY, theirs::VhostUserHeaderFlag::NEED_REPLY);
    let device = |own: ours::VhostUserVirtioFeatures, other: theirs::VhostUserVirtioFeatures| {
        assert_eq!(own.bits(), other.bits());
    };
    device(ours::VhostUserVirtioFeatures::LOG_ALL, theirs::VhostUserVirtioFeatures::LOG_ALL);
    device(
        ours::VhostUserVirtioFeatures::PROTOCOL_FEATURES,
        theirs::VhostUserVirtioFeatures::PROTOCOL_FEATURES,
    );
}

/// A field lies at the same place of a message of the same length.
macro_rules! same_field {
    ($message:ident, $($field:ident),+) => {$(
        assert_eq!(
            (core::mem::offset_of!(ours::$message, $field), size_of::<ours::$message>()),
            (core::mem::offset_of!(theirs::$message, $field), size_of::<theirs::$message>()),
            concat!(stringify!($message), ".", stringify!($field)),
        );
    )+};
}

#[test]
fn messages_are_laid_out_as_rust_vmm_s_are() {
    same_field!(VhostUserU64, value);
    same_field!(VhostUserVringState, index, num);
    same_field!(VhostUserVringAddr, index, flags, descriptor, used, available, log);
    same_field!(VhostUserMemory, num_regions);
    same_field!(VhostUserMemoryRegion, guest_phys_addr, memory_size, user_addr, mmap_offset);
    same_field!(VhostUserConfig, offset, size, flags);
}
