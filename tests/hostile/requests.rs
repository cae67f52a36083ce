//! Requests for what their client has no business in.

use nvme_client::{Options, Range, feature, kind};
use zerocopy::IntoBytes;

use crate::disk::{self, SECTORS};
use crate::raw::*;
use crate::rig::{Rig, Setup, attack, attack_on};

/// Discards and write-zeroes with this range are refused.
fn range_refused(raw: &mut Raw, sector: u64, sectors: u32, status: u8) {
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        ranges_refused(raw, kind, &[Range { sector, sectors, flags: 0 }], status);
    }
}

fn ranges_refused(raw: &mut Raw, kind: u32, ranges: &[Range], status: u8) {
    raw.put(THIRD, ranges.as_bytes());
    raw.refused(kind, 0, &[(THIRD, size_of_val(ranges) as u32, 0)], status);
}

fn all_refused(raw: &mut Raw, sector: u64, bytes: u32) {
    raw.refused(kind::IN, sector, &[(raw.data, bytes, WRITE)], IOERR);
    raw.refused(kind::OUT, sector, &[(raw.data, bytes, 0)], IOERR);
    range_refused(raw, sector, bytes / 512, IOERR);
}

fn untouched(rig: &Rig) {
    let start = disk::start("attack");
    assert!(rig.disk.bytes(start, disk::PART as usize) == disk::pattern(start, disk::PART as usize));
}

#[test]
fn a_sector_whose_byte_address_wraps_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let before = 1u64.wrapping_neg();
        let wraps =
            [1 << 55, (1 << 55) + 1, 1 << 63, u64::MAX, u64::MAX / 512, before - SECTORS, u64::MAX - 1];
        for sector in wraps {
            all_refused(&mut raw, sector, 512);
            all_refused(&mut raw, sector, 8192);
        }
        untouched(rig);
        raw.guards_hold();
    });
}

#[test]
fn what_lies_at_over_or_across_the_partition_s_end_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for (sector, sectors) in [
            (SECTORS, 1),
            (SECTORS - 1, 2),
            (SECTORS - 127, 128),
            (SECTORS + 1, 1),
            (2 * SECTORS, 8),
            (SECTORS * 6, 1),
        ] {
            all_refused(&mut raw, sector, sectors * 512);
        }
        for (sector, sectors) in
            [(0, SECTORS as u32 + 1), (1, SECTORS as u32), (0, u32::MAX), (SECTORS - 1, u32::MAX)]
        {
            range_refused(&mut raw, sector, sectors, IOERR);
        }
        untouched(rig);
        // The last sector is the client's.
        let last = disk::start("attack") + disk::PART - 512;
        raw.put(raw.data, &[0x5a; 512]);
        assert_eq!(raw.ask(kind::OUT, SECTORS - 1, &[(raw.data, 512, 0)]), (OK, 1));
        assert_eq!(raw.ask(kind::FLUSH, 0, &[]), (OK, 1));
        assert_eq!(rig.disk.bytes(last, 512), [0x5a; 512]);
        raw.guards_hold();
    });
}

#[test]
fn one_bad_range_of_several_refuses_them_all() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let good = Range { sector: 0, sectors: 8, flags: 0 };
        let bad = Range { sector: SECTORS - 4, sectors: 8, flags: 0 };
        for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
            ranges_refused(&mut raw, kind, &[good, bad], IOERR);
            ranges_refused(&mut raw, kind, &[good; 17], IOERR);
            ranges_refused(&mut raw, kind, &[good, Range { flags: 0x10, ..good }], UNSUPP);
            for bytes in [0, 1, 15, 17, 0x8000] {
                raw.refused(kind, 0, &[(THIRD, bytes, 0)], IOERR);
            }
        }
        ranges_refused(&mut raw, kind::DISCARD, &[Range { flags: 1, ..good }], UNSUPP);
        untouched(rig);
    });
}

#[test]
fn what_is_not_whole_4096_byte_blocks_is_refused() {
    let image = disk::image(4096);
    attack_on(Setup { image, block: 4096, ..Setup::default() }, |rig| {
        // The driver that the other tests use asks for single sectors.
        let mut raw = Raw::new(rig);
        let data = raw.data;
        for (sector, bytes) in [(0, 512), (0, 4095), (1, 4096), (7, 4096), (0, 4608), (SECTORS - 1, 4096)] {
            assert_eq!(raw.ask(kind::IN, sector, &[(data, bytes, WRITE)]), (IOERR, 1), "{sector} {bytes}");
            assert_eq!(raw.ask(kind::OUT, sector, &[(data, bytes, 0)]), (IOERR, 1), "{sector} {bytes}");
        }
        for (sector, sectors) in [(0, 1), (1, 8), (4, 4), (8, 9), (SECTORS - 8, 9), (SECTORS - 1, 8)] {
            raw.put(THIRD, Range { sector, sectors, flags: 0 }.as_bytes());
            for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
                assert_eq!(raw.ask(kind, 0, &[(THIRD, 16, 0)]), (IOERR, 1), "{sector} {sectors}");
            }
        }
        untouched(rig);
        assert_eq!(raw.ask(kind::IN, SECTORS - 8, &[(data, 4096, WRITE)]), (OK, 4097));
        let last = disk::start("attack") + disk::PART - 4096;
        assert_eq!(raw.get(data, 4096), disk::pattern(last, 4096));
        raw.guards_hold();
    });
}

#[test]
fn a_read_only_session_changes_nothing_though_ro_was_not_acknowledged() {
    attack(|rig| {
        let all = options();
        let options = Options { features: all.features & !feature::RO, ..all };
        let mut raw = Raw::with(rig.create(&["device=partlabel:attack", "read-only"]), &options);
        assert!(raw.client.offered & feature::RO != 0 && !raw.client.has(feature::RO));
        raw.put(raw.data, &[0x77; 4096]);
        raw.refused(kind::OUT, 0, &[(raw.data, 4096, 0)], IOERR);
        range_refused(&mut raw, 0, 8, IOERR);
        assert_eq!(raw.ask(kind::FLUSH, 0, &[]), (OK, 1));
        untouched(rig);
        raw.guards_hold();
    });
}

#[test]
fn requests_for_features_that_were_not_negotiated_are_refused() {
    attack(|rig| {
        let mut raw = Raw::without(rig, feature::DISCARD | feature::WRITE_ZEROES);
        range_refused(&mut raw, 0, 8, UNSUPP);
        // Types that the device never has: SCSI commands, lifetime, secure erase, zones, and none at all.
        for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x100, 0x8000_0000, u32::MAX] {
            raw.refused(kind, 0, &[(raw.data, 512, WRITE)], UNSUPP);
        }
        untouched(rig);
        raw.guards_hold();
    });
}

#[test]
fn features_that_were_not_offered_cannot_be_acknowledged() {
    attack(|rig| {
        let raw = Raw::new(rig);
        let (offered, now) = (raw.client.offered, raw.client.features);
        for bit in 0..64 {
            let wanted = now | 1 << bit;
            let refused = raw.client.front.set_features(wanted).is_err();
            // With queues running nothing else is taken either.
            assert_eq!(refused, wanted != now, "{bit}");
        }
        drop(raw);
        let mut raw = Raw::new(rig);
        raw.client.stop_queue(0).unwrap();
        for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
            assert!(raw.client.front.set_features(now | 1 << bit).is_err(), "{bit}");
        }
        raw.client.front.set_features(now).unwrap();
        raw.restart();
        raw.serves();
    });
}
