//! What goes on working inside, and what a server has there.

use std::env;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use nvme_linux::sandbox::{Options, Sandbox};

use crate::enter;

pub(crate) fn own_calls() {
    use nvme_linux::events::{Account, CallNotify, Doorbell, Epoll, EventFd, Events, Interest, now};
    use nvme_linux::logger::{Logger, Verbosity};

    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    let (mut heard, log_pipe) = std::io::pipe().expect("pipe");
    let logger = Logger::new(log_pipe.into(), Verbosity::Normal);
    // Whoever reads it waits: another thread looks at it first.
    let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("eventfd");
    let full = rustix::event::eventfd(u32::MAX, rustix::event::EventfdFlags::empty()).expect("eventfd");
    rustix::io::write(&full, &(u64::MAX - 1 - u64::from(u32::MAX)).to_ne_bytes()).expect("fill");
    let prepared = Sandbox::prepare(Options::default()).expect("prepare the sandbox");
    nvme_linux::events::guard_calls().expect("guard");
    prepared.seal().expect("enter the sandbox");
    log::Log::log(
        &logger,
        &log::Record::builder().level(log::Level::Warn).args(format_args!("hello")).build(),
    );
    let mut line = [0; 64];
    let length = heard.read(&mut line).expect("the log");
    assert_eq!(&line[..length], b"nvme-drv: warning: hello\n");
    let notify = CallNotify::new(Some(call.try_clone().expect("dup")), None, &Account::new("session"))
        .expect("an eventfd");
    nvme_platform::Notify::used(&notify);
    assert_eq!(rustix::io::read(&call, &mut [0; 8]), Ok(8));
    // By a write that is interrupted, and by a submission when there is no time to lose any more.
    nvme_linux::events::guard_this_thread();
    let notify = CallNotify::new(Some(full), None, &Account::new("session")).expect("an eventfd");
    (0..20).for_each(|_| nvme_platform::Notify::used(&notify));
    let start = now();
    theirs.write_all(b"x").expect("write to a socket");
    let epoll = Epoll::new().expect("epoll");
    epoll.add(&ours, 1, Interest::Read).expect("epoll add");
    epoll.add(EventFd::new().expect("eventfd"), 2, Interest::ReadEdge).expect("epoll add");
    epoll.add(Doorbell::new().expect("doorbell"), 3, Interest::ReadEdge).expect("epoll add");
    let mut events = Events::new(4);
    epoll.wait(&mut events, None).expect("epoll wait");
    assert_eq!(events.iter().next().map(|event| event.token), Some(1));
    ours.read_exact(&mut [0]).expect("read from a socket");
    ours.set_nonblocking(true).expect("non-blocking by ioctl");

    let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::fs::fallocate(&memory, rustix::fs::FallocateFlags::empty(), 0, 8192).expect("fallocate");
    rustix::fs::fcntl_add_seals(&memory, rustix::fs::SealFlags::SHRINK).expect("seal");
    assert_eq!(rustix::fs::fstat(&memory).expect("fstat").st_size, 8192);
    rustix::fs::fstatfs(&memory).expect("fstatfs");
    let file = std::fs::File::from(memory.try_clone().expect("dup"));
    assert_eq!(file.metadata().expect("statx").len(), 8192);
    use rustix::mm::{MapFlags, ProtFlags};
    // SAFETY: a new mapping, of a file that has the length, at a place of the kernel's choice.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            8192,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            memory.as_fd(),
            0,
        )
    }
    .expect("mmap");
    // SAFETY: the mapping was made above, and nothing refers to it.
    unsafe { rustix::mm::munmap(at, 8192) }.expect("munmap");
    let mut large = vec![1u8; 64 << 20];
    large.resize(128 << 20, 2);
    assert_eq!(large.last(), Some(&2));
    let random = std::collections::HashMap::from([(1, 2)]);
    assert_eq!(random.get(&1), Some(&2));
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert!((now() - start).as_millis() >= 1);
    let (pair, _other) = std::os::unix::net::UnixStream::pair().expect("a session's socket pair");
    rustix::net::sockopt::socket_peercred(&pair).expect("credentials");
}

