//! What must not work inside.

use std::os::fd::AsRawFd;

use nvme_linux::sandbox::{Landlock, Options, Sandbox};

use crate::enter;

pub(crate) fn no_open() {
    let report = enter();
    for path in ["/", "/etc/passwd", "/proc/self/mem", "/dev/null", "/dev/shm"] {
        assert!(std::fs::File::open(path).is_err(), "{path}");
    }
    let at = libc::AT_FDCWD;
    assert_eq!(errno!(SYS_openat, at, c"/dev/null".as_ptr(), libc::O_RDONLY), libc::EPERM);
    assert_eq!(errno!(SYS_openat2, at, c"/dev/null".as_ptr(), 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_unlinkat, at, c"/tmp/x".as_ptr(), 0), libc::EPERM);
    assert_eq!(errno!(SYS_ftruncate, 1, 0), libc::EPERM);
    assert_eq!(errno!(SYS_io_uring_setup, 4, 0), libc::EPERM);
    assert_eq!(report.empty_view, report.had_capabilities, "as root the mount view is empty");
    let stat = std::fs::metadata("/etc/passwd");
    assert!(!report.empty_view || stat.is_err());
}

pub(crate) fn no_socket() {
    let (ours, _theirs) = std::os::unix::net::UnixDatagram::pair().expect("pair");
    enter();
    assert_eq!(errno!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0), libc::EPERM);
    assert_eq!(errno!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0), libc::EPERM);
    assert_eq!(
        errno!(SYS_socketpair, libc::AF_INET, libc::SOCK_STREAM, 0, [0i32; 2].as_mut_ptr()),
        libc::EPERM
    );
    let fd = ours.as_raw_fd();
    let address = [0u8; 16];
    assert_eq!(errno!(SYS_connect, fd, address.as_ptr(), 16), libc::EPERM);
    assert_eq!(errno!(SYS_bind, fd, address.as_ptr(), 16), libc::EPERM);
    assert_eq!(errno!(SYS_listen, fd, 1), libc::EPERM);
    assert_eq!(errno!(SYS_sendto, fd, address.as_ptr(), 1, 0, address.as_ptr(), 16), libc::EPERM);
    assert_eq!(errno!(SYS_sendto, fd, address.as_ptr(), 1, 0, 0usize, 0), 0, "to its own peer");
    assert_eq!(errno!(SYS_setsockopt, fd, libc::IPPROTO_TCP, 1, address.as_ptr(), 4), libc::EPERM);
}

pub(crate) fn no_exec_memory() {
    enter();
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    assert_eq!(errno!(SYS_mmap, 0, 4096, libc::PROT_READ | libc::PROT_EXEC, anonymous, -1, 0), libc::EPERM);
    assert_eq!(errno!(SYS_mmap, 0, 4096, libc::PROT_READ, anonymous, -1, 0), 0);
    let page = vec![0u8; 8192];
    let page = page.as_ptr() as usize & !4095;
    assert_eq!(errno!(SYS_mprotect, page, 4096, libc::PROT_READ | libc::PROT_EXEC), libc::EPERM);
    assert_eq!(errno!(SYS_mprotect, page, 4096, libc::PROT_READ | libc::PROT_WRITE), 0);
    assert_eq!(errno!(SYS_pkey_mprotect, page, 4096, libc::PROT_EXEC, -1), libc::EPERM);
    assert_eq!(errno!(SYS_personality, libc::READ_IMPLIES_EXEC), libc::EPERM);
    assert_eq!(errno!(SYS_mremap, page, 4096, 4096, 0), libc::EPERM);
}

pub(crate) fn no_odd_control() {
    enter();
    assert_eq!(errno!(SYS_io_uring_register, 9999, 16, 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_SETFL, libc::O_APPEND), libc::EPERM);
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_SETOWN, 1), libc::EPERM);
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_GETFL), 0);
    assert_eq!(errno!(SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr()), libc::EPERM);
    assert_eq!(errno!(SYS_prctl, libc::PR_SET_DUMPABLE, 1), libc::EPERM);
    assert_eq!(errno!(SYS_prctl, libc::PR_SET_NAME, c"worker".as_ptr()), 0);
    assert_eq!(errno!(SYS_seccomp, 1, 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, 0), libc::EPERM);
}

