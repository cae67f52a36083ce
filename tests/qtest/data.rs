use std::collections::BTreeSet;

use nvme_core::nvme::spec::command::{FUA, PSDT_SGL, admin, io};
use nvme_core::nvme::{ControllerEvent, Options, SglSupport};
use nvme_session::operation::Outcome;

use crate::machine::{Disk, Machine, Shape};
use crate::need::needs_qemu;
use crate::rig::{BYTES, GUEST, Rig, pattern};
use crate::rival::Rival;

fn one_of_two(mdts: &'static str) -> Shape {
    Shape { controllers: vec![mdts], ..Shape::default() }
}

#[test]
fn data_is_on_the_hosts_disk_where_it_belongs_and_comes_back_by_prps_and_by_sgls() {
    needs_qemu!();
    for nosgl in [false, true] {
        let mut rig = Rig::new(&Shape::default(), Options { nosgl, ..Options::default() });
        assert_eq!(rig.controller.info().sgl == SglSupport::None, nosgl);
        let mut pair = rig.pair(32);
        for nsid in [1, 2] {
            let bytes = pattern(u64::from(nsid), 200 << 10);
            rig.client.write(GUEST, &bytes);
            let write = rig.write(nsid, 64, &[(GUEST, 200 << 10)], false);
            assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
            let disk = rig.machine.on_disk(nsid as usize, 0, 8 << 20);
            assert!(disk[32 << 10..][..200 << 10] == bytes);
            assert!(disk[..32 << 10].iter().chain(&disk[232 << 10..]).all(|b| *b == 0), "nothing beside it");
            assert!(rig.bytes(&mut pair, nsid, 64, 200 << 10) == bytes);
        }
        let by_sgl = rig.watch.commands(false).iter().any(|c| c.flags & PSDT_SGL != 0);
        assert_eq!(by_sgl, !nosgl);
        rig.clean();
    }
}

#[test]
fn scattered_memory_of_any_alignment_moves_exactly_its_bytes() {
    needs_qemu!();
    for nosgl in [false, true] {
        let mut rig = Rig::new(&Shape::default(), Options { nosgl, ..Options::default() });
        let mut pair = rig.pair(8);
        for (nsid, seed) in [(1, 0), (2, 1), (1, 2), (2, 3)] {
            // Thirty pieces, each in 64 KiB of its own; odd addresses and lengths, whole pages, page ends.
            let mut parts: Vec<(u64, u32)> = (0..30_u64)
                .map(|i| {
                    let x = (i * 7919 + seed * 104_729) % 4096;
                    let at = GUEST + i * 0x1_0000;
                    match (i + seed) % 4 {
                        0 => (at, 4096),
                        1 => (at + x, 4096 - x as u32),
                        2 => (at + x, 1 + (x as u32 * 3) % 9000),
                        _ => (at + (x & !3), 8192),
                    }
                })
                .collect();
            let total: u32 = parts.iter().map(|(_, len)| len).sum();
            parts[29].1 += total.next_multiple_of(4096) - total;
            let before = pattern(seed, BYTES as usize);
            rig.client.write(GUEST, &before);
            let piece = |(at, len): &(u64, u32)| &before[(at - GUEST) as usize..][..*len as usize];
            let sent: Vec<u8> = parts.iter().flat_map(piece).copied().collect();
            let write = rig.write(nsid, 8, &parts, false);
            assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
            assert!(rig.machine.on_disk(nsid as usize, 4096, sent.len()) == sent, "{nosgl} {seed}");

            let mut want = vec![0x5a; BYTES as usize];
            rig.client.write(GUEST, &want);
            let read = rig.read(nsid, 8, &parts);
            assert_eq!(rig.run(&mut pair, read).1, Outcome::Done);
            let mut from = 0;
            for (at, len) in &parts {
                want[(at - GUEST) as usize..][..*len as usize]
                    .copy_from_slice(&sent[from..][..*len as usize]);
                from += *len as usize;
            }
            assert!(rig.client.read(GUEST, BYTES as usize) == want, "{nosgl} {seed}");
        }
        assert_eq!(pair.counters().bounced > 0, nosgl, "only without SGLs");
        rig.clean();
    }
}

#[test]
fn a_transfer_is_split_at_what_the_controller_takes() {
    needs_qemu!();
    for (mdts, most) in [
        (",mdts=1", 8 << 10),
        (",mdts=5", 128 << 10),
        (",mdts=9", 1 << 20),
        (",mdts=0", 1 << 20),
        (",mdts=12", 1 << 20),
    ] {
        // QEMU 11.1 has no controller without a limit, nor with one above 9.
        let refused = Machine::start(&one_of_two(mdts)).err().filter(|said| said.contains("IOV_MAX"));
        if matches!(mdts, ",mdts=0" | ",mdts=12") && refused.is_some() {
            continue;
        }
        let mut rig = Rig::new(&one_of_two(mdts), Options::default());
        assert_eq!(rig.controller.info().transfer_bytes, most);
        let mut pair = rig.pair(16);
        let bytes = pattern(3, 1 << 20);
        rig.client.write(GUEST, &bytes);
        for nsid in [1, 2] {
            let write = rig.write(nsid, 8, &[(GUEST, 1 << 20)], false);
            assert_eq!(rig.run(&mut pair, write), ((1 << 20) / most, Outcome::Done), "{mdts}");
            assert!(rig.bytes(&mut pair, nsid, 8, 1 << 20) == bytes, "{mdts}");
        }
        rig.clean();
    }
}

