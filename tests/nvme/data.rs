use nvme_core::nvme::{HERE_MAX, Options, Submit};
use nvme_session::operation::Outcome;
use nvme_soft::{Config, NamespaceConfig};
use proptest::prelude::*;

use crate::rig::{GUEST, REGION, Rig, config, medium, options, pattern};

/// All combinations that matter: block size, SGLs, longest transfer.
fn kinds() -> Vec<(u32, bool, u8)> {
    let all = [512, 4096].into_iter().flat_map(|b| [true, false].map(|s| (b, s)));
    all.flat_map(|(b, s)| [1, 5, 8].map(|m| (b, s, m))).collect()
}

fn rig(block: u32, sgl: bool, mdts: u8) -> Rig {
    Rig::new(Config { sgl, mdts, ..config(block) }, Options { nosgl: !sgl, ..options() })
}

#[test]
fn what_was_written_is_read_back_for_every_kind_of_controller() {
    for (block, sgl, mdts) in kinds() {
        let mut rig = rig(block, sgl, mdts);
        let mut pair = rig.pair(32);
        let bytes = pattern(7, 256 << 10);
        rig.client.write(GUEST, &bytes);
        let write = rig.write(64, &[(GUEST, 256 << 10)]);
        assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
        let at = GUEST + (1 << 20);
        let read = rig.read(64, &[(at, 256 << 10)]);
        let (commands, outcome) = rig.run(&mut pair, read);
        assert_eq!(outcome, Outcome::Done);
        // The controller runs on this thread, so a command holds others up.
        let most = (4096_u32 << mdts).min(HERE_MAX);
        assert_eq!(commands, (256 << 10) / most, "{block} {sgl} {mdts}");
        assert!(rig.client.read(at, 256 << 10) == bytes);
        assert_eq!((rig.client.desk.bytes_held(), rig.handle.statistics().dma_faults), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Segments of any address and length, across regions too: what the client sees is what a plain copy would do,
    /// nothing beside it changes, and the controller never leaves what is mapped.
    #[test]
    fn any_shape_of_memory_moves_exactly_its_bytes(
        sgl in any::<bool>(),
        large in any::<bool>(),
        mdts in prop_oneof![Just(1_u8), Just(8)],
        cuts in prop::collection::vec((0_u64..2 * REGION - 70_000, 1_u32..9000, any::<bool>()), 1..40),
        seed in any::<u64>(),
    ) {
        let block = if large { 4096 } else { 512 };
        let mut rig = rig(block, sgl, mdts);
        let mut pair = rig.pair(8);
        // No two overlap: each in a slot of its own, some at page boundaries.
        let room = 2 * REGION / 40;
        let mut parts: Vec<(u64, u32)> = cuts
            .iter()
            .zip(0_u64..)
            .map(|((offset, len, aligned), i)| {
                let start = GUEST + i * room + offset % 4096;
                if *aligned { (start & !4095, 4096) } else { (start, *len) }
            })
            .collect();
        let total: u32 = parts.iter().map(|(_, len)| len).sum();
        parts.last_mut().unwrap().1 += total.next_multiple_of(block) - total;
        let total = total.next_multiple_of(block) as usize;

        let before = pattern(seed, 2 * REGION as usize);
        rig.client.write(GUEST, &before);
        let sent: Vec<u8> =
            parts.iter().flat_map(|(at, len)| before[(at - GUEST) as usize..][..*len as usize].to_vec()).collect();
        let write = rig.write(8, &parts);
        prop_assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);

        // Into one straight piece: the disk holds what was sent.
        let blank = vec![0x5a; 2 * REGION as usize];
        rig.client.write(GUEST, &blank);
        let read = rig.read(8, &[(GUEST, total as u32)]);
        prop_assert_eq!(rig.run(&mut pair, read).1, Outcome::Done);
        prop_assert!(rig.client.read(GUEST, total) == sent);

        // Into the same pieces: each byte at its place, and nothing beside.
        rig.client.write(GUEST, &blank);
        let read = rig.read(8, &parts);
        prop_assert_eq!(rig.run(&mut pair, read).1, Outcome::Done);
        let mut want = blank;
        let mut from = 0;
        for (at, len) in &parts {
            want[(at - GUEST) as usize..][..*len as usize].copy_from_slice(&sent[from..][..*len as usize]);
            from += *len as usize;
        }
        prop_assert!(rig.client.read(GUEST, 2 * REGION as usize) == want);
        prop_assert_eq!((rig.client.desk.bytes_held(), rig.handle.statistics().dma_faults), (0, 0));
    }
}

#[test]
fn discards_and_write_zeroes_are_split_and_read_back_as_they_should() {
    let small = Options { discard_max: 64 << 10, write_zeroes_max: 32 << 10, ..options() };
    for block in [512, 4096] {
        let mut rig = Rig::new(config(block), small);
        let mut pair = rig.pair(8);
        rig.client.write(GUEST, &pattern(1, 1 << 20));
        let write = rig.write(0, &[(GUEST, 1 << 20)]);
        rig.run(&mut pair, write);
        let (zeroes, discard) = (rig.zeroes(8, 256 << 10), rig.discard(1024, 256 << 10));
        assert_eq!(rig.run(&mut pair, zeroes), (8, Outcome::Done));
        assert_eq!(rig.run(&mut pair, discard), (4, Outcome::Done));
        let read = rig.read(0, &[(GUEST + (1 << 20), 1 << 20)]);
        rig.run(&mut pair, read);
        let mut want = pattern(1, 1 << 20);
        want[4096..][..256 << 10].fill(0);
        want[512 << 10..][..256 << 10].fill(0);
        assert!(rig.client.read(GUEST + (1 << 20), 1 << 20) == want);
    }
}

#[test]
fn a_flush_reaches_the_controller() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = rig.pair(8);
    let flush = rig.flush();
    assert_eq!(rig.run(&mut pair, flush), (1, Outcome::Done));
    assert_eq!(rig.handle.statistics().flushes, 1);
}

