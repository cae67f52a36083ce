//! A program that plays `nvme-drv`: it reports what it was started with, and answers the factory's requests.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use nvme_linux::factory::{Caller, Refusal};
use nvme_linux::socket::{Kind, pair};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::net::{SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// The device that is not there.
pub(crate) const ABSENT: &str = "absent:n1";

/// Reports to the file that `FAKE_REPORT` names, and serves until it is ended.
pub(crate) fn serve() -> ExitCode {
    let mut report = String::new();
    let line: Vec<String> = std::env::args().collect();
    let _ = writeln!(report, "args {}", line.join(" "));
    let given = inherited();
    for (name, fd) in &given {
        let _ = writeln!(report, "fd {name} {}", describe(fd));
    }
    // What else is open: the copies that `inherited` made are as many, and the folder itself is one.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let _ = writeln!(report, "others {}", open as i64 - 3 - 2 * given.len() as i64 - 1);
    if let Some(path) = std::env::var_os("FAKE_REPORT") {
        // Whole or not there.
        let part = std::path::Path::new(&path).with_extension("part");
        if std::fs::write(&part, report).and_then(|()| std::fs::rename(&part, &path)).is_err() {
            return ExitCode::from(9);
        }
    }
    if std::env::var_os("FAKE_STATUS").is_some() {
        return ExitCode::from(5);
    }
    println!("fake server is up");
    let factory = given.iter().find(|(name, _)| name == "svr").map(|(_, fd)| fd);
    let mut sessions = Vec::new();
    loop {
        match factory {
            Some(factory) => answer(factory, &mut sessions),
            None => std::thread::sleep(Duration::from_secs(60)),
        }
    }
}

fn answer(factory: &OwnedFd, sessions: &mut Vec<OwnedFd>) {
    let accepted = rustix::net::accept(factory).unwrap();
    let mut caller = Caller::new(accepted).unwrap();
    loop {
        let mut fds = [PollFd::from_borrowed_fd(caller.as_fd(), PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, None);
        let request = match caller.receive() {
            Ok(Some(request)) => request,
            Ok(None) => continue,
            Err(_) => return,
        };
        let words: Vec<String> = match &request {
            Ok(request) => request.words().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        };
        if words.iter().any(|word| word == "device=fatal") {
            std::process::exit(7);
        }
        let refusal = match request {
            Err(refusal) => Some(refusal),
            Ok(_) if words.iter().any(|word| *word == format!("device={ABSENT}")) => {
                Some(Refusal { errno: 19, message: format!("`device={ABSENT}`: no such device") })
            }
            Ok(_) => None,
        };
        let sent = match refusal {
            Some(refusal) => caller.reply(Err(&refusal)),
            None => {
                let (ours, theirs) = pair(Kind::Stream).unwrap();
                // A session says what it was asked for, so that whoever has it can be recognised.
                rustix::net::send(&ours, words.join(" ").as_bytes(), rustix::net::SendFlags::empty())
                    .unwrap();
                sessions.push(ours);
                caller.reply(Ok((&[theirs.as_fd()], "")))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Copies of the inherited descriptors, under their names.
fn inherited() -> Vec<(String, OwnedFd)> {
    let own = rustix::process::getpid();
    if std::env::var("LISTEN_PID").ok().as_deref() != Some(&own.as_raw_pid().to_string()) {
        return Vec::new();
    }
    let myself = rustix::process::pidfd_open(own, PidfdFlags::empty()).unwrap();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let numbers = 3..;
    let copy = |number| rustix::process::pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()).unwrap();
    names.split(':').zip(numbers).take(count).map(|(name, number)| (name.to_owned(), copy(number))).collect()
}

fn describe(fd: &OwnedFd) -> &'static str {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).unwrap().st_mode);
    if kind == FileType::Socket {
        let listens = sockopt::socket_acceptconn(fd).unwrap();
        return match (sockopt::socket_type(fd).unwrap(), listens) {
            (SocketType::STREAM, true) => "stream listening",
            (SocketType::STREAM, false) => "stream connected",
            (SocketType::SEQPACKET, true) => "seqpacket listening",
            (SocketType::SEQPACKET, false) => "seqpacket connected",
            _ => "another socket",
        };
    }
    match (kind, rustix::fs::fcntl_getfl(fd).unwrap() & OFlags::RWMODE) {
        (FileType::RegularFile, OFlags::RDWR) => "file rw",
        (FileType::RegularFile, _) => "file ro",
        _ => "something else",
    }
}
