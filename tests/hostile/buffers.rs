//! Buffers where none can be, and of the wrong kind.

use nvme_client::{Segment, kind};

use crate::disk::{self, SECTORS};
use crate::raw::*;
use crate::rig::attack;

#[test]
fn an_address_that_wraps_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for addr in [u64::MAX, u64::MAX - 511, u64::MAX - 100, u64::MAX - 0xfff] {
            raw.refused(kind::IN, 0, &[(addr, 512, WRITE)], IOERR);
            raw.refused(kind::OUT, 0, &[(addr, 512, 0)], IOERR);
            raw.refused(kind::GET_ID, 0, &[(addr, 20, WRITE)], IOERR);
        }
        for (addr, len) in [(THIRD, u32::MAX), (THIRD, 0xffff_fe00), (u64::MAX - 0x7fff_ffff, 0x8000_0000)] {
            raw.refused(kind::IN, 0, &[(addr, len, WRITE)], IOERR);
        }
        raw.guards_hold();
    });
}

#[test]
fn a_buffer_that_reaches_over_a_gap_is_refused_as_a_whole() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let end = SECOND + SECOND_LEN;
        for addr in [end - 256, end, THIRD - 256, THIRD - 512, THIRD + THIRD_LEN - 1, RAM - 1, 0] {
            raw.refused(kind::IN, 0, &[(addr, 512, WRITE)], IOERR);
            // What is right in front of it is not written either.
            raw.refused(kind::IN, 0, &[(raw.data, 512, WRITE), (addr, 512, WRITE)], IOERR);
            raw.refused(kind::OUT, 0, &[(raw.data, 512, 0), (addr, 512, 0)], IOERR);
        }
        assert_eq!(rig.disk.bytes(disk::start("attack"), 1024), disk::pattern(disk::start("attack"), 1024));
        raw.guards_hold();
    });
}

#[test]
fn a_buffer_over_two_adjoining_regions_is_split() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for before in [512, 4, 1, 300, 511, 1023] {
            assert_eq!(raw.ask(kind::IN, 3, &[(SECOND - before, 1024, WRITE)]), (OK, 1025));
            let read = raw.get(SECOND - before, before as usize);
            let rest = raw.get(SECOND, 1024 - before as usize);
            assert_eq!([read, rest].concat(), disk::pattern(disk::start("attack") + 3 * 512, 1024));
        }
        raw.guards_hold();
    });
}

#[test]
fn a_data_buffer_over_the_rings_themselves_harms_its_owner_only() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let (desc, avail, used) = (raw.ring().desc, raw.ring().avail, raw.ring().used);
        for round in 0..30 {
            // What is read into the rings: garbage, and zeroes.
            let sector = if round % 2 == 0 { 0 } else { 64 };
            if round == 1 {
                raw.put(raw.data, &[0; 16384]);
                assert_eq!(raw.ask(kind::OUT, 64, &[(raw.data, 16384, 0)]), (OK, 1));
            }
            for at in [desc, avail & !511, used, raw.head & !511] {
                raw.chain(kind::IN, sector, &[(at, 512, WRITE)]);
                raw.offer(&[0]);
                rig.goes_on();
                raw.restart();
            }
        }
        raw.serves();
        raw.guards_hold();
    });
}

#[test]
fn a_buffer_of_the_wrong_direction_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let data = raw.data;
        raw.refused(kind::IN, 0, &[(data, 512, 0)], IOERR);
        raw.refused(kind::IN, 0, &[(data, 512, WRITE), (data + 512, 512, 0)], IOERR);
        raw.refused(kind::OUT, 0, &[(data, 512, WRITE)], IOERR);
        raw.refused(kind::OUT, 0, &[(data, 512, 0), (data + 512, 512, WRITE)], IOERR);
        raw.refused(kind::GET_ID, 0, &[(data, 20, 0)], IOERR);
        for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
            raw.refused(kind, 0, &[(data, 16, WRITE)], IOERR);
        }
        raw.guards_hold();
    });
}

#[test]
fn read_only_memory_is_never_written() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        raw.add_rom();
        raw.refused(kind::IN, 0, &[(ROM, 512, WRITE)], IOERR);
        raw.refused(kind::IN, 0, &[(raw.data, 512, WRITE), (ROM + ROM_LEN - 512, 512, WRITE)], IOERR);
        raw.refused(kind::GET_ID, 0, &[(ROM, 20, WRITE)], IOERR);
        // It may be read.
        assert_eq!(raw.ask(kind::OUT, 8, &[(ROM, 512, 0)]), (OK, 1));
        assert_eq!(rig.disk.bytes(disk::start("attack") + 8 * 512, 512), [0; 512]);
        raw.guards_hold();
    });
}

