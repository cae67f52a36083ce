use zerocopy::FromZeros;

use super::*;

const NS: Namespace = Namespace { controller: 0, nsid: 1 };

fn caps() -> CommandCaps {
    CommandCaps {
        transfer: 128 << 10,
        discard: Limited { bytes: 1 << 30, blocks: u32::MAX },
        zeroes: Limited { bytes: 32 << 20, blocks: NLB_MAX },
        ..CommandCaps::default()
    }
}

fn ns(blocks: u64) -> identify::Namespace {
    let mut data = identify::Namespace::new_zeroed();
    data.nsze = blocks.into();
    data.lbaf[0].lbads = 9;
    data
}

fn common() -> Common {
    Common { caps: caps(), volatile_cache: true, has_siblings: true, bogus_identifiers: false }
}

fn check(data: &identify::Namespace) -> Result<NamespaceInfo, NotServed> {
    namespace(data, NS, &common(), &Identifiers::default())
}

fn ctrl() -> identify::Controller {
    let mut data = identify::Controller::new_zeroed();
    (data.sqes, data.cqes) = (0x66, 0x44);
    data
}

fn found(data: &identify::Controller) -> Result<Findings, Failure> {
    controller(data, (1, 4, 0), &Options::default(), &Quirks::default())
}

#[test]
fn a_serial_number_keeps_its_inner_spaces_and_colons() {
    assert_eq!(text(b"  A B:n1  C  \0\0\0"), "A B:n1  C");
    assert_eq!(text(b"        "), "");
    assert_eq!(text(b"\x1b[31mX\xff"), "?[31mX?");
    assert_eq!(text(b"12345678901234567890").len(), 20);
}

#[test]
fn what_tells_a_namespace_from_others_is_read() {
    let mut data = ctrl();
    data.subnqn[..12].copy_from_slice(b"nqn.a\0behind");
    assert_eq!(found(&data).unwrap().info.subsystem, "nqn.a", "a zero byte ends it");
    data.subnqn = [b'q'; 256];
    assert_eq!(found(&data).unwrap().info.subsystem.len(), 256);
    (data.cntlid, data.cmic) = (0x102.into(), 0b101);
    let info = found(&data).unwrap().info;
    assert_eq!((info.number, info.has_siblings), (0x102, false), "ports and functions are no controllers");
    data.cmic = 0b010;
    assert!(found(&data).unwrap().info.has_siblings);
}

#[test]
fn what_is_shared_has_somebody_to_share_it_with() {
    for (nmic, has_siblings, shared) in
        [(1, true, true), (1, false, false), (0xfe, true, false), (0, true, false), (0, false, false)]
    {
        let mut data = ns(8);
        data.nmic = nmic;
        let common = Common { has_siblings, ..common() };
        let info = namespace(&data, NS, &common, &Identifiers::default()).unwrap();
        assert_eq!(info.shared, shared, "NMIC {nmic}, {has_siblings}");
    }
}

#[test]
fn identifiers_come_from_both_places_and_from_neither_where_they_are_garbage() {
    let mut data = ns(8);
    data.nguid = [1; 16];
    let described = Identifiers { nguid: [4; 16], eui64: [5; 8], uuid: [6; 16] };
    let info = namespace(&data, NS, &common(), &described).unwrap();
    assert_eq!(info.unique, Identifiers { nguid: [1; 16], ..described });
    let bogus = Common { bogus_identifiers: true, ..common() };
    assert_eq!(namespace(&data, NS, &bogus, &described).unwrap().unique, Identifiers::default());
}

#[test]
fn a_namespace_is_served_with_its_limits() {
    let info = check(&ns(1000)).unwrap();
    assert_eq!((info.blocks(), info.block_size(), info.read_only), (1000, BlockSize::B512, false));
    assert_eq!(info.limits.transfer_blocks, 256);
    assert_eq!((info.limits.discard_blocks, info.limits.write_zeroes_blocks), (1 << 21, 65536));
    let mut data = ns(1000);
    data.npdg = 7.into();
    assert_eq!(check(&data).unwrap().limits.discard_granularity, 0, "it is not said that this counts");
    data.nsfeat = 1 << 4;
    assert_eq!(check(&data).unwrap().limits.discard_granularity, 8);
    let mut data = ns(1000);
    data.lbaf[0].lbads = 12;
    data.nsattr = 1;
    let info = check(&data).unwrap();
    assert_eq!(
        (info.limits.transfer_blocks, info.limits.write_zeroes_blocks, info.read_only),
        (32, 8192, true)
    );
}

#[test]
fn a_namespace_that_cannot_be_served_is_refused_by_reason() {
    let mut data = ns(0);
    assert_eq!(check(&data), Err(NotServed::Inactive));
    data = ns(1 << 60);
    assert_eq!(check(&data), Err(NotServed::Size(1 << 60)));
    data = ns(8);
    data.flbas = 1;
    assert_eq!(check(&data), Err(NotServed::Format(1)), "there is one format only");
    data.nlbaf = 1;
    assert_eq!(check(&data), Err(NotServed::BlockSize(0)));
    data.lbaf[1].lbads = 9;
    data.lbaf[1].ms = 8.into();
    assert_eq!(check(&data), Err(NotServed::Metadata(8)));
    data.lbaf[1].ms = 0.into();
    data.dps = 1;
    assert_eq!(check(&data), Err(NotServed::Protected(1)));
    data.dps = 8;
    assert!(check(&data).is_ok(), "the place of protection information means nothing without a type");
    data.lbaf[1].lbads = 13;
    assert_eq!(check(&data), Err(NotServed::BlockSize(13)));
}

