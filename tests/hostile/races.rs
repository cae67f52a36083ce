//! Memory that changes after it was looked at: each field counts once, as it was when it was read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::{Range, kind};
use zerocopy::{Immutable, IntoBytes};

use crate::disk::{self, SECTORS};
use crate::raw::*;
use crate::rig::attack;

/// For how long memory changes.
const FOR: Duration = Duration::from_millis(500);

/// Sends requests while another thread writes these values to an address, in turn. Says how many were answered
/// with each of the three statuses, and how often the ring broke.
fn race<T: IntoBytes + Immutable + Copy + Sync>(raw: &mut Raw, at: u64, values: &[T]) -> [u32; 4] {
    let window = raw.client.memory.window(at, size_of::<T>() as u64).unwrap();
    let stop = AtomicBool::new(false);
    let mut counts = [0; 4];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for value in values {
                    window.write_value(0, value).unwrap();
                }
            }
        });
        let end = Instant::now() + FOR;
        while Instant::now() < end {
            raw.put(raw.status_at(), &[0xff]);
            raw.offer(&[0]);
            let outcome = match raw.answer_or_restart() {
                Some((0, _)) => usize::from(raw.status()),
                Some(other) => panic!("{other:?} was answered"),
                None => 3,
            };
            counts[outcome] += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    counts
}

#[test]
fn a_descriptor_that_changes_after_it_was_checked_moves_no_data() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let at = raw.ring().desc + 16;
        let good = desc(THIRD, 512, NEXT | WRITE, 2);
        raw.chain(kind::IN, 0, &[(THIRD, 512, WRITE)]);
        let values = [
            good,
            desc(THIRD + THIRD_LEN, 512, NEXT | WRITE, 2),
            desc(THIRD + THIRD_LEN - 256, 512, NEXT | WRITE, 2),
            good,
            desc(THIRD, 0x2000_0000, NEXT | WRITE, 2),
            desc(RAM - 512, 512, NEXT | WRITE, 2),
        ];
        let [ok, refused, ..] = race(&mut raw, at, &values);
        assert!(ok > 0 && refused > 0, "no race: {ok} {refused}");
        // Ring structure as well: `next`, and what is indirect.
        let values =
            [good, desc(THIRD, 512, NEXT | WRITE, 1), desc(THIRD, 512, INDIRECT, 2), desc(0, 0, NEXT, 999)];
        let counts = race(&mut raw, at, &values);
        assert!(counts[0] > 0 && counts[3] > 0, "no race: {counts:?}");
        raw.set_desc(1, good);
        raw.restart();
        raw.serves();
        raw.guards_hold();
    });
}

#[test]
fn an_indirect_descriptor_that_changes_after_it_was_checked_moves_no_data() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        raw.header(kind::IN, 0);
        raw.set_desc(0, desc(raw.table, 48, INDIRECT, 0));
        let good = desc(THIRD, 512, NEXT | WRITE, 2);
        raw.set_indirect(0, desc(raw.head, 16, NEXT, 1));
        raw.set_indirect(1, good);
        raw.set_indirect(2, desc(raw.status_at(), 1, WRITE, 0));
        let at = raw.table + 16;
        let values = [
            good,
            desc(THIRD + THIRD_LEN, 512, NEXT | WRITE, 2),
            good,
            desc(RAM - 512, 512, NEXT | WRITE, 2),
        ];
        let counts = race(&mut raw, at, &values);
        assert!(counts[0] > 0 && counts[1] > 0, "no race: {counts:?}");
        raw.guards_hold();
    });
}

#[test]
fn a_header_that_changes_after_it_was_checked_writes_nowhere_else() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        raw.put(THIRD, &[0xaa; 8192]);
        raw.chain(kind::OUT, 0, &[(THIRD, 512, 0)]);
        let sector = raw.head + 8;
        let counts = race(&mut raw, sector, &[0, SECTORS, u64::MAX, 0, SECTORS * 2, 1 << 55]);
        assert!(counts[0] > 0 && counts[1] > 0, "no race: {counts:?}");
        raw.chain(kind::OUT, SECTORS - 1, &[(THIRD, 512, 0)]);
        let head = raw.head;
        let counts = race(&mut raw, head, &[kind::OUT, kind::WRITE_ZEROES, kind::DISCARD, kind::IN, 99]);
        assert!(counts[0] > 0 && counts[1] > 0, "no race: {counts:?}");
        rig.disk.check_but(&["attack", "bystander"]);
        raw.guards_hold();
    });
}

#[test]
fn a_discard_segment_that_changes_after_it_was_checked_clears_nothing_else() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for kind in [kind::WRITE_ZEROES, kind::DISCARD] {
            raw.chain(kind, 0, &[(THIRD, 16, 0)]);
            let range = |sector, sectors| Range { sector, sectors, flags: 0 };
            let values = [
                range(0, 8),
                range(SECTORS, 8),
                range(0, 8),
                range(0, SECTORS as u32 * 2),
                range(1 << 55, 8),
            ];
            let counts = race(&mut raw, THIRD, &values);
            assert!(counts[0] > 0 && counts[1] > 0, "no race: {counts:?}");
            rig.disk.check_but(&["attack", "bystander"]);
        }
        let start = disk::start("attack") + 16 * 512;
        assert_eq!(rig.disk.bytes(start, 8192), disk::pattern(start, 8192));
        raw.guards_hold();
    });
}
