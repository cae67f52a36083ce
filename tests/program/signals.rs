//! What ends the program, with which status, and what does not.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::server::{Bench, wait_until};

#[test]
fn signals_that_mean_nothing_do_nothing() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    let session = bench.create(&["device=SN 1:2:n1:1"]);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE, Signal::XFSZ] {
        server.signal(signal);
        drop(bench.create(&["device=partlabel:attack", "read-only"]));
    }
    // The session that was there is there still.
    let mut silent = [0; 1];
    rustix::io::ioctl_fionbio(&session, true).unwrap();
    assert_eq!(rustix::io::read(&session, &mut silent), Err(rustix::io::Errno::AGAIN));
    assert_eq!(server.stop(), 0);
}

#[test]
fn both_signals_that_stop_it_drain_and_end_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let bench = Bench::new();
        let mut server = bench.serve(&[]);
        drop(bench.factory());
        server.signal(signal);
        assert_eq!(server.wait(), 0);
        assert!(server.said().contains("stopping: sessions drain"), "{}", server.said());
    }
}

#[test]
fn a_server_that_is_told_to_stop_while_it_starts_ends_with_0() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    // As soon as its log is open it settles its signals; what comes then waits until it serves.
    wait_until("signals are settled", || {
        // Between its fork and its exec the process has all signals blocked, and is not yet the server.
        let program = std::fs::read_link(format!("/proc/{}/exe", server.pid()));
        if !program.is_ok_and(|path| path == std::path::Path::new(env!("CARGO_BIN_EXE_nvme-drv"))) {
            return false;
        }
        // These two and no others: the C library blocks all of them for a moment while it starts a thread, and who starts the tests may have
        // had SIGHUP ignored.
        let stopping =
            [Signal::TERM, Signal::INT].iter().fold(0, |set, signal| set | 1 << (signal.as_raw() - 1));
        u64::from_str_radix(&server.status("SigBlk"), 16).unwrap() == stopping
    });
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_whoever_starts_it_did_to_signals_does_not_matter() {
    let bench = Bench::new();
    let log = File::create(bench.path("log")).unwrap();
    // Everything that can be is blocked, and what stops it is ignored, as a shell has it for a program in the background.
    let script = "import os,signal,sys\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n\
                  signal.signal(signal.SIGINT, signal.SIG_IGN)\n\
                  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = Command::new("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_nvme-drv"), &bench.disk(), &bench.socket("svr")]);
    let Ok(mut child) = command.stdin(Stdio::null()).stderr(log).spawn() else {
        eprintln!("skipped: there is no python3");
        return;
    };
    drop(bench.factory());
    let own = [Signal::TERM, Signal::INT].iter().map(|s| 1u64 << (s.as_raw() - 1)).sum::<u64>();
    // While a thread is started, all are blocked for a moment.
    wait_until("its own signals alone to be blocked", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t")).unwrap();
        u64::from_str_radix(blocked, 16).unwrap() == own
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_asked_for_and_wrong_ends_with_2() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    drop(bench.factory());
    let other = Bench::new();
    let (disk, svr) = (other.disk(), other.socket("svr"));
    let null = File::open("/dev/null").unwrap();
    let missing = format!("--cap=vbus=soft:{}", other.path("none").display());
    type Descriptors<'a> = &'a [(&'a str, std::os::fd::BorrowedFd<'a>)];
    let wrong: &[(&[&str], Descriptors<'_>)] = &[
        (&["--clint", "a"], &[]),
        (&[&svr], &[]),
        (&[&disk], &[]),
        (&[&missing, &svr], &[]),
        (&[&disk, &svr, "--cap=vbus=floppy:0"], &[]),
        (&[&disk, &svr], &[("spare", null.as_fd())]),
        (&[&disk, "--cap=svr=unix:/nonexistent/svr"], &[]),
        (&["--cap=vbus=pci:0000:00:00.0", &svr], &[]),
        // The first server has its image, and its socket.
        (&[&bench.disk(), &svr], &[]),
        (&[&disk, &bench.socket("svr")], &[]),
    ];
    for (words, fds) in wrong {
        let mut failed = other.start(words, fds, &[]);
        assert_eq!(failed.wait(), 2, "{words:?}: {}", failed.said());
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_the_system_refuses_ends_with_1() {
    let bench = Bench::new();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let place = bench.path("no-manager").display().to_string();
    let mut server = bench.start(&[&disk, &svr], &[], &[("NOTIFY_SOCKET", &place)]);
    assert_eq!(server.wait(), 1, "{}", server.said());
}