#[test]
fn a_request_without_a_status_byte_that_can_be_written_breaks_its_queue_only() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        raw.add_rom();
        let at = raw.status_at();
        let outside = [(0, 1), (THIRD - 1, 1), (THIRD + THIRD_LEN, 1), (u64::MAX, 1), (u64::MAX - 1, 2)];
        let bad = [(at, 1, 0), (at, 0, WRITE), (at, 0, 0), (ROM, 1, WRITE), (ROM + 7, 1, 0)];
        for (addr, len, flags) in bad.into_iter().chain(outside.map(|(a, l)| (a, l, WRITE))) {
            raw.chain(kind::IN, 0, &[(raw.data, 512, WRITE)]);
            raw.set_desc(2, desc(addr, len, flags, 0));
            raw.offer(&[0]);
            raw.breaks();
        }
        // A header and nothing else.
        raw.header(kind::FLUSH, 0);
        raw.set_desc(0, desc(raw.head, 16, 0, 0));
        raw.offer(&[0]);
        raw.breaks();
        raw.guards_hold();
    });
}

#[test]
fn a_header_split_over_descriptors_is_read_as_one() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for cuts in [[1, 15], [8, 8], [4, 11], [15, 1], [0, 16]] {
            raw.header(kind::IN, 5);
            let rest = 16 - cuts[0] - cuts[1];
            let mut at = raw.head;
            for (i, len) in (0..).zip([cuts[0], cuts[1], rest]) {
                raw.set_desc(i, desc(at, len, NEXT, i + 1));
                at += u64::from(len);
            }
            raw.set_desc(3, desc(SECOND, 512, NEXT | WRITE, 4));
            raw.set_desc(4, desc(raw.status_at(), 1, WRITE, 0));
            raw.put(SECOND, &[0; 512]);
            raw.offer(&[0]);
            assert_eq!((raw.answer(), raw.status()), ((0, 513), OK), "{cuts:?}");
            assert_eq!(raw.get(SECOND, 512), disk::pattern(disk::start("attack") + 5 * 512, 512));
        }
    });
}

#[test]
fn a_header_that_is_short_writable_or_nowhere_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let head = raw.head;
        let nowhere = [0, THIRD - 8, THIRD + THIRD_LEN - 8, u64::MAX - 7].map(|addr| (addr, 16, 0));
        for (addr, len, flags) in [(head, 15, 0), (head, 0, 0), (head, 16, WRITE)].into_iter().chain(nowhere)
        {
            raw.header(kind::IN, 0);
            raw.set_desc(0, desc(addr, len, flags | NEXT, 1));
            raw.set_desc(1, desc(raw.status_at(), 1, WRITE, 0));
            raw.offer(&[0]);
            assert_eq!((raw.answer(), raw.status()), ((0, 1), IOERR), "{addr:#x} {len} {flags}");
            raw.serves();
        }
        // Nothing but a status byte.
        raw.header(kind::IN, 0);
        raw.set_desc(0, desc(raw.status_at(), 1, WRITE, 0));
        raw.offer(&[0]);
        assert_eq!((raw.answer(), raw.status()), ((0, 1), IOERR));
        raw.serves();
    });
}

#[test]
fn buffers_outside_the_memory_are_refused_in_indirect_tables_too() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for addr in [0, RAM - 512, SECOND + SECOND_LEN - 256, THIRD + THIRD_LEN, u64::MAX - 511] {
            raw.header(kind::IN, SECTORS - 1);
            raw.set_desc(0, desc(raw.table, 48, INDIRECT, 0));
            raw.set_indirect(0, desc(raw.head, 16, NEXT, 1));
            raw.set_indirect(1, desc(addr, 512, NEXT | WRITE, 2));
            raw.set_indirect(2, desc(raw.status_at(), 1, WRITE, 0));
            raw.offer(&[0]);
            assert_eq!((raw.answer(), raw.status()), ((0, 1), IOERR), "{addr:#x}");
        }
        // The honest way through the same queue.
        let segments = [Segment { addr: raw.data, len: 512 }];
        raw.restart();
        let io = nvme_client::Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
        assert_eq!(raw.client.run(io).unwrap(), 513);
        raw.guards_hold();
    });
}
