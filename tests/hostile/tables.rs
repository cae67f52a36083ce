//! Partition tables that a client rewrites.

use std::fs;
use std::time::{Duration, Instant};

use nvme_client::Client;

use crate::disk::{self, PART, SECTORS, SIZE};
use crate::raw::options;
use crate::rig::{Rig, Setup, WAIT, attack_on};

const EBUSY: i32 = -16;
const ENODEV: i32 = -19;

/// A second controller, `5678`, whose disk nobody has divided. More arguments may follow.
fn two_disks(more: &[&str], work: impl FnOnce(&Rig)) {
    let dir = disk::memory_dir();
    let second = dir.path().join("second");
    fs::write(&second, vec![0; SIZE as usize]).unwrap();
    let vbus = format!("vbus=soft:{},serial=5678", second.display());
    let mut arguments = vec!["-v".into(), "--cap".into(), vbus];
    arguments.extend(more.iter().map(|word| word.replace("DIR", &dir.path().display().to_string())));
    attack_on(Setup { arguments, ..Setup::default() }, work);
}

fn client(rig: &Rig, words: &[&str]) -> Client {
    Client::from_fd(rig.create(words), &options()).unwrap()
}

/// Writes a whole disk through a session, which then ends.
fn rewrite(rig: &Rig, device: &str, bytes: &[u8]) {
    let mut client = client(rig, &[device]);
    for (i, chunk) in bytes.chunks(64 << 10).enumerate() {
        client.write(i as u64 * 128, chunk).unwrap();
    }
    client.flush().unwrap();
}

/// The device is the partition `after` of the first disk, wherever its name leads to.
fn is_after(rig: &Rig, device: &str) {
    let mut client = client(rig, &[device, "read-only"]);
    let mut bytes = vec![0; 4096];
    client.read(SECTORS - 8, &mut bytes).unwrap();
    assert!(bytes == disk::pattern(disk::start("after") + PART - 4096, 4096), "{device} is another's");
}

/// There is no such device, as soon as the one before has drained.
fn absent(rig: &Rig, device: &str, what: &str) {
    let deadline = Instant::now() + WAIT;
    while rig.refused(&[device]) != ENODEV {
        assert!(Instant::now() < deadline, "{what}: {device} is there");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first disk's bytes with everything but the table changed: what a clone of it looks like.
fn clone(rig: &Rig) -> Vec<u8> {
    let mut bytes = rig.disk.bytes(0, SIZE as usize);
    bytes[PART as usize..(SIZE - PART) as usize].fill(0xee);
    bytes
}

/// The `partuuid` of a partition by its number, from the table itself.
fn uuid(rig: &Rig, number: usize) -> String {
    let entry = rig.disk.bytes(1024 + 128 * (number as u64 - 1), 128);
    let mixed: Vec<u8> =
        [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|i| entry[16 + i]).to_vec();
    let hex: String = mixed.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[test]
fn a_table_that_clones_another_disk_s_makes_no_name_ambiguous() {
    two_disks(&[], |rig| {
        let device = format!("device=partuuid:{}", uuid(rig, 3));
        is_after(rig, &device);
        rewrite(rig, "device=5678:n1", &clone(rig));
        rig.goes_on();
        // The names lead to where they led, and the clone's partitions can be had by number.
        is_after(rig, &device);
        is_after(rig, "device=partlabel:after");
        let mut theirs = client(rig, &["device=5678:n1:3"]);
        let mut bytes = vec![0; 4096];
        theirs.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0xee; 4096]);
        assert_eq!(rig.refused(&["device=partlabel:bystander"]), EBUSY);
        rig.goes_on();
    });
}

#[test]
fn a_clone_does_not_get_the_client_of_the_original() {
    // The name is bound before anybody comes.
    let more = ["--client", "cl1", "--device", "partlabel:after", "--cap", "cl1=unix:DIR/cl1"];
    two_disks(&more, |rig| {
        rewrite(rig, "device=5678:n1", &clone(rig));
        let line = rig.said().into_iter().find(|l| l.contains("cl1")).unwrap_or_default();
        rig.says("client cl1");
        assert!(!line.contains("5678"), "{line}");
        assert_eq!(rig.refused(&["device=1234:n1:3"]), EBUSY);
        assert_eq!(rig.refused(&["device=partlabel:after"]), EBUSY);
        drop(rig.create(&["device=5678:n1:3"]));
    });
}

#[test]
fn nobody_can_rewrite_the_table_under_another_s_partition() {
    two_disks(&[], |rig| {
        // The bystander has a partition there.
        assert_eq!(rig.refused(&["device=1234:n1"]), EBUSY);
        assert_eq!(rig.refused(&["device=1234:n1", "read-only"]), EBUSY);
        // Not by a partition that reaches the table either: every byte around one's own is out of reach.
        let mut mine = client(rig, &["device=partlabel:before"]);
        let before = rig.disk.bytes(0, PART as usize);
        for sector in [0u64.wrapping_sub(SECTORS), u64::MAX - 1, u64::MAX] {
            assert!(mine.write(sector, &[0; 512]).is_err());
        }
        assert_eq!(rig.disk.bytes(0, PART as usize), before);
    });
}

#[test]
fn a_table_rewritten_by_the_whole_disk_s_writer_moves_no_reserved_partition() {
    // The second disk is divided before the server starts, and one of its partitions is reserved.
    let dir = disk::memory_dir();
    let (second, socket) = (dir.path().join("second"), dir.path().join("cl1"));
    fs::write(&second, disk::image(512)).unwrap();
    let arguments = [
        "--cap".into(),
        format!("vbus=soft:{},serial=5678", second.display()),
        "--cap".into(),
        format!("cl1=unix:{}", socket.display()),
    ];
    let words = ["--client", "cl1", "--device", "5678:n1:2"].map(String::from);
    let arguments = arguments.into_iter().chain(words).collect();
    attack_on(Setup { arguments, image: disk::image(512), ..Setup::default() }, |rig| {
        // Nobody is connected there, and still nobody can have what overlaps it.
        for device in ["device=5678:n1", "device=5678:n1:2"] {
            assert_eq!(rig.refused(&[device]), EBUSY);
            assert_eq!(rig.refused(&[device, "read-only"]), EBUSY);
        }
        let mut static_client =
            Client::connect(&socket, &nvme_client::Options { wait: WAIT, ..options() }).unwrap();
        let mut bytes = vec![0; 4096];
        static_client.read(0, &mut bytes).unwrap();
        assert!(bytes == disk::pattern(disk::start("attack"), 4096));
    });
}

#[test]
fn a_table_that_its_writer_breaks_leaves_the_disk_whole_and_others_alone() {
    two_disks(&[], |rig| {
        let image = disk::image(512);
        rewrite(rig, "device=5678:n1", &image);
        // Its labels are the first disk's already; by number they are there.
        drop(rig.create(&["device=5678:n1:2"]));
        let odd = crate::broken::odd(&image).into_iter().map(|(what, bytes, _)| (what, bytes));
        for (what, bytes) in crate::broken::corpus(&image).into_iter().chain(odd) {
            // Only the tables' ends of the disk change.
            let mut client = client(rig, &["device=5678:n1"]);
            client.write(0, &bytes[..64 << 10]).unwrap();
            client.write((SIZE - (64 << 10)) / 512, &bytes[SIZE as usize - (64 << 10)..]).unwrap();
            drop(client);
            absent(rig, "device=5678:n1:2", what);
            drop(rig.create(&["device=5678:n1"]));
            rig.goes_on();
        }
    });
}
