//! SIGBUS that has nothing to do with a window, or comes where memory is refused. A program of its own: it starts processes, which hold copies of every descriptor
//! for a moment.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nvme_linux::memory::{MemoryFile, Trusted, failures};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

fn memfd() -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 4096).unwrap();
    fd
}

fn window() -> nvme_mem::Window {
    MemoryFile::open(memfd(), &Trusted::new()).unwrap().map(0, 4096).unwrap()
}

/// Runs one of the tests below, each of which dies.
fn dies_of(test: &str) -> Option<i32> {
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program).args(["--exact", "--ignored", test]).output().unwrap().status;
    status.signal()
}

#[test]
fn a_fault_outside_the_windows_ends_the_process_as_before() {
    assert_eq!(dies_of("child_that_faults_elsewhere"), Some(7));
    assert_eq!(dies_of("child_that_is_sent_the_signal"), Some(7));
}

/// Whether the test's process ends well.
fn lives_through(test: &str) {
    let program = std::env::current_exe().unwrap();
    let out = Command::new(program).args(["--exact", "--ignored", "--nocapture", test]).output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_fault_is_mended_where_the_kernel_commits_no_more_memory() {
    lives_through("child_that_is_refused_memory");
}

#[test]
#[ignore = "run by a_fault_is_mended_where_the_kernel_commits_no_more_memory"]
fn child_that_is_refused_memory() {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter,
    };

    let fds: [OwnedFd; 2] = std::array::from_fn(|_| {
        let fd = memfd();
        ftruncate(&fd, 1 << 20).unwrap();
        fd
    });
    let windows: Vec<_> = fds
        .iter()
        .map(|fd| {
            MemoryFile::open(fd.try_clone().unwrap(), &Trusted::new()).unwrap().map(0, 1 << 20).unwrap()
        })
        .collect();
    // A private writable anonymous mapping is refused, as it is at the commit limit of `vm.overcommit_memory=2`.
    let masked = |argument, mask| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), mask).unwrap()
    };
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let rule = SeccompRule::new(vec![masked(2, libc::PROT_WRITE as u64), masked(3, private)]).unwrap();
    let rules = [(libc::SYS_mmap, vec![rule])].into_iter().collect();
    let refuse = SeccompAction::Errno(libc::ENOMEM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
    for fd in &fds {
        ftruncate(fd, 0).unwrap();
    }
    let mut bytes = [1; 0x1000];
    windows[0].read(0x8000, &mut bytes).unwrap();
    assert!(windows[0].failed() && bytes == [0; 0x1000]);
    windows[1].fill(0, 1 << 20, 7).unwrap();
    windows[1].read(0, &mut bytes).unwrap();
    assert!(windows[1].failed());
}

#[test]
#[ignore = "run by a_fault_outside_the_windows_ends_the_process_as_before"]
fn child_that_faults_elsewhere() {
    failures().unwrap();
    let _other = window();
    let fd = memfd();
    let unguarded = nvme_linux::clientmem::map_shared(fd.as_fd(), 0, 4096).unwrap();
    ftruncate(&fd, 0).unwrap();
    let _ = unguarded.load32(0);
}

#[test]
#[ignore = "run by a_fault_outside_the_windows_ends_the_process_as_before"]
fn child_that_is_sent_the_signal() {
    failures().unwrap();
    let _window = window();
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::BUS).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(5));
}
