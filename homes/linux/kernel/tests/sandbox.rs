//! The sandbox, proven from inside: each test starts this program anew as a child of one thread, which enters the
//! sandbox, tries what must not work, and ends with 0 when it did not. Run without a harness of its own, because
//! the sandbox wants a process with one thread.
#![expect(unsafe_code, reason = "tries system calls that must not work")]

use std::env;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};

use nvme_linux::sandbox::{Landlock, Options, Report, Sandbox};

/// What the child does, by name, and how it must end.
type Case = (&'static str, fn(), End);

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// With 0.
    Good,
    /// By SIGSYS.
    Killed,
}

const CASES: &[Case] = &[
    ("the_server_s_own_calls_go_on_working", own_calls, End::Good),
    ("client_memory_images_and_listeners_go_on_working", client_memory, End::Good),
    ("no_file_can_be_opened", no_open, End::Good),
    ("no_socket_can_be_made_or_connected", no_socket, End::Good),
    ("no_memory_can_be_made_executable", no_exec_memory, End::Good),
    ("descriptors_flags_and_devices_are_restricted", no_odd_control, End::Good),
    ("no_thread_or_process_can_be_started", no_thread, End::Good),
    ("nobody_else_can_be_signalled", no_signal, End::Good),
    ("capabilities_and_privileges_are_gone", no_privileges, End::Good),
    ("no_core_is_dumped_and_descriptors_are_many", limits, End::Good),
    ("landlock_alone_denies_paths", landlock_alone, End::Good),
    ("the_filter_reaches_threads_that_run_already", other_threads, End::Good),
    ("a_second_thread_before_it_is_an_error", too_late, End::Good),
    ("a_panic_can_be_reported_and_unwound", panics, End::Good),
    ("a_kernel_without_landlock_is_good_enough", without_landlock, End::Good),
    ("landlock_that_is_turned_off_is_said_to_be", landlock_turned_off, End::Good),
    ("landlock_denied_from_outside_is_not_taken_for_missing", landlock_denied, End::Good),
    ("a_filter_denied_from_outside_is_said_to_be_and_fatal", seccomp_denied, End::Good),
    ("calls_that_cannot_be_done_without_are_named", calls_needed, End::Good),
    ("a_wait_without_epoll_pwait2_ends_at_its_deadline_and_not_before", coarse_wait_missing, End::Good),
    (
        "a_wait_where_epoll_pwait2_is_denied_ends_at_its_deadline_and_not_before",
        coarse_wait_denied,
        End::Good,
    ),
    ("notifications_come_without_asynchronous_operations", notify_without_submissions, End::Good),
    ("notifications_come_where_submitting_is_denied", notify_with_submitting_denied, End::Good),
    ("descriptors_are_closed_without_close_range", descriptors_without_close_range, End::Good),
    ("descriptors_are_closed_where_close_range_is_denied", descriptors_with_close_range_denied, End::Good),
    ("a_log_is_written_to_a_pipe_without_pwritev2", log_without_pwritev2, End::Good),
    ("a_log_is_written_to_a_pipe_where_pwritev2_is_denied", log_with_pwritev2_denied, End::Good),
    ("inherited_descriptors_that_nobody_named_are_closed", descriptors, End::Good),
    ("running_a_program_ends_the_process", exec, End::Killed),
    ("tracing_a_process_ends_the_process", ptrace, End::Killed),
    ("reading_another_process_ends_the_process", peek, End::Killed),
    ("leaving_the_name_spaces_ends_the_process", unshare, End::Killed),
    ("becoming_another_user_ends_the_process", setuid, End::Killed),
    ("forking_ends_the_process", fork, End::Killed),
];

