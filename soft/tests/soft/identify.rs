//! Identify, as bytes at the offsets of the specification.

use std::sync::Arc;

use nvme_soft::wire::Status;
use nvme_soft::{Config, MemoryMedium, NamespaceConfig};

use crate::driver::*;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn get(rig: &mut Rig, cns: u8, nsid: u32) -> Vec<u8> {
    let (at, window) = rig.page();
    window.fill(0, 4096, 0xaa).unwrap();
    rig.done(identify(cns, nsid, at));
    bytes(&window, 0, 4096)
}

#[test]
fn strings_are_padded_with_spaces() {
    let serial = "a b:c".to_string();
    let mut rig = Rig::new(Config { serial, model: "M".into(), firmware: "1.2".into(), ..config() });
    let id = get(&mut rig, 1, 0);
    assert_eq!(&id[4..24], b"a b:c               ");
    assert_eq!(&id[24..64], format!("{:40}", "M").as_bytes());
    assert_eq!(&id[64..72], b"1.2     ");
}

#[test]
fn the_controller_says_what_it_can_do() {
    let mut rig = Rig::new(Config { mdts: 5, namespaces_max: 7, ..config() });
    let id = get(&mut rig, 1, 0);
    assert_eq!((id[77], id[111], id[512], id[513]), (5, 1, 0x66, 0x44));
    assert_eq!((u32_at(&id, 80), u32_at(&id, 92), u32_at(&id, 516)), (0x0001_0400, 1 << 8, 7));
    // ONCS: Dataset Management and Write Zeroes; VWC; SGLS; ACL, AERL.
    assert_eq!((id[520], id[525], id[536], id[258], id[259]), (0b1100, 0b111, 1, 3, 3));
    let mut rig = Rig::new(Config {
        sgl: false,
        dataset_management: false,
        write_zeroes: false,
        write_cache: false,
        ..config()
    });
    let id = get(&mut rig, 1, 0);
    assert_eq!((id[520], id[525], id[536]), (0, 0, 0));
}

#[test]
fn namespaces_have_their_own_size_and_block_size() {
    let four = NamespaceConfig::new(Arc::new(MemoryMedium::new(5 * 4096 + 512).unwrap()));
    let four = four.block_size(4096).read_only(true);
    let mut rig = Rig::new(Config { namespaces: vec![namespace(2048), four], ..Config::default() });
    let one = get(&mut rig, 0, 1);
    assert_eq!((u32_at(&one, 0), u32_at(&one, 8), one[130], one[99]), (2048, 2048, 9, 0));
    let two = get(&mut rig, 0, 2);
    assert_eq!((u32_at(&two, 0), u32_at(&two, 16), two[130], two[99]), (5, 5, 12, 1));
    // No metadata, one format.
    assert_eq!((two[25], two[26], u32_at(&two, 128) & 0xffff), (0, 0, 0));
    assert!(one[120..128] != two[120..128] && one[120..128] != [0; 8]);
    // Not active: zeroes.
    assert!(get(&mut rig, 0, 3).iter().all(|b| *b == 0));
}

#[test]
fn the_list_of_active_namespaces_skips_gaps_and_starts_after_the_one_named() {
    let namespaces = (0..5).map(|_| namespace(8)).collect();
    let mut rig = Rig::new(Config { namespaces, ..Config::default() });
    assert!(rig.handle.remove(3) && !rig.handle.remove(3));
    let list = |page: Vec<u8>| -> Vec<u32> {
        page.chunks_exact(4).map(|c| u32_at(c, 0)).take_while(|id| *id != 0).collect()
    };
    assert_eq!(list(get(&mut rig, 2, 0)), [1, 2, 4, 5]);
    assert_eq!(list(get(&mut rig, 2, 2)), [4, 5]);
    assert_eq!(list(get(&mut rig, 2, 5)), []);
    let (at, _) = rig.page();
    expect(&rig.admin(identify(2, 0xffff_fffe, at)), Status::INVALID_NAMESPACE);
}

#[test]
fn descriptors_name_a_namespace() {
    let with_uuid = NamespaceConfig { uuid: Some([7; 16]), ..namespace(8) };
    let mut rig = Rig::new(Config { namespaces: vec![with_uuid], ..Config::default() });
    let eui = get(&mut rig, 0, 1)[120..128].to_vec();
    let page = get(&mut rig, 3, 1);
    assert_eq!((&page[..4], &page[4..12]), (&[1, 8, 0, 0][..], &eui[..]));
    assert_eq!((&page[12..16], &page[16..32], page[32]), (&[3, 16, 0, 0][..], &[7; 16][..], 0));
}

#[test]
fn what_cannot_be_identified_is_refused() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    for (cns, nsid, status) in [
        (0, 0, Status::INVALID_NAMESPACE),
        (0, u32::MAX, Status::INVALID_NAMESPACE),
        (0, 257, Status::INVALID_NAMESPACE),
        (3, 2, Status::INVALID_NAMESPACE),
        (4, 1, Status::INVALID_FIELD),
        (0x1c, 0, Status::INVALID_FIELD),
    ] {
        expect(&rig.admin(identify(cns, nsid, at)), status);
    }
}
