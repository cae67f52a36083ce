//! The sandbox, proven from inside: each test starts this program anew as a child of one thread, which enters the
//! sandbox, tries what must not work, and ends with 0 when it did not. Run without a harness of its own, because
//! the sandbox wants a process with one thread.
//!
//! * `allowed`: what goes on working. `denied`: what must not work. `lacking`: kernels, units and containers that lack a call, or deny it.
#![expect(unsafe_code, reason = "tries system calls that must not work")]

/// The error number of a raw call; 0 when it succeeded.
macro_rules! errno {
    ($call:ident $(, $argument:expr)*) => {{
        // SAFETY: every argument is a plain number or points to what the call wants, or the call is refused before
        // it looks.
        let result = unsafe { libc::syscall(libc::$call $(, $argument)*) };
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
    }};
}

mod allowed;
mod denied;
mod lacking;

use std::env;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};

use nvme_linux::sandbox::{Options, Report, Sandbox};

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
    ("the_server_s_own_calls_go_on_working", allowed::own_calls, End::Good),
    ("client_memory_images_and_listeners_go_on_working", allowed::client_memory, End::Good),
    ("no_file_can_be_opened", denied::no_open, End::Good),
    ("no_socket_can_be_made_or_connected", denied::no_socket, End::Good),
    ("no_memory_can_be_made_executable", denied::no_exec_memory, End::Good),
    ("descriptors_flags_and_devices_are_restricted", denied::no_odd_control, End::Good),
    ("rings_are_told_of_memory_only_where_that_is_asked_for", denied::no_pins, End::Good),
    ("no_thread_or_process_can_be_started", denied::no_thread, End::Good),
    ("nobody_else_can_be_signalled", denied::no_signal, End::Good),
    ("capabilities_and_privileges_are_gone", denied::no_privileges, End::Good),
    ("no_core_is_dumped_and_descriptors_are_many", allowed::limits, End::Good),
    ("landlock_alone_denies_paths", denied::landlock_alone, End::Good),
    ("the_filter_reaches_threads_that_run_already", denied::other_threads, End::Good),
    ("a_second_thread_before_it_is_an_error", denied::too_late, End::Good),
    ("a_panic_can_be_reported_and_unwound", allowed::panics, End::Good),
    ("a_kernel_without_landlock_is_good_enough", lacking::without_landlock, End::Good),
    ("landlock_that_is_turned_off_is_said_to_be", lacking::landlock_turned_off, End::Good),
    ("landlock_denied_from_outside_is_not_taken_for_missing", lacking::landlock_denied, End::Good),
    ("a_filter_denied_from_outside_is_said_to_be_and_fatal", lacking::seccomp_denied, End::Good),
    ("calls_that_cannot_be_done_without_are_named", lacking::calls_needed, End::Good),
    (
        "a_wait_without_epoll_pwait2_ends_at_its_deadline_and_not_before",
        lacking::coarse_wait_missing,
        End::Good,
    ),
    (
        "a_wait_where_epoll_pwait2_is_denied_ends_at_its_deadline_and_not_before",
        lacking::coarse_wait_denied,
        End::Good,
    ),
    ("notifications_come_without_asynchronous_operations", lacking::notify_without_submissions, End::Good),
    ("notifications_come_where_submitting_is_denied", lacking::notify_with_submitting_denied, End::Good),
    ("descriptors_are_closed_without_close_range", lacking::descriptors_without_close_range, End::Good),
    (
        "descriptors_are_closed_where_close_range_is_denied",
        lacking::descriptors_with_close_range_denied,
        End::Good,
    ),
    ("a_log_is_written_to_a_pipe_without_pwritev2", lacking::log_without_pwritev2, End::Good),
    ("a_log_is_written_to_a_pipe_where_pwritev2_is_denied", lacking::log_with_pwritev2_denied, End::Good),
    ("inherited_descriptors_that_nobody_named_are_closed", allowed::descriptors, End::Good),
    ("running_a_program_ends_the_process", denied::exec, End::Killed),
    ("tracing_a_process_ends_the_process", denied::ptrace, End::Killed),
    ("reading_another_process_ends_the_process", denied::peek, End::Killed),
    ("leaving_the_name_spaces_ends_the_process", denied::unshare, End::Killed),
    ("becoming_another_user_ends_the_process", denied::setuid, End::Killed),
    ("forking_ends_the_process", denied::fork, End::Killed),
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