#[test]
fn the_high_bits_of_the_format_index_count_only_with_many_formats() {
    let mut data = ns(8);
    data.lbaf[0x21].lbads = 12;
    data.lbaf[1].lbads = 9;
    data.flbas = 0x41;
    data.nlbaf = 15;
    assert_eq!(check(&data).unwrap().block_size(), BlockSize::B512);
    data.nlbaf = 63;
    assert_eq!(check(&data).unwrap().block_size(), BlockSize::B4096);
    (data.flbas, data.nlbaf) = (0x7f, 0xff);
    assert_eq!(check(&data), Err(NotServed::BlockSize(0)), "the last entry of the table");
}

#[test]
fn the_longest_transfer_is_bounded_whatever_mdts_says() {
    let mut data = ctrl();
    let mut bytes = |mdts| {
        data.mdts = mdts;
        found(&data).unwrap().caps.transfer
    };
    assert_eq!((bytes(0), bytes(1), bytes(5), bytes(8)), (1 << 20, 8192, 128 << 10, 1 << 20));
    for mdts in 9..=255 {
        assert_eq!(bytes(mdts), 1 << 20);
    }
}

#[test]
fn queue_entries_of_other_sizes_and_other_controllers_are_refused() {
    let mut data = ctrl();
    data.sqes = 0x77;
    assert_eq!(found(&data).err(), Some(Failure::QueueShape));
    data.sqes = 0x76;
    data.cqes = 0x33;
    assert_eq!(found(&data).err(), Some(Failure::QueueShape));
    data.cqes = 0x44;
    data.cntrltype = 2;
    assert_eq!(found(&data).err(), Some(Failure::NotIo));
    data.cntrltype = 1;
    assert!(found(&data).is_ok());
}

#[test]
fn what_the_controller_cannot_do_is_not_offered() {
    let mut data = ctrl();
    let f = found(&data).unwrap();
    assert_eq!((f.caps.discard, f.caps.zeroes, f.caps.sgl), Default::default());
    data.oncs = (ONCS_DSM | ONCS_WRITE_ZEROES).into();
    data.sgls = 2.into();
    let f = found(&data).unwrap();
    assert!(f.caps.discard.bytes > 0 && f.caps.zeroes.bytes > 0 && f.caps.sgl == SglSupport::Dword);
    let nosgl = Options { nosgl: true, ..Options::default() };
    let quirks = Quirks { no_write_zeroes: true, ..Quirks::default() };
    let f = controller(&data, (1, 4, 0), &nosgl, &quirks).unwrap();
    assert_eq!((f.caps.zeroes, f.caps.sgl), Default::default());
}

#[test]
fn limits_of_the_command_set_narrow_and_never_widen() {
    let mut caps = caps();
    let mut data = identify::ControllerNvm::new_zeroed();
    controller_nvm(&data, &mut caps);
    assert_eq!(caps.zeroes.bytes, 32 << 20);
    (data.wzsl, data.dmrsl) = (5, 4096.into());
    controller_nvm(&data, &mut caps);
    assert_eq!((caps.zeroes.bytes, caps.discard.blocks), (128 << 10, 4096));
    (data.wzsl, data.dmrsl, data.dmsl) = (255, u32::MAX.into(), u64::MAX.into());
    controller_nvm(&data, &mut caps);
    assert_eq!((caps.zeroes.bytes, caps.discard.blocks), (128 << 10, 4096));
}

/// A list of these descriptors.
fn list(parts: &[&[u8]]) -> Described {
    let mut list = [0; PAGE as usize];
    let bytes = parts.concat();
    list[..bytes.len()].copy_from_slice(&bytes);
    Described::of(&list)
}

#[test]
fn the_command_set_is_found_behind_other_descriptors_and_nowhere_else() {
    let said = |parts: &[&[u8]]| list(parts).command_set;
    let uuid: &[u8] = &[3, 16, 0, 0, 4, 1, 0, 0, 9, 4, 1, 0, 0, 9, 4, 1, 0, 0, 9, 4];
    let zoned: &[u8] = &[4, 1, 0, 0, 2];
    assert_eq!((said(&[]), said(&[uuid]), said(&[zoned])), (0, 0, 2));
    assert_eq!((said(&[uuid, zoned]), said(&[&[0, 0, 0, 0], zoned])), (2, 0));
    assert_eq!(said(&[&[4, 2, 0, 0, 2, 2]]), 0, "not its length");
    // To the very end, and over it.
    let mut list = [1_u8; PAGE as usize];
    assert_eq!(Described::of(&list), Described::default());
    list.fill(255);
    assert_eq!(Described::of(&list), Described::default());
}

#[test]
fn identifiers_are_found_by_their_kind_and_length_and_the_first_one_counts() {
    let (eui, nguid, uuid) = ([1, 8, 0, 0], [2, 16, 0, 0], [3, 16, 0, 0]);
    let all =
        list(&[&uuid, &[7; 16], &eui, &[8; 8], &[99, 3, 0, 0], &[1; 3], &nguid, &[9; 16], &uuid, &[1; 16]]);
    assert_eq!(all.unique, Identifiers { nguid: [9; 16], eui64: [8; 8], uuid: [7; 16] });
    let odd = list(&[&[1, 16, 0, 0], &[8; 16], &[2, 8, 0, 0], &[9; 8], &[3, 1, 0, 0, 7], &eui, &[5; 8]]);
    assert_eq!(odd.unique, Identifiers { eui64: [5; 8], ..Identifiers::default() });
}
