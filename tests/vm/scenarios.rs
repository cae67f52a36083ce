//! What ordinary guests do.

use crate::disk::{Disk, GOLDEN, SCRATCH};
use crate::machine::{Machine, Shape};
use crate::server::{Server, What, peer};

/// Mounts the golden partition and compares the file's hash.
pub(crate) fn golden_is_good(vm: &mut Machine, disk: &Disk) {
    vm.run("mount -t ext4 -o ro /dev/vda /mnt");
    assert!(vm.run("sha256sum /mnt/file").contains(&disk.hash));
    vm.run("umount /mnt");
}

#[test]
fn a_session_given_by_descriptor_serves_a_file_system_read_only() {
    let needs = needs!();
    let disk = Disk::new();
    let mut server = Server::start(&disk, false);
    let mut vm = Machine::boot("vm", needs.kernel, server.session(What::GoldenReadOnly), &Shape::default());
    assert_eq!(vm.run("blockdev --getsize64 /dev/vda"), GOLDEN.len.to_string());
    assert_eq!(vm.run("cat /sys/block/vda/ro"), "1");
    golden_is_good(&mut vm, &disk);
    assert_ne!(
        vm.attempt(
            "dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync",
            std::time::Duration::from_secs(60)
        )
        .0,
        0
    );
    // The first digits of the partition's UUID.
    let id = vm.run("cat /sys/block/vda/serial");
    assert!(peer() || (id.len() == 20 && id.bytes().all(|b| b.is_ascii_hexdigit())), "{id}");
    vm.power_off();
    assert!(server.alive());
}

#[test]
fn a_static_client_makes_checks_fills_and_trims_a_file_system() {
    let needs = needs!();
    let disk = Disk::new();
    let mut server = Server::start(&disk, true);
    let shape = Shape { fio: true, memory: "768M", cpus: 2, ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.static_client(), &shape);
    assert_eq!(vm.run("blockdev --getsize64 /dev/vda"), SCRATCH.len.to_string());
    vm.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt");
    vm.run(
        "fio --name=v --directory=/mnt --size=24m --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 \
         --verify=crc32c --fsync=256 --output-format=terse >/tmp/fio.log || { cat /tmp/fio.log; false; }",
    );
    vm.run(
        "dd if=/dev/urandom of=/mnt/more bs=1M count=8 conv=fsync 2>/dev/null; sha256sum /mnt/more >/tmp/sum",
    );
    vm.run("rm /mnt/v.*; sync; fstrim /mnt");
    vm.run("umount /mnt; e2fsck -fn /dev/vda");
    vm.run("mount -t ext4 /dev/vda /mnt && sha256sum -c /tmp/sum && umount /mnt");
    vm.reboot();
    vm.run("e2fsck -fn /dev/vda; mount -t ext4 -o ro /dev/vda /mnt && ls -l /mnt/more && umount /mnt");
    vm.run("blkdiscard /dev/vda");
    vm.run("blkdiscard -z /dev/vda 2>/dev/null || true; dd if=/dev/urandom of=/dev/vda bs=1M count=2 conv=fsync 2>/dev/null");
    vm.power_off();
    assert!(server.alive());
}

#[test]
fn a_guest_reboots_on_one_listening_session() {
    let needs = needs!();
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let attach = server.listening(What::Scratch);
    let mut vm = Machine::boot("vm", needs.kernel, attach, &Shape::default());
    vm.run("echo 0 | dd of=/dev/vda conv=fsync 2>/dev/null");
    for round in 0..3 {
        assert_eq!(vm.run("head -c1 /dev/vda"), round.to_string());
        vm.run(&format!("echo {} | dd of=/dev/vda conv=fsync 2>/dev/null", round + 1));
        vm.reboot();
    }
    assert_eq!(vm.run("head -c1 /dev/vda"), "3");
    vm.power_off();
}

#[test]
fn two_machines_read_one_golden_image_at_once() {
    let needs = needs!();
    if peer() {
        println!("skipped: the peer's exports take one client each");
        return;
    }
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let kernel = needs.kernel;
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let attach = server.session(What::GoldenReadOnly);
            let disk = &disk;
            scope.spawn(move || {
                let mut vm = Machine::boot(name, kernel, attach, &Shape::default());
                for _ in 0..2 {
                    golden_is_good(&mut vm, disk);
                    vm.run("echo 3 >/proc/sys/vm/drop_caches");
                }
                vm.power_off();
            });
        }
    });
}

#[test]
fn four_gigabytes_and_a_vga_are_three_regions_in_one_file() {
    let needs = needs!();
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let shape = Shape { memory: "4096M", vga: true, ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.session(What::GoldenReadOnly), &shape);
    golden_is_good(&mut vm, &disk);
    vm.power_off();
}

#[test]
fn eight_processors_get_eight_queues() {
    let needs = needs!(crate::need::alone);
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let shape = Shape { cpus: 8, ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.session(What::Scratch), &shape);
    assert_eq!(vm.run("ls /sys/block/vda/mq | wc -l"), "8");
    // Each processor writes and reads through its own queue.
    vm.run(
        "for c in 0 1 2 3 4 5 6 7; do taskset $((1 << c)) sh -c \"head -c 1048576 /dev/urandom >/tmp/$c; \
         dd if=/tmp/$c of=/dev/vda bs=64k seek=$((c * 16)) conv=fsync 2>/dev/null\" & done; wait",
    );
    vm.run("echo 3 >/proc/sys/vm/drop_caches");
    vm.run(
        "for c in 0 1 2 3 4 5 6 7; do taskset $((1 << c)) dd if=/dev/vda bs=64k skip=$((c * 16)) count=16 2>/dev/null \
         | cmp - /tmp/$c || exit 1; done",
    );
    vm.power_off();
}
