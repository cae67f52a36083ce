//! Two builds of the server take over from each other, and take up what the other left; and one whose controllers complete out of order is
//! killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nvme_client::{Client, Options};

use crate::checker::Checker;
use crate::manager::{Manager, client};
use crate::server::{Bench, Server};

/// What runs is that program.
fn assert_runs(server: &Server, program: &Path) {
    let exe = std::fs::read_link(format!("/proc/{}/exe", server.pid())).unwrap();
    assert_eq!(exe, program.canonicalize().unwrap());
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// The build that NVME_DRV_OTHER names.
fn other_build() -> PathBuf {
    PathBuf::from(std::env::var_os("NVME_DRV_OTHER").expect("NVME_DRV_OTHER names a program"))
}

/// Some disks, one for each session, half of them in files of that folder.
fn disks(sessions: u64, folder: &Path) -> Vec<String> {
    let disk = |n| match n % 2 {
        0 => format!("--cap=vbus=soft:mem:4M,serial=m{n}"),
        _ => {
            let path = folder.join(format!("disk{n}"));
            std::fs::write(&path, vec![0; 4 << 20]).unwrap();
            format!("--cap=vbus=soft:{},serial=m{n}", path.display())
        }
    };
    (0..sessions).map(disk).collect()
}

/// In the long form (doc/restarts.md): `NVME_DRV_KILLS=50 NVME_DRV_SESSIONS=16`.
#[test]
#[ignore = "it needs a build with the feature `twin`, which NVME_DRV_OTHER names: cargo xtask test has one"]
fn a_server_whose_controllers_complete_out_of_order_is_killed_and_nothing_is_lost_or_done_twice() {
    let bench = Bench::new();
    bench.use_program(&other_build());
    let manager = Manager::new(&bench, 1000);
    let (kills, sessions) = (number("NVME_DRV_KILLS", 6), number("NVME_DRV_SESSIONS", 3));
    let file = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut words = disks(sessions, file.path());
    words.push(bench.socket("svr"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let checkers: Vec<Checker> =
        (0..sessions).map(|n| Checker::start(client(&bench, &[&format!("device=m{n}:n1")]), 8)).collect();
    let mut seed = std::process::id();
    for _ in 0..kills {
        checkers.iter().for_each(|checker| checker.more(50));
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 15)));
        server = manager.restart(&bench, server, &words);
    }
    checkers.iter().for_each(|checker| checker.more(50));
    let seen: Vec<_> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap();
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    let overtaken: u64 = seen.iter().map(|seen| seen.overtaken).sum();
    println!(
        "{kills} kills, {sessions} sessions, {requests} requests, {overtaken} of them overtaken; the longest took {longest:?}"
    );
    assert!(overtaken > requests / 10, "it is no build of the twin's");
    assert_eq!(server.stop(), 0);
}

/// In the long form (doc/restarts.md): `NVME_DRV_UPGRADES=100 NVME_DRV_SESSIONS=16`. Every fourth time the one that has taken over is killed, and
/// the other build is started.
#[test]
#[ignore = "it needs another build, which NVME_DRV_OTHER names: cargo xtask test has one"]
fn two_builds_take_over_from_each_other_and_take_up_what_the_other_left() {
    let builds = [PathBuf::from(env!("CARGO_BIN_EXE_nvme-drv")), other_build()];
    let [own, other] = [&builds[0], &builds[1]].map(|path| std::fs::read(path).unwrap());
    assert!(own != other, "it is this build");
    let bench = Bench::new();
    let manager = Manager::new(&bench, 1000);
    let (upgrades, sessions) = (number("NVME_DRV_UPGRADES", 4), number("NVME_DRV_SESSIONS", 3));
    let file = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut words = disks(sessions, file.path());
    words.extend(["svr", "upgrade"].map(|name| bench.socket(name)));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let checkers: Vec<Checker> = (0..sessions)
        .map(|n| {
            let session = bench.create(&[&format!("device=m{n}:n1")]);
            Checker::start(Client::from_fd(session, &Options::default()).unwrap(), 8)
        })
        .collect();
    let mut builds = builds.iter().cycle().skip(1);
    for upgrade in 1..=upgrades {
        checkers.iter().for_each(|checker| checker.more(20));
        let build = builds.next().unwrap();
        bench.use_program(build);
        server = manager.upgrade(&bench, server, &words);
        assert_runs(&server, build);
        if upgrade % 4 == 0 {
            checkers.iter().for_each(|checker| checker.more(20));
            let build = builds.next().unwrap();
            bench.use_program(build);
            server = manager.restart(&bench, server, &words);
            assert_runs(&server, build);
        }
    }
    checkers.iter().for_each(|checker| checker.more(20));
    let seen: Vec<_> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap();
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    println!("{upgrades} upgrades, {sessions} sessions, {requests} requests; the longest took {longest:?}");
    assert_eq!(server.stop(), 0);
}
