//! Started programs, as they find themselves.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nvme_linux::spawn::{Exit, Spawn};
use rustix::process::Signal;

fn shell<'a>(script: &str) -> Spawn<'a> {
    let mut spawn = Spawn::new(Path::new("/bin/sh"), OsStr::new("sh")).unwrap();
    spawn.arg(OsStr::new("-c")).unwrap().arg(OsStr::new(script)).unwrap();
    spawn
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// Runs it with a pipe as its output.
fn output<'a>(mut spawn: Spawn<'a>, (read, write): &'a (OwnedFd, OwnedFd)) -> (String, Exit) {
    let process = spawn.standard(1, write.as_fd()).start().unwrap();
    let mut text = String::new();
    let exit = process.wait().unwrap();
    // What the program wrote is in the pipe by now; the test's own end stays open.
    let mut bytes = [0; 4096];
    let length = rustix::io::read(read, &mut bytes).unwrap_or(0);
    text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    (text, exit)
}

#[test]
fn a_program_gets_its_descriptors_in_order_from_three_under_their_names_and_its_own_pid() {
    let a = File::open("/dev/null").unwrap();
    let b = File::open("/dev/zero").unwrap();
    let mut spawn = shell(
        "echo $LISTEN_FDS $LISTEN_FDNAMES $(readlink /proc/$$/fd/3 /proc/$$/fd/4 /proc/$$/fd/5);
         test $LISTEN_PID = $$ && echo mine",
    );
    spawn.env(OsStr::new("PATH"), OsStr::new("/usr/bin:/bin")).unwrap();
    assert_eq!(spawn.fd("one", b.as_fd()).unwrap(), 3);
    assert_eq!(spawn.fd("two words", a.as_fd()).unwrap(), 4);
    assert_eq!(spawn.fd("one", a.as_fd()).unwrap(), 5);
    let (text, exit) = output(spawn, &pipe());
    assert_eq!(text, "3 one:two words:one /dev/zero /dev/null /dev/null\nmine\n");
    assert_eq!(exit, Exit::Code(0));
}

#[test]
fn nothing_else_is_inherited_even_when_it_is_marked_so() {
    let stray = File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let given = File::open("/dev/null").unwrap();
    let mut spawn = shell("for f in /proc/$$/fd/*; do readlink $f; done | grep -c /dev/zero; echo");
    spawn.env(OsStr::new("PATH"), OsStr::new("/usr/bin:/bin")).unwrap();
    spawn.fd("given", given.as_fd()).unwrap();
    assert_eq!(output(spawn, &pipe()).0.trim(), "0");
}

#[test]
fn the_environment_is_what_was_given_and_the_convention_cannot_be_forged() {
    let mut spawn = shell("echo ${A}:${LISTEN_FDS-none}:${HOME-none}");
    spawn.env(OsStr::new("A"), OsStr::new("x=y")).unwrap();
    spawn.env(OsStr::new("LISTEN_FDS"), OsStr::new("9")).unwrap();
    assert_eq!(output(spawn, &pipe()).0, "x=y:none:none\n");
    assert!(shell("").env(OsStr::new("A=B"), OsStr::new("")).is_err());
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_start() {
    let spawn = Spawn::new(Path::new("/nonexistent/program"), OsStr::new("program")).unwrap();
    assert_eq!(spawn.start().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_end_of_a_program_is_told_as_status_or_signal() {
    assert_eq!(shell("exit 3").start().unwrap().wait().unwrap(), Exit::Code(3));
    let process = shell("while :; do :; done").start().unwrap();
    assert_eq!(process.try_wait().unwrap(), None);
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap(), Exit::Signal(15));
    assert!(process.signal(Signal::TERM).is_err(), "it has been reaped");
}

#[test]
fn a_program_dies_with_the_thread_that_started_it_when_told_so() {
    let process = std::thread::spawn(|| {
        let mut spawn = shell("while :; do :; done");
        spawn.die_with_parent();
        spawn.start().unwrap()
    })
    .join()
    .unwrap();
    assert_eq!(process.wait().unwrap(), Exit::Signal(9));
}

#[test]
fn signals_that_the_runtime_ignores_are_back_to_their_default() {
    assert_eq!(shell("kill -PIPE $$; exit 1").start().unwrap().wait().unwrap(), Exit::Signal(13));
}

#[test]
fn names_that_the_convention_cannot_carry_are_refused() {
    let null = File::open("/dev/null").unwrap();
    for name in ["", "a:b", "a\nb", "ä", &"x".repeat(256)] {
        assert!(shell("").fd(name, null.as_fd()).is_err(), "{name:?}");
    }
}
