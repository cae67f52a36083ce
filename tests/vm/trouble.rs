//! Machines that die, and memory that comes while it is busy.

use std::time::Duration;

use crate::disk::Disk;
use crate::machine::{Machine, Shape};
use crate::scenarios::golden_is_good;
use crate::server::{Server, What};

#[test]
fn a_machine_killed_in_mid_io_frees_its_device_and_hurts_nobody() {
    let needs = needs!();
    let disk = Disk::new();
    let mut server = Server::start(&disk, false);
    let shape = Shape::default();
    let mut reader = Machine::boot("reader", needs.kernel, server.session(What::GoldenReadOnly), &shape);
    let mut writer = Machine::boot("writer", needs.kernel, server.session(What::Scratch), &shape);
    reader.run("(while :; do dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null || echo BAD; echo 3 >/proc/sys/vm/drop_caches; done) &");
    writer.run("(while :; do dd if=/dev/zero of=/dev/vda bs=64k 2>/dev/null; done) & (while :; do dd if=/dev/vda of=/dev/null bs=4k 2>/dev/null; done) &");
    std::thread::sleep(Duration::from_secs(2));
    writer.kill();
    assert!(server.alive());
    let mut second = Machine::boot("second", needs.kernel, server.session(What::Scratch), &shape);
    second.run("echo again | dd of=/dev/vda conv=fsync 2>/dev/null && head -c5 /dev/vda | grep again");
    second.power_off();
    reader.run("kill $! 2>/dev/null; true");
    golden_is_good(&mut reader, &disk);
    reader.power_off();
    assert!(server.alive());
    assert!(!server.said().iter().any(|line| line.contains("panicked")));
}

#[test]
fn memory_is_plugged_in_under_load() {
    let needs = needs!();
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let shape = Shape { memory: "256M", cpus: 2, more: &["hotplug"], ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.session(What::GoldenReadOnly), &shape);
    vm.run("mount -t ext4 -o ro /dev/vda /mnt; cd /mnt; sha256sum file >/tmp/sum");
    vm.run("(while [ ! -e /tmp/stop ]; do echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sum >/dev/null || echo bad >>/tmp/bad; done) &");
    let total =
        |vm: &mut Machine| -> u64 { vm.run("awk '/MemTotal/ {print $2}' /proc/meminfo").parse().unwrap() };
    let before = total(&mut vm);
    // One more dataspace: as many as a session may register where nobody said otherwise.
    let object = r#"{"execute":"object-add","arguments":{"qom-type":"memory-backend-memfd","id":"m1","size":536870912,"share":true}}"#;
    let device = r#"{"execute":"device_add","arguments":{"driver":"pc-dimm","id":"d1","memdev":"m1"}}"#;
    vm.monitor(&[object, device]);
    let mut after = total(&mut vm);
    for _ in 0..100 {
        if after > before + 500_000 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        after = total(&mut vm);
    }
    assert!(after > before + 500_000, "{before} KiB, then {after} KiB");
    // The page cache lies in the new memory as well: most of what was there is taken first.
    vm.run("mkdir /tmp/fill; mount -t tmpfs -o size=400m none /tmp/fill; head -c 300000000 /dev/zero >/tmp/fill/all");
    vm.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sum; rm /tmp/fill/all");
    vm.run("touch /tmp/stop; wait; [ ! -e /tmp/bad ]");
    vm.run(&format!("grep {} /tmp/sum", disk.hash));
    vm.power_off();
    let said = server.said();
    assert!(!said.iter().any(|line| line.contains("refused")), "{said:#?}");
}