#[expect(clippy::zombie_processes, reason = "waiting for a process is not possible inside")]
pub(crate) fn client_memory() {
    use nvme_linux::memory::{ImageAccess, ImageFile, MemoryFile, Trusted, failures};
    use nvme_linux::socket::Acceptor;
    use rustix::fs::{MemfdFlags, memfd_create};

    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("listener");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let _client = std::os::unix::net::UnixStream::connect(&path).expect("connect");
    let image = tempfile::tempfile().expect("image");
    image.set_len(1 << 20).expect("image");
    drop(directory);
    let shared = tempfile::NamedTempFile::new_in("/dev/shm").expect("memory");
    shared.as_file().set_len(8192).expect("memory");
    let memory = OwnedFd::from(shared.reopen().expect("memory"));
    // Somebody outside who shrinks it on a word, and removes it, which cannot be done from inside.
    let shrink = format!("read _; : > {0}; rm {0}", shared.path().display());
    let mut outside =
        Command::new("/bin/sh").args(["-c", &shrink]).stdin(Stdio::piped()).spawn().expect("shell");
    let mut word = outside.stdin.take().expect("pipe");
    let mut trusted = Trusted::new();
    trusted.add("ds", memory.try_clone().expect("dup")).expect("trusted");
    let failures = failures().expect("handler");

    let prepared = Sandbox::prepare(Options::default()).expect("prepare");
    let acceptor = Acceptor::new().expect("thread");
    nvme_linux::dispose::start().expect("thread");
    prepared.seal().expect("seal");

    assert!(acceptor.accept(&listener).expect("accept").is_some());
    let file = MemoryFile::open(memory.try_clone().expect("dup"), &trusted).expect("the trusted dataspace");
    let window = file.map(0, 8192).expect("map");
    window.write(4096, b"x").expect("write");
    word.write_all(b"\n").expect("word");
    while file.size().expect("size") != 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(window.load16(4096), Ok(0));
    assert!(window.failed() && failures.take());
    let stranger = memfd_create("stranger", MemfdFlags::CLOEXEC).expect("memfd");
    assert!(MemoryFile::open(stranger, &trusted).is_err());
    drop((file, window));
    let image = ImageFile::open(image.into(), ImageAccess::ReadWrite).expect("image");
    image.window().write(0, b"x").expect("write");
    image.zero(0, 1 << 20).expect("zero");
    image.discard(0, 1 << 20).expect("discard");
    image.flush(0, 512).expect("flush");
    image.flush(0, 1 << 20).expect("flush");
}

pub(crate) fn limits() {
    use rustix::process::{Resource, getrlimit};

    let hard = getrlimit(Resource::Nofile).maximum;
    let report = Sandbox::prepare(Options::default()).expect("prepare").report();
    assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    assert_eq!(getrlimit(Resource::Nofile).current, hard);
    assert_eq!(report.descriptors, hard.unwrap_or(u64::MAX));
}

pub(crate) fn panics() {
    enter();
    let caught = std::panic::catch_unwind(|| {
        let empty: Vec<u8> = Vec::new();
        empty[std::hint::black_box(0)]
    });
    assert!(caught.is_err());
}

pub(crate) fn descriptors() {
    let (kept, closed) = (std::fs::File::open("/").expect("open"), std::fs::File::open("/").expect("open"));
    let (kept, closed) = (OwnedFd::from(kept), std::os::fd::IntoRawFd::into_raw_fd(OwnedFd::from(closed)));
    // SAFETY: `closed` has no owner any more, and no other descriptor above 2 has one in this process.
    unsafe { nvme_linux::sandbox::close_all_but(&[kept.as_raw_fd()]) };
    assert!(rustix::io::fcntl_getfd(&kept).is_ok());
    assert_eq!(errno!(SYS_fcntl, closed, libc::F_GETFD), libc::EBADF);
    assert_eq!(errno!(SYS_fcntl, 2, libc::F_GETFD), 0);

    // The same by the convention: 3 and a word's descriptor live, what lies between does not.
    let open = || std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/").expect("open"));
    drop(kept);
    let (first, second, third) = (open(), open(), open());
    assert_eq!((first, second, third), (3, 4, 5));
    // SAFETY: there is no other thread.
    unsafe { env::set_var("LISTEN_PID", std::process::id().to_string()) };
    // SAFETY: likewise.
    unsafe { env::set_var("LISTEN_FDS", "1") };
    // SAFETY: likewise.
    unsafe { env::set_var("LISTEN_FDNAMES", "vbus") };
    let words = ["ram=file:fd=5".parse().expect("a word")];
    // SAFETY: there is no other thread, and the three descriptors above have no owner.
    let inherited = unsafe { nvme_linux::caps::Inherited::take(&words) }.expect("take");
    assert_eq!(inherited.listen[0].name, "vbus");
    assert_eq!(inherited.listen[0].fd.as_raw_fd(), 3);
    let flags = rustix::io::fcntl_getfd(&inherited.listen[0].fd).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(errno!(SYS_fcntl, 4, libc::F_GETFD), libc::EBADF);
    // SAFETY: duplicates nothing that is owned here: asks only whether 5 is open.
    assert_eq!(errno!(SYS_fcntl, 5, libc::F_GETFD), 0);
    assert!(env::var_os("LISTEN_FDS").is_none() && env::var_os("LISTEN_FDNAMES").is_none());

    // A word whose descriptor is not open.
    let words = ["ram=file:fd=77".parse().expect("a word")];
    drop(inherited);
    // SAFETY: there is no other thread, and nothing above 2 is owned any more.
    let error = unsafe { nvme_linux::caps::Inherited::take(&words) }.expect_err("77 is not open");
    assert!(error.to_string().starts_with("descriptor 77 (`ram`) is not open"), "{error}");
}
