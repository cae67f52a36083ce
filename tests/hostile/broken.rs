//! Disks with broken partition tables: each is served whole, and none of what is broken is believed.

use nvme_client::Client;

use crate::disk::{self, SIZE};
use crate::raw::options;
use crate::rig::{Rig, Setup};

const LAST: usize = SIZE as usize - 512;
const ENTRIES: usize = 128;

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8)
            .fold(crc ^ u32::from(byte), |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Both headers' bytes change like this, and their checksums are made right again.
fn headers(image: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = image.to_vec();
    for at in [512, LAST] {
        let header = &mut bytes[at..at + 512];
        change(header);
        header[16..20].fill(0);
        let sum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Both arrays change like this, and all checksums are made right again.
fn arrays(image: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = image.to_vec();
    let mut sum = 0;
    for at in [512, LAST] {
        let lba = u64::from_le_bytes(bytes[at + 72..at + 80].try_into().unwrap()) as usize;
        let array = &mut bytes[lba * 512..lba * 512 + ENTRIES * 128];
        change(array);
        sum = crc32(array);
    }
    headers(&bytes, |header| header[88..92].copy_from_slice(&sum.to_le_bytes()))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Disks whose tables are broken in both copies, from one whose table is sound.
pub(crate) fn corpus(image: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let word = |at: usize, value: u32| {
        move |header: &mut [u8]| header[at..at + 4].copy_from_slice(&value.to_le_bytes())
    };
    let mut no_sums = image.to_vec();
    let mut no_array_sums = image.to_vec();
    for at in [512, LAST] {
        no_sums[at + 16] ^= 1;
        let lba = u64::from_le_bytes(image[at + 72..at + 80].try_into().unwrap()) as usize;
        no_array_sums[lba * 512 + 3] ^= 1;
    }
    let blocks = SIZE / 512;
    vec![
        ("header checksums", no_sums),
        ("array checksums", no_array_sums),
        ("signature", headers(image, |h| h[0] = b'e')),
        ("revision", headers(image, word(8, 0x0002_0000))),
        ("header too short", headers(image, word(12, 91))),
        ("header too long", headers(image, word(12, u32::MAX))),
        ("wrong place", headers(image, |h| put(h, 24, 77))),
        ("array beyond the end", headers(image, |h| put(h, 72, blocks))),
        ("array that wraps", headers(image, |h| put(h, 72, u64::MAX))),
        ("array over the header", headers(image, |h| put(h, 72, 0))),
        ("no entry size", headers(image, word(84, 0))),
        ("small entries", headers(image, word(84, 127))),
        ("odd entries", headers(image, word(84, 129))),
        ("huge entries", headers(image, word(84, 0x8000_0000))),
        ("many entries", headers(image, word(80, u32::MAX))),
        ("no partition table at all", vec![0x5a; SIZE as usize]),
    ]
}

/// Disks on which the second of four partitions lies where it cannot be had, and which of the others it leaves alone.
pub(crate) fn odd(image: &[u8]) -> Vec<(&'static str, Vec<u8>, &'static [usize])> {
    let second = |first: u64, last: u64| {
        arrays(image, move |array: &mut [u8]| {
            put(array, 128 + 32, first);
            put(array, 128 + 40, last);
        })
    };
    let blocks = SIZE / 512;
    vec![
        ("partition beyond the end", second(4096, blocks + 8), &[1]),
        ("partition far beyond the end", second(4096, u64::MAX), &[1]),
        ("partition that wraps", second(u64::MAX, 1), &[1, 3, 4]),
        ("partition that ends before it starts", second(5000, 4096), &[1, 3, 4]),
        ("partition over the table", second(1, 4096), &[3, 4]),
        ("partition over block 0", second(0, 4096), &[3, 4]),
        ("partition over the backup", second(4096, blocks - 1), &[1]),
        ("partition over another", second(2048, 6143), &[3, 4]),
        ("partition within another", second(6200, 6300), &[1, 4]),
    ]
}

/// The disk is served as a whole, and by the names of these partitions.
fn served_whole(what: &str, image: Vec<u8>, served: &[usize]) {
    let rig = Rig::start(Setup { image: image.clone(), bystander: false, ..Setup::default() });
    for (number, label) in (1..).zip(disk::LABELS) {
        for device in [format!("device=partlabel:{label}"), format!("device=1234:n1:{number}")] {
            if !served.contains(&number) {
                assert_eq!(rig.refused(&[&device]), -19, "{what}: {device}");
                continue;
            }
            let mut client = Client::from_fd(rig.create(&[&device]), &options()).unwrap();
            let mut bytes = vec![0; 4096];
            client.read(0, &mut bytes).unwrap();
            assert!(bytes == disk::pattern(disk::start(label), 4096), "{what}: {device}");
        }
    }
    let mut client = Client::from_fd(rig.create(&["device=1234:n1", "read-only"]), &options()).unwrap();
    assert_eq!(client.config.capacity, SIZE / 512, "{what}");
    for at in [0, SIZE - 4096] {
        let mut bytes = vec![0; 4096];
        client.read(at / 512, &mut bytes).unwrap();
        assert!(bytes == image[at as usize..at as usize + 4096], "{what}");
    }
    for sector in [SIZE / 512, SIZE / 512 - 1 + (1 << 55), u64::MAX] {
        assert!(client.read(sector, &mut [0; 512]).is_err(), "{what}");
    }
    drop(client);
    rig.finish();
}

#[test]
fn a_disk_with_a_broken_table_is_served_whole_and_its_names_are_refused() {
    for (what, image) in corpus(&disk::image(512)) {
        served_whole(what, image, &[]);
    }
}

#[test]
fn an_odd_partition_is_served_to_nobody_and_the_others_are() {
    for (what, image, served) in odd(&disk::image(512)) {
        served_whole(what, image, served);
    }
}

#[test]
fn a_partition_over_the_table_can_be_read_and_not_written() {
    let image = arrays(&disk::image(512), |array| {
        put(array, 128 + 32, 0);
        put(array, 128 + 40, 40);
    });
    let rig = Rig::start(Setup { image: image.clone(), bystander: false, ..Setup::default() });
    assert_eq!(rig.refused(&["device=1234:n1:2"]), -13);
    let mut client = Client::from_fd(rig.create(&["device=1234:n1:2", "read-only"]), &options()).unwrap();
    let mut bytes = vec![0; 4096];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes == image[..4096]);
    assert!(client.write(0, &[0; 512]).is_err());
    // Nobody can rewrite the disk under it.
    assert_eq!(rig.refused(&["device=1234:n1"]), -16);
    drop(client);
    rig.finish();
}

#[test]
fn a_sound_backup_serves_where_the_primary_is_broken() {
    let mut image = disk::image(512);
    image[512..1024].fill(0xff);
    let rig = Rig::start(Setup { image, arguments: vec!["-v".into()], ..Setup::default() });
    rig.goes_on();
    rig.says("backup");
    let mut client = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options()).unwrap();
    let mut bytes = vec![0; 4096];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes == disk::pattern(disk::start("attack"), 4096));
    rig.finish();
}
