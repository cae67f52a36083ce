//! SIGBUS that has nothing to do with a window. A program of its own: it starts processes, which hold copies of every descriptor
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
