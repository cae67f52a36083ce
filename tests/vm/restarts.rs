//! Servers that are killed under a guest that writes and verifies.

use std::time::Duration;

use crate::disk::Disk;
use crate::machine::{Machine, Shape};
use crate::mounted::{Loop, Mount, able};
use crate::server::{Server, peer};

/// How often: as often with storage that is frozen, so that something is in flight, as without.
/// (In the long form, doc/restarts.md: `NVME_DRV_KILLS=50`.)
fn kills() -> u32 {
    std::env::var("NVME_DRV_KILLS").map_or(6, |text| text.parse().unwrap())
}

#[test]
fn a_guest_that_writes_and_verifies_notices_nothing_of_killed_servers() {
    let needs = needs!();
    if peer() {
        println!("skipped: the peer is started by other words");
        return;
    }
    if !able() {
        return;
    }
    let mut disk = Disk::new();
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(512 << 20).unwrap();
    let device = Loop::over(file.path(), &[]);
    let system = Mount::ext4(&device.0);
    let image = system.path("disk");
    std::fs::copy(&disk.image, &image).unwrap();
    disk.image = image;
    let mut server = Server::start(&disk, true);
    let shape = Shape { fio: true, memory: "512M", more: &["reconnect"], ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.static_client(), &shape);
    vm.run(
        "(while [ ! -e /tmp/enough ]; do fio --name=v --filename=/dev/vda --size=8m --rw=randwrite --bs=4k --iodepth=16 \
         --ioengine=libaio --direct=1 --verify=crc32c --output-format=terse >/tmp/fio.log 2>&1 || touch /tmp/failed; \
         echo round >>/tmp/rounds; done; touch /tmp/over) & true",
    );
    // One that writes at all times, while the other verifies, too.
    vm.run(
        "(while [ ! -e /tmp/enough ]; do dd if=/dev/zero of=/dev/vda bs=4k seek=4096 count=1 conv=fsync 2>/dev/null || \
         touch /tmp/failed; usleep 20000; done) & true",
    );
    // What was answered in its order until then is not in the journal: it is what the driver offers and nobody answered.
    let found = |line: &str| {
        let waits = line.contains("requests wait, and may have been taken before");
        line.contains("were in flight, and are issued again") || (waits && !line.contains(" 0 requests wait"))
    };
    for kill in 0..kills() {
        std::thread::sleep(Duration::from_millis(1700 + 300 * u64::from(kill % 6)));
        if kill % 2 == 0 {
            server.kill_and_start(&disk, || {});
            continue;
        }
        // The guest writes within this time, and that write ends when nobody is there to say so.
        system.freeze();
        std::thread::sleep(Duration::from_secs(3));
        server.kill_and_start(&disk, || system.thaw());
        assert!(server.says_soon(found), "it found nothing in flight");
    }
    std::thread::sleep(Duration::from_secs(3));
    vm.run("touch /tmp/enough; for i in $(seq 100); do [ -e /tmp/over ] && break; sleep 1; done; [ -e /tmp/over ]");
    vm.run("[ ! -e /tmp/failed ] || { cat /tmp/fio.log; false; }");
    vm.power_off();
    assert!(server.alive());
}