#[test]
fn discards_and_write_zeroes_leave_zeroes_there_and_nowhere_else() {
    needs_qemu!();
    let small = Options { discard_max: 64 << 10, write_zeroes_max: 32 << 10, ..Options::default() };
    for (options, zeroes_commands, discards) in [(small, 8, 4), (Options::default(), 1, 1)] {
        let mut rig = Rig::new(&one_of_two(",mdts=8"), options);
        let mut pair = rig.pair(8);
        for nsid in [1, 2] {
            rig.client.write(GUEST, &pattern(1, 1 << 20));
            let write = rig.write(nsid, 0, &[(GUEST, 1 << 20)], false);
            rig.run(&mut pair, write);
            let zeroes = rig.zeroes(nsid, 8, 256 << 10);
            let discard = rig.discard(nsid, 1024, 256 << 10);
            assert_eq!(rig.run(&mut pair, zeroes), (zeroes_commands, Outcome::Done));
            assert_eq!(rig.run(&mut pair, discard), (discards, Outcome::Done));
            let mut want = pattern(1, 1 << 20);
            want[4096..][..256 << 10].fill(0);
            want[512 << 10..][..256 << 10].fill(0);
            assert!(rig.bytes(&mut pair, nsid, 0, 1 << 20) == want);
            assert!(rig.machine.on_disk(nsid as usize, 0, 1 << 20) == want);
        }
        assert_eq!(rig.watch.count(false, io::DATASET_MANAGEMENT), 2 * discards as usize);
        rig.clean();
    }
}

#[test]
fn somebody_elses_controller_saw_every_opcode_that_the_driver_has() {
    needs_qemu!();
    let mut rig = Rig::new(&one_of_two(",mdts=8"), Options::default());
    let mut pair = rig.pair(8);
    let write = rig.write(1, 0, &[(GUEST, 4096)], true);
    let (flush, zeroes, discard) = (rig.flush(1), rig.zeroes(1, 8, 4096), rig.discard(1, 16, 4096));
    for operation in [write, flush, zeroes, discard] {
        assert_eq!(rig.run(&mut pair, operation), (1, Outcome::Done));
    }
    rig.bytes(&mut pair, 1, 0, 4096);
    rig.controller.ask_smart();
    assert!(matches!(rig.event(), ControllerEvent::Smart(_)));
    rig.controller.abort(pair.id(), 0);
    assert!(matches!(rig.event(), ControllerEvent::Aborted { .. }));
    rig.controller.delete_pair(pair.id()).unwrap();
    assert!(matches!(rig.event(), ControllerEvent::PairDeleted { .. }));
    let seen = |of_admin| -> BTreeSet<u8> { rig.watch.commands(of_admin).iter().map(|c| c.opcode).collect() };
    let queues = [admin::CREATE_CQ, admin::CREATE_SQ, admin::DELETE_SQ, admin::DELETE_CQ];
    let others =
        [admin::IDENTIFY, admin::SET_FEATURES, admin::GET_LOG_PAGE, admin::ASYNC_EVENT, admin::ABORT];
    assert!(seen(true).into_iter().eq(BTreeSet::from_iter([queues.as_slice(), &others].concat())));
    let all = [io::READ, io::WRITE, io::FLUSH, io::WRITE_ZEROES, io::DATASET_MANAGEMENT];
    assert!(seen(false).into_iter().eq(BTreeSet::from(all)));
    rig.clean();
}

/// A disk whose every flush fails: what reaches stable storage can be told from what does not.
const NO_FLUSH: &str = r#""inject-error":[{"event":"none","iotype":"flush","errno":5,"once":false}]"#;