#[test]
fn what_the_controller_cannot_do_is_refused_before_it_is_asked() {
    let mut rig =
        Rig::new(Config { dataset_management: false, write_zeroes: false, ..config(512) }, options());
    let mut pair = rig.pair(8);
    for operation in [rig.discard(0, 4096), rig.zeroes(0, 4096)] {
        let Submit::Refused(done) = rig.submit(&mut pair, operation, 3) else { panic!() };
        assert_eq!((done.outcome, done.tag().head(), pair.in_flight()), (Outcome::Unsupported, 3, 0));
    }
}

#[test]
fn an_operation_for_another_controller_or_namespace_is_refused() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = rig.pair(8);
    let mut other = Rig::new(
        Config {
            namespaces: vec![NamespaceConfig::new(medium(1 << 20)), NamespaceConfig::new(medium(1 << 20))],
            ..config(512)
        },
        options(),
    );
    // A permit for namespace 2 with a place in namespace 1.
    let nvme_session::operation::Operation::Discard { place, .. } = other.discard(0, 4096) else { panic!() };
    let grant = nvme_policy::Grant::new(other.namespace(2).extent, nvme_policy::Access::ReadWrite);
    let operation =
        nvme_session::operation::Operation::Discard { place, permit: grant.write_permit().unwrap() };
    let mut others = other.pair(8);
    assert!(
        matches!(other.submit(&mut others, operation, 0), Submit::Refused(d) if d.outcome == Outcome::Failed)
    );
    // Another controller's pair.
    let place = nvme_policy::Extent::whole(
        nvme_policy::Namespace { controller: 1, nsid: 1 },
        8,
        nvme_policy::BlockSize::B512,
    );
    let grant = nvme_policy::Grant::new(place.unwrap(), nvme_policy::Access::ReadWrite);
    let flush = nvme_session::operation::Operation::Flush { permit: grant.write_permit().unwrap() };
    assert!(matches!(rig.submit(&mut pair, flush, 0), Submit::Refused(_)));
}

#[test]
fn several_commands_in_flight_end_each_with_its_own_tag() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = rig.pair(64);
    for round in 0..20_u64 {
        for head in 0..48_u16 {
            let at = GUEST + u64::from(head) * 4096;
            rig.client.write(at, &pattern(round * 100 + u64::from(head), 4096));
            let write = rig.write(u64::from(head) * 8, &[(at, 4096)]);
            rig.issue(&mut pair, write, head);
        }
        let mut heads: Vec<u16> = Vec::new();
        while pair.in_flight() > 0 {
            for done in rig.pass(&mut pair) {
                heads.push(done.tag().head());
                assert_eq!(done.outcome, Outcome::Done);
                rig.complete(done);
            }
        }
        heads.sort_unstable();
        assert!(heads.into_iter().eq(0..48));
        let read = rig.read(0, &[(GUEST + REGION, 48 * 4096)]);
        assert_eq!(rig.run(&mut pair, read).1, Outcome::Done);
        for head in 0..48_u64 {
            let at = GUEST + REGION + head * 4096;
            assert!(rig.client.read(at, 4096) == pattern(round * 100 + head, 4096));
        }
    }
    assert_eq!(pair.counters().strays, 0);
}
