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

/// A server of a disk with blocks of 4096 bytes; the driver asks for sectors of 512.
fn on_large_blocks(work: impl FnOnce(&Rig, &mut Raw)) {
    let image = disk::image(4096);
    attack_on(Setup { image, block: 4096, ..Setup::default() }, |rig| {
        let mut raw = Raw::new(rig);
        work(rig, &mut raw);
        raw.guards_hold();
    });
}

#[test]
fn parts_of_4096_byte_blocks_are_read_and_written_and_nothing_around_them_is() {
    on_large_blocks(|rig, raw| {
        let (start, data) = (disk::start("attack"), raw.data);
        let mut want = disk::pattern(start, disk::PART as usize);
        for (round, (sector, bytes)) in (1_u8..).zip([
            (0, 512),
            (7, 512),
            (1, 4096),
            (7, 4608),
            (5, 9216),
            (SECTORS - 1, 512),
            (SECTORS - 9, 4608),
        ]) {
            let at = sector as usize * 512;
            raw.put(data, &vec![0x77; 16 << 10]);
            assert_eq!(
                raw.ask(kind::IN, sector, &[(data + 1, bytes, WRITE)]),
                (OK, bytes + 1),
                "{sector} {bytes}"
            );
            assert!(raw.get(data + 1, bytes as usize) == want[at..at + bytes as usize], "{sector} {bytes}");
            let behind = raw.get(data + 1 + u64::from(bytes), 4096);
            assert!(behind.iter().all(|b| *b == 0x77), "more was written than was asked for");
            raw.put(data + 1, &vec![round; bytes as usize]);
            assert_eq!(raw.ask(kind::OUT, sector, &[(data + 1, bytes, 0)]), (OK, 1), "{sector} {bytes}");
            want[at..at + bytes as usize].fill(round);
            assert!(rig.disk.bytes(start, disk::PART as usize) == want, "{sector} {bytes}");
        }
    });
}

#[test]
fn what_is_not_whole_sectors_or_leaves_the_partition_is_refused_on_4096_byte_blocks_too() {
    on_large_blocks(|rig, raw| {
        let data = raw.data;
        for (sector, bytes) in [
            (0, 511),
            (0, 513),
            (0, 4095),
            (1, 4097),
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (SECTORS - 1, 4096),
            (SECTORS - 8, 4608),
            (1 << 55, 512),
            (u64::MAX, 512),
        ] {
            assert_eq!(raw.ask(kind::IN, sector, &[(data, bytes, WRITE)]), (IOERR, 1), "{sector} {bytes}");
            assert_eq!(raw.ask(kind::OUT, sector, &[(data, bytes, 0)]), (IOERR, 1), "{sector} {bytes}");
        }
        // Discards and write-zeroes are whole blocks.
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
    });
}

#[test]
fn a_read_only_session_reads_parts_of_its_own_blocks_and_writes_none() {
    let image = disk::image(4096);
    attack_on(Setup { image, block: 4096, ..Setup::default() }, |rig| {
        let mut raw = Raw::with(rig.create(&["device=partlabel:attack", "read-only"]), &options());
        let data = raw.data;
        for sector in [0, 3, SECTORS - 1] {
            assert_eq!(raw.ask(kind::IN, sector, &[(data, 512, WRITE)]), (OK, 513));
            assert_eq!(raw.get(data, 512), disk::pattern(disk::start("attack") + sector * 512, 512));
            assert_eq!(raw.ask(kind::OUT, sector, &[(data, 512, 0)]), (IOERR, 1));
        }
        assert_eq!(raw.ask(kind::IN, SECTORS, &[(data, 512, WRITE)]), (IOERR, 1));
        untouched(rig);
        raw.guards_hold();
    });
}

/// Thousands of writes of 512 bytes, five at a time in two blocks: the bystander
/// goes on, and every sector is what was written there last.
#[test]
fn a_flood_of_parts_of_the_same_blocks_holds_nobody_up() {
    on_large_blocks(|rig, raw| {
        let (start, data) = (disk::start("attack"), raw.data);
        for round in 0..400_u16 {
            for sector in 0..5_u64 {
                let at = data + sector * 1024;
                raw.put(at, &[(round % 251) as u8 + 1; 512]);
                let head = sector as u16 * 3;
                let header = raw.table + sector * 64;
                let header_bytes = [1_u64.to_le_bytes(), (sector * 2).to_le_bytes()].concat();
                raw.put(header, &header_bytes);
                raw.set_desc(head, desc(header, 16, NEXT, head + 1));
                raw.set_desc(head + 1, desc(at, 512, NEXT, head + 2));
                raw.set_desc(head + 2, desc(header + 32, 1, WRITE, 0));
            }
            raw.offer(&[0, 3, 6, 9, 12]);
            for _ in 0..5 {
                raw.answer();
            }
            for sector in 0..5 {
                assert_eq!(raw.get(raw.table + sector * 64 + 32, 1), [OK]);
            }
        }
        let mut want = disk::pattern(start, 8192);
        for sector in 0..5 {
            want[sector * 1024..sector * 1024 + 512].fill((399 % 251) as u8 + 1);
        }
        assert!(rig.disk.bytes(start, 8192) == want);
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
