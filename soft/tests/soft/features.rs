//! Set and Get Features.

use nvme_soft::Config;
use nvme_soft::wire::{Sqe, Status, admin, feature};

use crate::driver::*;

fn set(id: u8, value: u32) -> Sqe {
    entry(admin::SET_FEATURES, 0, [0; 2], &[u32::from(id), value])
}

fn get(id: u8) -> Sqe {
    entry(admin::GET_FEATURES, 0, [0; 2], &[u32::from(id)])
}

#[test]
fn the_number_of_queues_is_what_was_asked_for_or_what_there_is() {
    let mut rig = Rig::new(Config { queues: 10, ..config() });
    assert_eq!(rig.done(get(feature::QUEUES)), 9 << 16 | 9);
    assert_eq!(rig.done(set(feature::QUEUES, 3 << 16 | 20)), 3 << 16 | 9);
    assert_eq!(rig.done(get(feature::QUEUES)), 3 << 16 | 9);
    expect(&rig.admin(set(feature::QUEUES, 0xffff)), Status::INVALID_FIELD);
    expect(&rig.admin(set(feature::QUEUES, 0xffff << 16)), Status::INVALID_FIELD);
    // More completion queues than granted.
    expect(&rig.admin(create_cq(5, 4, 0)), Status::QUEUE_ID);
    rig.pair(4, 4);
    expect(&rig.admin(set(feature::QUEUES, 0)), Status::SEQUENCE);
}

#[test]
fn features_read_back_and_are_as_at_first_after_a_reset() {
    let mut rig = Rig::new(config());
    for (id, value) in [
        (feature::ARBITRATION, 0x0102_0303),
        (feature::TEMPERATURE, 0x160),
        (feature::ERROR_RECOVERY, 0x1234),
        (feature::COALESCING, 0x0102),
        (feature::ATOMICITY, 1),
        (feature::EVENTS, 0x1f),
        (feature::WRITE_CACHE, 0),
    ] {
        let mut sqe = set(id, value);
        sqe.nsid = u32::MAX.into();
        let before = rig.done(get(id));
        assert_ne!(before, value);
        rig.done(sqe);
        assert_eq!(rig.done(get(id)), value, "{id}");
        // Default and saved.
        for select in [1, 2] {
            let mut sqe = get(id);
            sqe.cdw[0] = (u32::from(id) | select << 8).into();
            assert_eq!(rig.done(sqe), before);
        }
    }
    rig.handle.power_cycle();
    rig.enable();
    assert_eq!((rig.done(get(feature::WRITE_CACHE)), rig.done(get(feature::EVENTS))), (1, 1 << 8));
}

#[test]
fn what_is_no_feature_or_cannot_be_is_refused() {
    let mut rig = Rig::new(Config { write_cache: false, vectors: 2, ..config() });
    for sqe in [
        set(0, 0),
        get(0),
        get(0xee),
        set(feature::WRITE_CACHE, 1),
        get(feature::WRITE_CACHE),
        set(feature::POWER, 1),
        set(feature::VECTOR, 2),
    ] {
        expect(&rig.admin(sqe), Status::INVALID_FIELD);
    }
    rig.done(set(feature::POWER, 0));
    let mut save = set(feature::ARBITRATION, 0);
    save.cdw[0] = (1u32 << 31 | 1).into();
    expect(&rig.admin(save), Status::NOT_SAVEABLE);
    let mut of = set(feature::ERROR_RECOVERY, 1);
    of.nsid = 7.into();
    expect(&rig.admin(of), Status::INVALID_NAMESPACE);
}
