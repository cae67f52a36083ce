//! All four programs where nobody takes what they say: a full disk, a closed descriptor, a log at its size limit.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAMS: [&str; 4] = [
    env!("CARGO_BIN_EXE_nvme-drv"),
    env!("CARGO_BIN_EXE_nvme-ctl"),
    env!("CARGO_BIN_EXE_nvme-ned"),
    env!("CARGO_BIN_EXE_nvme-decode"),
];

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn help_that_nobody_takes_is_a_failure_that_is_said() {
    for program in PROGRAMS {
        for option in ["--help", "--version"] {
            let output = Command::new(program).arg(option).stdout(full()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{program} {option}: {} {said}", output.status);
            assert!(said.contains("standard output: No space left"), "{program} {option}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

#[test]
fn a_reader_of_help_that_has_seen_enough_is_no_failure() {
    for program in PROGRAMS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(program).arg("--help").stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{program}");
    }
}

#[test]
fn what_is_wrong_has_its_status_even_if_it_cannot_be_said() {
    for program in PROGRAMS {
        for stderr in [full().into(), Stdio::piped()] {
            let status = Command::new(program).arg("--frobnicate").stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(2), "{program}: {status}");
        }
        // A descriptor that is not there at all.
        let script = "exec \"$0\" --frobnicate >&- 2>&-";
        let status = Command::new("sh").args(["-c", script, program]).status().unwrap();
        assert_eq!(status.code(), Some(2), "{program}: {status}");
    }
    // Failures behind the command line.
    let nowhere = ["ls", "--ctl", "/nonexistent/ctl"];
    let status = Command::new(PROGRAMS[1]).args(nowhere).stderr(full()).status().unwrap();
    assert_eq!(status.signal(), None);
    assert_ne!(status.code(), Some(0));
    for program in &PROGRAMS[2..] {
        let status = Command::new(program).arg("/nonexistent").stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{program}: {status}");
    }
}

#[test]
fn a_log_at_its_size_limit_does_not_end_the_server() {
    use rustix::process::{Signal, kill_process};

    let folder = tempfile::tempdir().unwrap();
    let (disk, svr, log) = (folder.path().join("disk"), folder.path().join("svr"), folder.path().join("log"));
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let (vbus, place) = (format!("vbus=soft:{}", disk.display()), format!("svr=unix:{}", svr.display()));
    // 512 bytes.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1; exec \"$@\"", "sh", PROGRAMS[0]]);
    command.args(["-vvv", "--cap", &vbus, "--cap", &place]).stdin(Stdio::null());
    command.stderr(File::create(&log).unwrap());
    let mut server = command.spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let factory = nvme_client::Factory::connect_retry(&svr, Duration::from_secs(20)).unwrap();
    while std::fs::metadata(&log).unwrap().len() < 512 {
        assert!(factory.create(&["device=none"], None).is_err());
        assert!(Instant::now() < until, "the log does not reach its limit");
    }
    // It is served by a server that has nowhere to say so.
    for _ in 0..3 {
        drop(factory.create(&["device=soft0:n1", "read-only"], None).unwrap());
    }
    let mut said = String::new();
    File::open(&log).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.len(), 512);
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
