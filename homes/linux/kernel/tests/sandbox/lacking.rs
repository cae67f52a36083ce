//! Kernels, units and containers that lack a call, or deny it.

use std::env;
use std::io::Read;

use nvme_linux::sandbox::{Landlock, Options, Sandbox};

use crate::allowed::descriptors;
use crate::enter;

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

pub(crate) fn without_landlock() {
    answer(&LANDLOCK, libc::ENOSYS);
    assert_eq!(enter().landlock, Landlock::None);
    assert_eq!(errno!(SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY), libc::EPERM);
}

pub(crate) fn landlock_turned_off() {
    answer(&LANDLOCK, libc::EOPNOTSUPP);
    assert_eq!(enter().landlock, Landlock::Off);
}

pub(crate) fn landlock_denied() {
    answer(&LANDLOCK, libc::EPERM);
    let report = enter();
    assert_eq!(report.landlock, Landlock::Denied);
    let said = report.to_string();
    assert!(said.contains("DENIED") && !said.contains("not in this kernel"), "{said}");
}

pub(crate) fn seccomp_denied() {
    answer(&[libc::SYS_seccomp], libc::EPERM);
    let said = Sandbox::enter(Options::default()).expect_err("no filter").to_string();
    assert!(said.contains("from outside denies it") && !said.contains("CONFIG_SECCOMP"), "{said}");
}

pub(crate) fn calls_needed() {
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

pub(crate) fn coarse_wait_missing() {
    coarse_wait(libc::ENOSYS);
}

pub(crate) fn coarse_wait_denied() {
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

pub(crate) fn notify_without_submissions() {
    notifications(&[libc::SYS_io_setup], libc::ENOSYS);
}

pub(crate) fn notify_with_submitting_denied() {
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

pub(crate) fn descriptors_without_close_range() {
    answer(&[libc::SYS_close_range], libc::ENOSYS);
    descriptors();
}

pub(crate) fn descriptors_with_close_range_denied() {
    answer(&[libc::SYS_close_range], libc::EPERM);
    descriptors();
}

pub(crate) fn log_without_pwritev2() {
    log_to_a_pipe(libc::ENOSYS);
}

pub(crate) fn log_with_pwritev2_denied() {
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