#[test]
fn the_write_cache_is_turned_on_and_a_flush_goes_through_it() {
    needs_qemu!();
    // Off before, so that each write would be flushed and fail; the driver turns it on, as it then sends flushes itself.
    let disk = Disk { debug: Some(NO_FLUSH), apart: true, more: ",write-cache=off", ..Disk::new(512) };
    let shape = Shape { disks: vec![disk], controllers: vec!["", ""], ..Shape::default() };
    let mut rig = Rig::new(&shape, Options::default());
    assert!(rig.controller.info().volatile_cache);
    let mut pair = rig.pair(8);
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done, "into the cache");
    let flush = rig.flush(1);
    assert_eq!(rig.run(&mut pair, flush).1, Outcome::Failed, "through the cache");
    Rival::new(rig.machine.device(1)).write_cache_off();
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(
        rig.run(&mut pair, write).1,
        Outcome::Failed,
        "as it would have been without the driver's command"
    );
    // QEMU 7.2's model takes the FUA bit and forgets it: that it is set where it should be is all that can be seen.
    let fua = rig.write(1, 0, &[(GUEST, 4096)], true);
    rig.run(&mut pair, fua);
    let writes: Vec<_> = rig.watch.commands(false).into_iter().filter(|c| c.opcode == io::WRITE).collect();
    let fua: Vec<_> = writes.iter().map(|c| c.cdw12.get() & FUA != 0).collect();
    // One that fails, and does not say "do not retry", is tried six times.
    assert_eq!(fua, [[false].as_slice(), &[false; 6], &[true; 6]].concat());
    rig.clean();
}

/// A disk whose first read, write, or flush fails.
fn fails_once(debug: &'static str) -> Rig {
    Rig::new(&Shape::of(Disk { debug: Some(debug), ..Disk::new(512) }), Options::default())
}

#[test]
fn what_somebody_elses_controller_fails_once_is_done_and_a_flush_is_not() {
    needs_qemu!();
    let mut rig = fails_once(r#""inject-error":[{"event":"none","iotype":"read","errno":5,"once":true}]"#);
    let mut pair = rig.pair(8);
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
    let read = rig.read(1, 0, &[(GUEST + 4096, 4096)]);
    assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
    assert_eq!((pair.counters().issued, pair.counters().repeated), (3, 1));
    rig.clean();
    let mut rig = fails_once(r#""inject-error":[{"event":"none","iotype":"write","errno":5,"once":true}]"#);
    let mut pair = rig.pair(8);
    rig.client.write(GUEST, &pattern(3, 4096));
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
    assert!(rig.machine.on_disk(1, 0, 4096) == pattern(3, 4096));
    assert_eq!((pair.counters().issued, pair.counters().repeated), (2, 1));
    rig.clean();
    let mut rig = fails_once(r#""inject-error":[{"event":"none","iotype":"flush","errno":5,"once":true}]"#);
    let mut pair = rig.pair(8);
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
    for outcome in [Outcome::Failed, Outcome::Done] {
        let flush = rig.flush(1);
        assert_eq!(rig.run(&mut pair, flush), (1, outcome));
    }
    assert_eq!((pair.counters().issued, pair.counters().repeated), (3, 0));
    rig.clean();
}

#[test]
fn a_flush_reaches_each_namespace_and_succeeds() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    for nsid in [1, 2] {
        let write = rig.write(nsid, 0, &[(GUEST, 4096)], true);
        assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
        let flush = rig.flush(nsid);
        assert_eq!(rig.run(&mut pair, flush), (1, Outcome::Done));
    }
    assert_eq!(rig.watch.count(false, io::FLUSH), 2);
    rig.clean();
}

#[test]
fn parts_of_4096_byte_blocks_are_read_and_written_and_the_rest_of_their_blocks_stays() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    let mut want = pattern(3, 64 << 10);
    rig.client.write(GUEST, &want);
    let write = rig.write(2, 0, &[(GUEST, 64 << 10)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    for (round, (sector, bytes)) in (1_u8..).zip([(0, 512), (15, 512), (17, 1024), (32, 3584), (33, 3584)]) {
        let (at, bytes) = (sector as usize * 512, bytes as usize);
        rig.client.write(GUEST, &vec![0x5a; 8192]);
        let read = rig.read_part(2, sector, &[(GUEST + 1, 300), (GUEST + 301, bytes as u32 - 300)]);
        assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
        assert!(rig.client.read(GUEST + 1, bytes) == want[at..at + bytes], "{sector}");
        assert!(rig.client.read(GUEST + 1 + bytes as u64, 4096).iter().all(|b| *b == 0x5a), "{sector}");
        rig.client.write(GUEST + 1, &vec![round; bytes]);
        let write = rig.write_part(2, sector, &[(GUEST + 1, bytes as u32)], round % 2 == 0);
        assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
        want[at..at + bytes].fill(round);
        assert!(rig.machine.on_disk(2, 0, want.len()) == want, "{sector}");
    }
    // Of one block, one after the other: none is lost.
    for sector in 0..8 {
        rig.client.write(GUEST + sector * 512, &[0xa0 + sector as u8; 512]);
        let write = rig.write_part(2, 40 + sector, &[(GUEST + sector * 512, 512)], false);
        assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    }
    let block = rig.machine.on_disk(2, 40 * 512, 4096);
    assert!(block.chunks(512).zip(0xa0..).all(|(sector, byte)| sector.iter().all(|b| *b == byte)));
    let commands = rig.watch.commands(false);
    assert!(commands.iter().any(|c| c.opcode == io::WRITE && c.cdw12.get() & FUA != 0), "force unit access");
    rig.clean();
}
