//! The server where calls are missing or denied: kernels that are older, units and containers that know less.
//!
//! A thread puts a filter on itself and starts the server, which inherits it.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use nvme_client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::disk;
use crate::server::{Bench, wait_until};

/// What the server uses where it is there, and is newer than Linux 4.18 or often not in a container's list. Calls of one
/// kind come and go together.
const OPTIONAL: &[&[i64]] = &[
    &[libc::SYS_epoll_pwait2],
    &[libc::SYS_close_range],
    &[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self],
    &[libc::SYS_io_setup],
    &[libc::SYS_io_submit, libc::SYS_io_getevents],
    &[libc::SYS_pwritev2, libc::SYS_preadv2],
    &[libc::SYS_io_uring_setup],
    &[libc::SYS_io_uring_enter],
    &[libc::SYS_io_uring_register],
    &[libc::SYS_pidfd_open, libc::SYS_pidfd_getfd],
    &[libc::SYS_openat2],
    &[libc::SYS_rseq],
    &[libc::SYS_membarrier],
];

/// Calls that fail: all of a kind, or those of the rules.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn whole(calls: &[i64]) -> Calls {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Starts a server over that disk, for which these calls have that error.
fn start(bench: &Bench, disk: &str, calls: &Calls, error: i32) -> Child {
    let rules = calls.clone();
    let error = SeccompAction::Errno(error.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, error, arch).unwrap().try_into().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-drv"));
    command.args(["-v", disk, &bench.socket("svr")]).stdin(Stdio::null());
    command.stderr(File::create(bench.path("log")).unwrap());
    // The filter is the thread's, and goes with it.
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            apply_filter(&filter).unwrap();
            command.spawn().unwrap()
        });
        starter.join().unwrap()
    })
}

fn said(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("log")).unwrap()
}

fn is_served(calls: &[i64], error: i32) {
    let bench = Bench::new();
    serves(&bench, &bench.disk(), &whole(calls), error);
}

/// A client is served from that disk, and the server ends in order.
fn serves(bench: &Bench, disk: &str, calls: &Calls, error: i32) {
    let mut server = start(bench, disk, calls, error);
    wait_until("it is ready, or ends", || {
        said(bench).contains("partitions") || server.try_wait().unwrap().is_some()
    });
    assert_eq!(server.try_wait().unwrap(), None, "without {calls:?}: {}", said(bench));
    let session = bench.create(&["device=partlabel:attack"]);
    let mut client = Client::from_fd(session, &Options::default()).unwrap();
    let mut block = [0; 4096];
    for round in 1..=20 {
        client.write(0, &[round; 4096]).unwrap();
        client.flush().unwrap();
        client.read(0, &mut block).unwrap();
        assert_eq!(block, [round; 4096]);
    }
    drop(client);
    let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0), "{}", said(bench));
}

#[test]
fn a_client_is_served_where_each_newer_call_is_missing() {
    for calls in OPTIONAL {
        is_served(calls, libc::ENOSYS);
    }
    is_served(&OPTIONAL.concat(), libc::ENOSYS);
}

#[test]
fn a_client_is_served_where_each_newer_call_is_denied() {
    for calls in OPTIONAL {
        is_served(calls, libc::EPERM);
    }
    is_served(&OPTIONAL.concat(), libc::EPERM);
}

#[test]
fn where_there_is_no_io_uring_an_image_on_a_disk_is_served_by_threads_with_a_line() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = folder.path().join("disk");
    std::fs::write(&image, disk::image(512)).unwrap();
    if rustix::fs::statfs(&image).unwrap().f_type == libc::TMPFS_MAGIC {
        eprintln!("skipped: {} is in memory, and is mapped", image.display());
        return;
    }
    // IORING_REGISTER_IOWQ_MAX_WORKERS: rings can be restricted since Linux 5.10, and this is there since 5.15.
    let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 19).unwrap();
    let workers = Calls::from([(libc::SYS_io_uring_register, vec![SeccompRule::new(vec![is]).unwrap()])]);
    let all = [
        (whole(&[libc::SYS_io_uring_setup]), libc::ENOSYS),
        (whole(&[libc::SYS_io_uring_setup]), libc::EPERM),
        (whole(&[libc::SYS_io_uring_enter]), libc::EPERM),
        (workers, libc::EINVAL),
    ];
    for (calls, error) in all {
        let bench = Bench::new();
        let word = format!("--cap=vbus=soft:{}", image.display());
        serves(&bench, &word, &calls, error);
        let log = said(&bench);
        assert!(log.contains("no io_uring (") && log.contains("served by threads"), "{error}: {log}");
        assert!(log.contains("engine=threads"), "{error}: {log}");
        // Who asks for it by name gets nothing else.
        let named = format!("{word},engine=uring");
        let status = start(&bench, &named, &calls, error).wait().unwrap();
        assert!(!status.success() && said(&bench).contains("engine=uring: "), "{status}: {}", said(&bench));
    }
}

#[test]
fn a_call_that_cannot_be_done_without_is_named_before_anything_is_served() {
    for (call, name) in [
        (libc::SYS_statx, "statx"),
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_getrandom, "getrandom"),
        (libc::SYS_seccomp, "seccomp"),
    ] {
        for error in [libc::ENOSYS, libc::EPERM] {
            let bench = Bench::new();
            let mut server = start(&bench, &bench.disk(), &whole(&[call]), error);
            assert_eq!(server.wait().unwrap().code(), Some(1), "{name}: {}", said(&bench));
            assert!(said(&bench).contains(name), "{name}: {}", said(&bench));
        }
    }
}