const CHILD: &str = "NVME_SANDBOX_TEST_CHILD";
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if let Ok(name) = env::var(CHILD) {
        return child(&name);
    }
    let root = rustix::process::geteuid().is_root();
    let filter: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if env::args().any(|word| word == "--list") {
        CASES.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    let users: &[Option<u32>] = if root { &[None, Some(NOBODY)] } else { &[None] };
    for user in users {
        let who = if root && user.is_none() { "root" } else { "an ordinary user" };
        for (name, _, end) in CASES {
            if !filter.is_empty() && !filter.iter().any(|word| name.contains(word.as_str())) {
                continue;
            }
            let output = start(name, *user, true).wait_with_output().expect("the child's end");
            let status = output.status;
            let good = match end {
                End::Good => status.success(),
                End::Killed => status.signal() == Some(libc::SIGSYS),
            };
            println!("test {name} (as {who}) ... {}", if good { "ok" } else { "FAILED" });
            if !good {
                println!("    {status}\n{}", String::from_utf8_lossy(&output.stderr));
                failed += 1;
            }
        }
        let good = others_cannot_look_in(*user);
        println!(
            "test nobody_of_the_same_user_can_read_its_memory (as {who}) ... {}",
            if good { "ok" } else { "FAILED" }
        );
        failed += i32::from(!good);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(name: &str, user: Option<u32>, capable: bool) -> Child {
    // By descriptor: the ordinary user may not be able to reach the path.
    let program = rustix::fs::open(
        env::current_exe().expect("own path"),
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    );
    let program = program.expect("own program");
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.env(CHILD, name).current_dir("/").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    become_user(&mut command, user, capable);
    command.spawn().expect("start the child")
}

/// Root without capabilities is an ordinary user with the number 0.
fn become_user(command: &mut Command, user: Option<u32>, capable: bool) {
    use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

    if let Some(user) = user {
        command.uid(user).gid(user);
    } else if !capable && rustix::process::geteuid().is_root() {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| {
                rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_ROOT)?;
                let none = CapabilitySet::empty();
                let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
                Ok(rustix::thread::set_capabilities(None, sets)?)
            })
        };
    }
}

