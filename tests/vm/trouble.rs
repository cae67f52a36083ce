//! Machines that die, and memory that comes while it is busy.

use std::time::Duration;

use crate::disk::Disk;
use crate::machine::{Machine, Shape};
use crate::scenarios::golden_is_good;
use crate::server::{Server, What, peer};

/// Waits until the guest has lost its disk, or has it.
const GONE: &str = "i=0; while [ -e /sys/block/vda ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; [ ! -e /sys/block/vda ]";
const THERE: &str =
    "i=0; while [ ! -e /dev/vda ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; [ -e /dev/vda ]";

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

#[test]
fn a_disk_is_unplugged_and_plugged_again_on_one_chardev() {
    let needs = needs!();
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let shape = Shape { more: &["port"], ..Shape::default() };
    let mut vm = Machine::boot("vm", needs.kernel, server.session(What::Scratch), &shape);
    for round in 0..3 {
        vm.run(&format!("echo round {round} | dd of=/dev/vda conv=fsync 2>/dev/null"));
        vm.monitor(&[&format!(r#"{{"execute":"device_del","arguments":{{"id":"disk{round}"}}}}"#)]);
        vm.run(GONE);
        // QEMU keeps the connection, and begins again on it: while the old device is going, its chardev is in use.
        let arguments = format!(
            r#"{{"driver":"vhost-user-blk-pci","chardev":"disk","bus":"slot1","id":"disk{}"}}"#,
            round + 1
        );
        let add = format!(r#"{{"execute":"device_add","arguments":{arguments}}}"#);
        let mut added = vm.try_monitor(&[&add]);
        for _ in 0..300 {
            if added.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            added = vm.try_monitor(&[&add]);
        }
        added.unwrap();
        vm.run(THERE);
        assert_eq!(vm.run("head -c7 /dev/vda"), format!("round {round}"));
    }
    vm.run("dd if=/dev/urandom of=/tmp/sent bs=64k count=16 2>/dev/null; dd if=/tmp/sent of=/dev/vda bs=64k conv=fsync 2>/dev/null");
    vm.run("echo 3 >/proc/sys/vm/drop_caches; head -c 1048576 /dev/vda | cmp - /tmp/sent");
    vm.power_off();
    if !peer() {
        let said = server.said();
        assert!(!said.iter().any(|line| line.contains("refused")), "{said:#?}");
        let starts = said.iter().filter(|line| line.contains("another session starts on its connection"));
        assert_eq!(starts.count(), 3, "{said:#?}");
    }
}

/// What the server says, as soon as it does.
fn says(server: &Server, what: &str) -> String {
    for _ in 0..600 {
        if let Some(line) = server.said().into_iter().find(|line| line.contains(what)) {
            return line;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not said: {what}; but {:#?}", server.said());
}

#[test]
fn a_machine_whose_memory_is_not_shared_is_told_what_it_needs() {
    let needs = needs!();
    if peer() {
        return;
    }
    let disk = Disk::new();
    let mut server = Server::start(&disk, false);
    let shape = Shape { more: &["private"], ..Shape::default() };
    // Its guest waits for its disk for ever.
    let vm = Machine::begin("vm", needs.kernel, server.session(What::Scratch), &shape);
    let line = says(&server, "starting ring 0 refused");
    assert!(line.contains("registered no memory") && line.contains("share=on"), "{line}");
    drop(vm);
    assert!(server.alive());
}

#[test]
fn memory_in_more_files_than_a_session_may_have_is_said_with_what_raises_that() {
    let needs = needs!();
    if peer() {
        return;
    }
    let disk = Disk::new();
    let server = Server::start(&disk, false);
    let hint = "raise ds-max: each NUMA node and each DIMM of a QEMU is one";
    // Plugged in: QEMU goes on without it.
    let shape = Shape { more: &["hotplug"], ..Shape::default() };
    let mut vm = Machine::boot("plugged", needs.kernel, server.session(What::Scratch), &shape);
    for n in 1..3 {
        let object = format!(
            r#"{{"execute":"object-add","arguments":{{"qom-type":"memory-backend-memfd","id":"m{n}","size":134217728,"share":true}}}}"#
        );
        let device = format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"pc-dimm","id":"d{n}","memdev":"m{n}"}}}}"#
        );
        vm.monitor(&[&object, &device]);
    }
    let line = says(&server, "too many dataspaces");
    assert!(line.contains("(3, and 2 at most)") && line.contains(hint), "{line}");
    vm.run("echo here | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null; head -c4 /dev/vda | grep here");
    vm.power_off();
    // From the start: QEMU's disk does not start.
    let shape = Shape { memory: "288M", more: &["numa"], ..Shape::default() };
    drop(server);
    let server = Server::start(&disk, false);
    let vm = Machine::begin("numa", needs.kernel, server.session(What::Scratch), &shape);
    let line = says(&server, "too many dataspaces");
    assert!(line.contains("(3, and 2 at most)") && line.contains(hint), "{line}");
    drop(vm);
}