/// The rest of `io_uring_register`'s requests: 8 is of files, 15 of buffers and tags, 17 of new rings' buffers.
pub(crate) fn no_pins() {
    let register = |request: i32| errno!(SYS_io_uring_register, 9999, request, 0, 0);
    let prepared = Sandbox::prepare(Options { pins: true, ..Options::default() }).expect("prepare");
    prepared.seal().expect("the filter");
    // It reaches the kernel, which knows no such ring; and nothing else does.
    assert_eq!(register(16), libc::EBADF);
    assert_eq!([0, 8, 11, 12, 15, 17, 20].map(register), [libc::EPERM; 7]);
    assert_eq!(errno!(SYS_io_uring_setup, 1, 0), libc::EPERM);
}

pub(crate) fn no_thread() {
    enter();
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    assert_eq!(errno!(SYS_clone3, 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0), libc::EPERM);
}

pub(crate) fn no_signal() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero().get();
    enter();
    assert_eq!(errno!(SYS_kill, parent, 0), libc::EPERM);
    assert_eq!(errno!(SYS_tgkill, parent, parent, 0), libc::EPERM);
    assert_eq!(errno!(SYS_tgkill, own, own, 0), 0);
}

pub(crate) fn no_privileges() {
    let was_root = rustix::process::geteuid().is_root();
    let prepared = Sandbox::prepare(Options::default()).expect("prepare");
    assert_eq!(prepared.report().had_capabilities, was_root);
    let sets = rustix::thread::capabilities(None).expect("capabilities");
    assert!(sets.permitted.is_empty() && sets.effective.is_empty() && sets.inheritable.is_empty());
    assert!(rustix::thread::no_new_privs().expect("no_new_privs"));
    let dumpable = rustix::process::dumpable_behavior().expect("dumpable");
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    if was_root {
        use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};
        for capability in CapabilitySet::all().iter() {
            assert!(!matches!(capability_is_in_bounding_set(capability), Ok(true)), "{capability:?}");
        }
    }
    prepared.seal().expect("seal");
}

/// Before the filter is there, Landlock (or the empty mount view) denies on its own.
pub(crate) fn landlock_alone() {
    let report = Sandbox::prepare(Options::default()).expect("prepare").report();
    if matches!(report.landlock, Landlock::Full | Landlock::Partial) || report.empty_view {
        assert!(std::fs::File::open("/etc/passwd").is_err());
        assert!(std::fs::read_dir("/tmp").is_err());
        let bind = std::os::unix::net::UnixListener::bind("/tmp/nvme-sandbox-test");
        assert!(bind.is_err());
    }
    if report.landlock == Landlock::Full {
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
    }
}

pub(crate) fn other_threads() {
    let prepared = Sandbox::prepare(Options::default()).expect("prepare");
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let worker = std::thread::spawn(move || {
        wait.recv().expect("go");
        errno!(SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY)
    });
    prepared.seal().expect("seal");
    go.send(()).expect("go");
    assert_eq!(worker.join().expect("join"), libc::EPERM);
}

pub(crate) fn too_late() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let worker = std::thread::spawn(move || wait.recv().is_err());
    let error = Sandbox::enter(Options::default()).expect_err("there is another thread");
    assert!(error.to_string().contains("there are 2 threads"), "{error}");
    drop(stop);
    assert!(worker.join().expect("join"));
}

pub(crate) fn exec() {
    enter();
    errno!(SYS_execve, c"/bin/true".as_ptr(), 0, 0);
}

pub(crate) fn ptrace() {
    enter();
    errno!(SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0);
}

pub(crate) fn peek() {
    enter();
    errno!(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0);
}

pub(crate) fn unshare() {
    enter();
    errno!(SYS_unshare, libc::CLONE_NEWUSER);
}

pub(crate) fn setuid() {
    enter();
    errno!(SYS_setuid, 1);
}

pub(crate) fn fork() {
    enter();
    // Where there is no fork, clone is all that is left of it, and is refused.
    #[cfg(target_arch = "x86_64")]
    errno!(SYS_fork);
    #[cfg(not(target_arch = "x86_64"))]
    errno!(SYS_unshare, libc::CLONE_NEWUSER);
}