fn child(name: &str) -> ExitCode {
    if name == "sleeper" || name == "open sleeper" {
        if name == "sleeper" {
            enter();
        }
        println!("ready");
        std::io::stdin().read_exact(&mut [0]).ok();
        return ExitCode::SUCCESS;
    }
    match CASES.iter().find(|(case, ..)| *case == name) {
        Some((_, run, _)) => {
            run();
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

fn enter() -> Report {
    Sandbox::enter(Options::default()).expect("enter the sandbox")
}

/// The error number of a raw call; 0 when it succeeded.
macro_rules! errno {
    ($call:ident $(, $argument:expr)*) => {{
        // SAFETY: every argument is a plain number or points to what the call wants, or the call is refused before
        // it looks.
        let result = unsafe { libc::syscall(libc::$call $(, $argument)*) };
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
    }};
}

fn own_calls() {
    use nvme_linux::events::{Account, CallNotify, Doorbell, Epoll, EventFd, Events, Interest, now};
    use nvme_linux::logger::{Logger, Verbosity};

    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    let (mut heard, log_pipe) = std::io::pipe().expect("pipe");
    let logger = Logger::new(log_pipe.into(), Verbosity::Normal);
    let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
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
fn client_memory() {
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

fn no_open() {
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

fn no_socket() {
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

fn no_exec_memory() {
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

fn no_odd_control() {
    enter();
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_SETFL, libc::O_APPEND), libc::EPERM);
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_SETOWN, 1), libc::EPERM);
    assert_eq!(errno!(SYS_fcntl, 1, libc::F_GETFL), 0);
    assert_eq!(errno!(SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr()), libc::EPERM);
    assert_eq!(errno!(SYS_prctl, libc::PR_SET_DUMPABLE, 1), libc::EPERM);
    assert_eq!(errno!(SYS_prctl, libc::PR_SET_NAME, c"worker".as_ptr()), 0);
    assert_eq!(errno!(SYS_seccomp, 1, 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, 0), libc::EPERM);
}

fn no_thread() {
    enter();
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    assert_eq!(errno!(SYS_clone3, 0, 0), libc::EPERM);
    assert_eq!(errno!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0), libc::EPERM);
}

fn no_signal() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero().get();
    enter();
    assert_eq!(errno!(SYS_kill, parent, 0), libc::EPERM);
    assert_eq!(errno!(SYS_tgkill, parent, parent, 0), libc::EPERM);
    assert_eq!(errno!(SYS_tgkill, own, own, 0), 0);
}

fn no_privileges() {
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

fn limits() {
    use rustix::process::{Resource, getrlimit};

    let hard = getrlimit(Resource::Nofile).maximum;
    let report = Sandbox::prepare(Options::default()).expect("prepare").report();
    assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    assert_eq!(getrlimit(Resource::Nofile).current, hard);
    assert_eq!(report.descriptors, hard.unwrap_or(u64::MAX));
}

/// Before the filter is there, Landlock (or the empty mount view) denies on its own.
fn landlock_alone() {
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

fn other_threads() {
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

fn too_late() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let worker = std::thread::spawn(move || wait.recv().is_err());
    let error = Sandbox::enter(Options::default()).expect_err("there is another thread");
    assert!(error.to_string().contains("there are 2 threads"), "{error}");
    drop(stop);
    assert!(worker.join().expect("join"));
}

fn panics() {
    enter();
    let caught = std::panic::catch_unwind(|| {
        let empty: Vec<u8> = Vec::new();
        empty[std::hint::black_box(0)]
    });
    assert!(caught.is_err());
}

/// A filter as an old kernel, a unit or a container has it: these calls have this error.
fn answer(calls: &[libc::c_long], errno: i32) {
    use seccompiler::{SeccompAction, SeccompFilter};

    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let error = SeccompAction::Errno(errno.unsigned_abs());
    let arch = env::consts::ARCH.try_into().expect("architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, error, arch).expect("filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("program");
    seccompiler::apply_filter(&program).expect("apply");
}

const LANDLOCK: [libc::c_long; 2] = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self];

fn without_landlock() {
    answer(&LANDLOCK, libc::ENOSYS);
    assert_eq!(enter().landlock, Landlock::None);
    assert_eq!(errno!(SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY), libc::EPERM);
}

fn landlock_turned_off() {
    answer(&LANDLOCK, libc::EOPNOTSUPP);
    assert_eq!(enter().landlock, Landlock::Off);
}

fn landlock_denied() {
    answer(&LANDLOCK, libc::EPERM);
    let report = enter();
    assert_eq!(report.landlock, Landlock::Denied);
    let said = report.to_string();
    assert!(said.contains("DENIED") && !said.contains("not in this kernel"), "{said}");
}

fn seccomp_denied() {
    answer(&[libc::SYS_seccomp], libc::EPERM);
    let said = Sandbox::enter(Options::default()).expect_err("no filter").to_string();
    assert!(said.contains("from outside denies it") && !said.contains("CONFIG_SECCOMP"), "{said}");
}

fn calls_needed() {
    use nvme_linux::sandbox::check_calls;

    check_calls().expect("nothing is missing");
    // The last filter's answer is what counts where each has an error.
    for (call, name) in [(libc::SYS_statx, "statx"), (libc::SYS_memfd_create, "memfd_create")] {
        answer(&[call], libc::ENOSYS);
        let said = check_calls().expect_err("it is missing").to_string();
        assert!(said.contains(&format!("call {name}: ")) && said.contains("too old"), "{said}");
        answer(&[call], libc::EPERM);
        let said = check_calls().expect_err("it is denied").to_string();
        assert!(said.contains(&format!("call {name}: ")) && said.contains("from outside denies"), "{said}");
    }
}

fn coarse_wait_missing() {
    coarse_wait(libc::ENOSYS);
}

fn coarse_wait_denied() {
    coarse_wait(libc::EPERM);
}

fn coarse_wait(error: i32) {
    use std::time::{Duration, Instant};

    use nvme_linux::events::{Epoll, EventFd, Events, Interest};

    answer(&[libc::SYS_epoll_pwait2], error);
    let epoll = Epoll::new().expect("epoll");
    let event = EventFd::new().expect("eventfd");
    epoll.add(&event, 7, Interest::Read).expect("add");
    let mut events = Events::new(4);
    // Before and behind the sandbox's own filter.
    for sealed in [false, true] {
        if sealed {
            enter();
        }
        for wait in [Duration::ZERO, Duration::from_micros(1), Duration::from_micros(1500)] {
            let start = Instant::now();
            epoll.wait(&mut events, Some(wait)).expect("wait");
            assert!(start.elapsed() >= wait && events.iter().next().is_none());
        }
        event.signal();
        epoll.wait(&mut events, None).expect("wait");
        assert_eq!(events.iter().map(|event| event.token).collect::<Vec<_>>(), [7]);
        event.take();
    }
}

fn notify_without_submissions() {
    notifications(&[libc::SYS_io_setup], libc::ENOSYS);
}

fn notify_with_submitting_denied() {
    notifications(&[libc::SYS_io_submit, libc::SYS_io_getevents], libc::EPERM);
}

fn notifications(calls: &[libc::c_long], error: i32) {
    use nvme_linux::events::{Account, CallNotify};
    use rustix::event::{EventfdFlags, eventfd};

    answer(calls, error);
    let call = eventfd(0, EventfdFlags::empty()).expect("eventfd");
    let prepared = Sandbox::prepare(Options::default()).expect("prepare");
    nvme_linux::events::guard_calls().expect("guard");
    prepared.seal().expect("seal");
    let notify = CallNotify::new(Some(call.try_clone().expect("dup")), None, &Account::new("test"))
        .expect("an eventfd");
    let mut count = [0; 8];
    // By a thread that has no slot, and by one that has.
    for _ in 0..2 {
        nvme_platform::Notify::used(&notify);
        assert_eq!(rustix::io::read(&call, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
        nvme_linux::events::guard_this_thread();
    }
    // Full, and blocking.
    rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
    (0..20).for_each(|_| nvme_platform::Notify::used(&notify));
    assert_eq!(rustix::io::read(&call, &mut count), Ok(8));
}

fn descriptors_without_close_range() {
    answer(&[libc::SYS_close_range], libc::ENOSYS);
    descriptors();
}

fn descriptors_with_close_range_denied() {
    answer(&[libc::SYS_close_range], libc::EPERM);
    descriptors();
}

fn log_without_pwritev2() {
    log_to_a_pipe(libc::ENOSYS);
}

fn log_with_pwritev2_denied() {
    log_to_a_pipe(libc::EPERM);
}

fn log_to_a_pipe(error: i32) {
    use nvme_linux::logger::{Logger, Verbosity};

    answer(&[libc::SYS_pwritev2], error);
    let (mut heard, pipe) = std::io::pipe().expect("pipe");
    let logger = Logger::new(pipe.into(), Verbosity::Normal);
    enter();
    let record = log::Record::builder().level(log::Level::Warn).args(format_args!("hello")).build();
    log::Log::log(&logger, &record);
    drop(logger);
    let mut said = String::new();
    heard.read_to_string(&mut said).expect("the log");
    assert_eq!(said, "nvme-drv: warning: hello\n");
}

fn descriptors() {
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

fn exec() {
    enter();
    errno!(SYS_execve, c"/bin/true".as_ptr(), 0, 0);
}

fn ptrace() {
    enter();
    errno!(SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0);
}

fn peek() {
    enter();
    errno!(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0);
}

fn unshare() {
    enter();
    errno!(SYS_unshare, libc::CLONE_NEWUSER);
}

fn setuid() {
    enter();
    errno!(SYS_setuid, 1);
}

fn fork() {
    enter();
    // Where there is no fork, clone is all that is left of it, and is refused.
    #[cfg(target_arch = "x86_64")]
    errno!(SYS_fork);
    #[cfg(not(target_arch = "x86_64"))]
    errno!(SYS_unshare, libc::CLONE_NEWUSER);
}

/// Another process of the same user, neither of them with capabilities, tries to look into one inside the sandbox;
/// and, to know that it is the sandbox that refuses, into one outside of it.
fn others_cannot_look_in(user: Option<u32>) -> bool {
    !can_look_in("sleeper", user) && can_look_in("open sleeper", user)
}

fn can_look_in(name: &str, user: Option<u32>) -> bool {
    let mut sleeper = start(name, user, false);
    let mut output = sleeper.stdout.take().expect("stdout");
    output.read_exact(&mut [0; 6]).expect("ready");
    // `mem` and `environ` are guarded alike, by the right to trace; this one can be read from its start.
    let mut reader = Command::new("/bin/cat");
    reader.arg(format!("/proc/{}/environ", sleeper.id())).stdout(Stdio::null()).stderr(Stdio::null());
    become_user(&mut reader, user, false);
    let read = reader.status().expect("run cat").success();
    drop(sleeper.stdin.take());
    assert!(sleeper.wait().expect("end").success());
    read
}
