//! A machine (QEMU, by TCG) whose fio writes and verifies, beside sessions of the program's verifying client, while servers are replaced and killed.
//!
//! What is asserted is that nothing fails, is lost or done twice. How long the longest pause was is printed: it is worth something on a machine that
//! does nothing else (doc/restarts.md).

#![forbid(unsafe_code)]

#[path = "../program/checker.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod checker;
#[path = "../hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
#[path = "../vm/kernel.rs"]
mod kernel;
#[path = "../vm/machine.rs"]
#[expect(dead_code, reason = "the tests with virtual machines use more of it")]
mod machine;
#[path = "../program/manager.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod manager;
#[macro_use]
#[path = "../vm/need.rs"]
#[expect(dead_code, reason = "the tests with virtual machines use more of it")]
mod need;
mod server;
#[path = "../machine/mod.rs"]
#[expect(dead_code, reason = "the tests with virtual machines use more of it")]
mod shared;

use std::time::Duration;

use checker::{Checker, Seen};
use machine::{Machine, Shape};
use manager::{Manager, client};
use server::{Attach, Bench};

/// A number that a variable says, for a longer run.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// The guest writes and verifies, over and over.
fn begin(vm: &mut Machine) {
    vm.run(
        "rm -f /tmp/enough /tmp/over /tmp/longest; (while [ ! -e /tmp/enough ]; do fio --name=v --filename=/dev/vda --size=4m \
         --rw=randwrite --bsrange=4k-64k --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
         --minimal >/tmp/fio.log 2>&1 || touch /tmp/failed; cut -d';' -f5,15,56 /tmp/fio.log | tail -1 >>/tmp/longest; \
         done; touch /tmp/over) & true",
    );
}

/// Until it has ended a round. How many there were, and the longest request of all.
fn end(vm: &mut Machine) -> (usize, Duration) {
    vm.run("touch /tmp/enough; for i in $(seq 100); do [ -e /tmp/over ] && break; sleep 1; done; [ -e /tmp/over ]");
    vm.run("[ ! -e /tmp/failed ] || { cat /tmp/fio.log; false; }");
    let said = vm.run("cat /tmp/longest");
    let rounds = said.lines().filter_map(|line| line.trim().split_once(';'));
    let rounds: Vec<(&str, &str)> = rounds.collect();
    assert!(rounds.iter().all(|(error, _)| *error == "0"), "{said}");
    let longest = rounds.iter().flat_map(|(_, words)| words.split(';')).filter_map(|word| word.parse().ok());
    (rounds.len(), Duration::from_micros(longest.max().unwrap_or_default()))
}

/// In the long form (doc/restarts.md): `NVME_DRV_SESSIONS=16`, and more of `NVME_DRV_UPGRADES` and `NVME_DRV_KILLS`.
#[test]
fn a_machine_and_sessions_beside_it_notice_nothing_of_upgrades_and_of_kills() {
    let needs = needs!();
    let bench = Bench::new();
    let manager = Manager::new(&bench, 1000);
    let (svr, upgrade) = (bench.socket("svr"), bench.socket("upgrade"));
    let sessions = number("NVME_DRV_SESSIONS", 3);
    let guest = "--cap=vbus=soft:mem:16M,serial=guest".to_owned();
    let disks = (0..sessions).map(|n| format!("--cap=vbus=soft:mem:4M,serial=m{n}"));
    let words: Vec<String> = [svr, upgrade, guest].into_iter().chain(disks).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let disk = Attach::Fd(bench.create(&["device=guest:n1", "name=guest"]));
    let shape = Shape { fio: true, memory: "512M", ..Shape::default() };
    let mut vm = Machine::boot("beside", needs.kernel, disk, &shape);
    // Bounded, so that they leave the machine some of the processors.
    let session = |n| client(&bench, &[&format!("device=m{n}:n1"), &format!("name=vm{n}"), "iops=1000"]);
    let checkers: Vec<Checker> = (0..sessions).map(|n| Checker::start(session(n), 8)).collect();
    let longest = || checkers.iter().map(Checker::take_longest).max().unwrap_or_default();
    let phases =
        [("upgrades", number("NVME_DRV_UPGRADES", 2), false), ("kills", number("NVME_DRV_KILLS", 2), true)];
    for (what, times, killed) in phases {
        begin(&mut vm);
        let _ = longest();
        for time in 0..times {
            std::thread::sleep(Duration::from_millis(700 + 130 * (time % 8)));
            checkers.iter().for_each(|checker| checker.more(20));
            server = if killed {
                manager.restart(&bench, server, &words)
            } else {
                manager.upgrade(&bench, server, &words)
            };
        }
        checkers.iter().for_each(|checker| checker.more(20));
        let (of_checkers, (rounds, of_guest)) = (longest(), end(&mut vm));
        println!(
            "{times} {what}, {sessions} sessions: the longest request took {of_checkers:?}; of the guest's, in {rounds} rounds, {of_guest:?}"
        );
        assert!(rounds > 0, "the guest's jobs never ended");
    }
    vm.power_off();
    let seen: Vec<Seen> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    println!("{} requests of sessions", seen.iter().map(|seen| seen.requests).sum::<u64>());
    assert_eq!(server.stop(), 0);
}
