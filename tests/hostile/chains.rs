//! Rings and chains that no honest driver writes: each breaks its own queue and nothing else.

use nvme_client::{Desc, feature};

use crate::raw::*;
use crate::rig::attack;

/// Each of these tables of descriptors breaks the ring that it is put into; the chain starts at 0.
fn breaks(rings: &[&[Desc]]) {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for ring in rings {
            for (i, d) in (0..).zip(*ring) {
                raw.set_desc(i, *d);
            }
            raw.offer(&[0]);
            raw.breaks();
        }
        rig.goes_on();
        raw.guards_hold();
    });
}

/// Each of these indirect tables breaks the ring whose descriptor 0 points at it.
fn breaks_indirectly(tables: &[&[Desc]]) {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        assert!(raw.has_indirect());
        for table in tables {
            raw.set_desc(0, desc(raw.table, table.len() as u32 * 16, INDIRECT, 0));
            for (i, d) in (0..).zip(*table) {
                raw.set_indirect(i, *d);
            }
            raw.offer(&[0]);
            raw.breaks();
        }
        rig.goes_on();
        raw.guards_hold();
    });
}

#[test]
fn a_chain_that_loops_breaks_its_queue_only() {
    let long: Vec<Desc> = (0..SIZE).map(|i| desc(THIRD, 512, NEXT, (i + 1) % SIZE)).collect();
    breaks(&[
        &[desc(THIRD, 512, NEXT, 0)],
        &[desc(THIRD, 512, NEXT, 1), desc(THIRD, 512, NEXT | WRITE, 0)],
        &long,
    ]);
    breaks_indirectly(&[&[desc(THIRD, 512, NEXT, 1), desc(THIRD, 512, NEXT, 0)], &long]);
}

#[test]
fn a_loop_of_empty_descriptors_breaks_its_queue_only() {
    breaks(&[&[desc(THIRD, 0, NEXT, 0)], &[desc(THIRD, 0, NEXT, 1), desc(0, 0, NEXT | WRITE, 0)]]);
    breaks_indirectly(&[&[desc(THIRD, 0, NEXT, 0)], &[desc(THIRD, 0, NEXT, 1), desc(0, 0, NEXT, 0)]]);
}

#[test]
fn a_next_out_of_range_breaks_its_queue_only() {
    let ring = |next| [desc(THIRD, 16, NEXT, next)];
    breaks(&[&ring(SIZE), &ring(SIZE + 1), &ring(0x8000), &ring(u16::MAX)]);
    breaks_indirectly(&[&ring(1), &ring(2), &ring(0x8000), &ring(u16::MAX)]);
}

#[test]
fn a_nested_indirect_table_breaks_its_queue_only() {
    for flags in [INDIRECT, INDIRECT | NEXT, INDIRECT | WRITE] {
        let nested = desc(THIRD, 32, flags, 0);
        breaks_indirectly(&[&[nested], &[desc(THIRD, 16, NEXT, 1), nested]]);
    }
}

#[test]
fn an_indirect_descriptor_with_a_next_breaks_its_queue_only() {
    breaks(&[
        &[desc(THIRD, 32, INDIRECT | NEXT, 1), desc(THIRD, 1, WRITE, 0)],
        &[desc(THIRD, 16, NEXT, 1), desc(THIRD, 32, INDIRECT | NEXT, 0)],
    ]);
}

#[test]
fn an_indirect_table_of_a_bad_length_or_place_breaks_its_queue_only() {
    let lengths = [0, 1, 15, 17, 16 * 1025, 0x8000_0000, u32::MAX, u32::MAX - 15];
    let mut rings: Vec<[Desc; 1]> = lengths.iter().map(|len| [desc(THIRD, *len, INDIRECT, 0)]).collect();
    for addr in [0, RAM - 16, THIRD - 16, THIRD + THIRD_LEN, THIRD + THIRD_LEN - 8, u64::MAX - 15] {
        rings.push([desc(addr, 32, INDIRECT, 0)]);
    }
    let rings: Vec<&[Desc]> = rings.iter().map(|r| &r[..]).collect();
    breaks(&rings);
}

#[test]
fn an_indirect_descriptor_that_was_not_negotiated_breaks_its_queue_only() {
    attack(|rig| {
        let mut raw = Raw::without(rig, feature::INDIRECT_DESC);
        raw.set_desc(0, desc(raw.table, 48, INDIRECT, 0));
        raw.offer(&[0]);
        raw.breaks();
    });
}

#[test]
fn an_available_index_that_jumps_breaks_its_queue_only() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for index in [SIZE + 1, 0x100, 0x7fff, 0x8000, u16::MAX] {
            raw.restart();
            raw.chain(nvme_client::kind::IN, 0, &[(raw.data, 512, WRITE)]);
            raw.ring().set_avail_index(index).unwrap();
            raw.client.queues[0].kick().unwrap();
            raw.breaks();
        }
        rig.goes_on();
        raw.guards_hold();
    });
}

#[test]
fn a_head_that_is_out_of_range_or_repeated_breaks_its_queue_only() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        for head in [SIZE, SIZE + 1, 0x8000, u16::MAX] {
            raw.offer(&[head]);
            raw.breaks();
        }
        // Twice in one go: the second comes while the first is in flight, or just done. Either way each chain that was
        // taken is answered once at most.
        for _ in 0..20 {
            raw.restart();
            raw.chain(nvme_client::kind::IN, 0, &[(raw.data, 512, WRITE)]);
            raw.offer(&[0; SIZE as usize]);
            rig.goes_on();
            assert!(raw.ring().used_index().unwrap() <= SIZE);
        }
        raw.restart();
        raw.serves();
        raw.guards_hold();
    });
}
