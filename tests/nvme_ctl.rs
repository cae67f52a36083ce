//! `nvme-ctl`, run as a program, against a server that this test plays.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nvme_linux::factory::{Caller, Refusal, Request};
use nvme_linux::inventory::{Controller, Inventory, Namespace, VERSION};
use nvme_linux::socket::{Kind, ListenSpec, pair};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal};

const PATIENCE: Duration = Duration::from_secs(20);

fn nvme_ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ctl"));
    command.env_remove("NVME_DRV_SVR").env_remove("NVME_DRV_CTL").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    nvme_ctl().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the factory was asked for: the words, the listening socket, and the other end of the session capability.
struct Asked {
    words: Vec<String>,
    listener: Option<OwnedFd>,
    session: OwnedFd,
}

/// A factory at `path` that refuses words with `absent` in them.
fn factory(path: &Path) -> Receiver<Asked> {
    let spec = ListenSpec::parse(path.to_str().unwrap()).unwrap();
    let listener = spec.listen(Kind::SeqPacket).unwrap();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        loop {
            wait(&listener);
            let Ok(Some(socket)) = nvme_linux::socket::accept(&listener) else { continue };
            let mut caller = Caller::new(socket).unwrap();
            loop {
                wait(&caller);
                match caller.receive() {
                    Ok(Some(Ok(request))) => {
                        if !answer(&mut caller, request, &sender) {
                            break;
                        }
                    }
                    Ok(_) => (),
                    Err(_) => break,
                }
            }
        }
    });
    receiver
}

fn answer(caller: &mut Caller, mut request: Request, sender: &std::sync::mpsc::Sender<Asked>) -> bool {
    let words: Vec<String> = request.words().map(str::to_owned).collect();
    if words.iter().any(|word| word.contains("absent")) {
        let refusal = Refusal { errno: 19, message: "`device=absent`: no such device".to_owned() };
        return caller.reply(Err(&refusal)).is_ok();
    }
    let (session, theirs) = pair(Kind::Stream).unwrap();
    let asked = Asked { words, listener: request.take_listener(), session };
    sender.send(asked).is_ok() && caller.reply(Ok((&[theirs.as_fd()], ""))).is_ok()
}

fn wait(fd: &impl AsFd) {
    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], None);
}

#[test]
fn a_command_inherits_its_sessions_and_its_status_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let svr = folder.path().join("svr");
    let asked = factory(&svr);
    let output = run(&[
        "--svr",
        svr.to_str().unwrap(),
        "run",
        "vda=my disk:n1,read-only,ds-max=4",
        "vdb=1234:n1",
        "--",
        "sh",
        "-c",
        "printf one >&{vda}; printf two >&{vdb}; echo { vdc } $(ls /proc/$$/fd | wc -l); exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("{ vdc } "));
    for (words, written) in [
        (&["create", "0", "device=my disk:n1", "read-only", "ds-max=4"][..], "one"),
        (&["create", "0", "device=1234:n1"], "two"),
    ] {
        let asked = asked.recv_timeout(PATIENCE).unwrap();
        assert_eq!(asked.words, words);
        assert!(asked.listener.is_none());
        // The end of the file: nobody has the session any more.
        let session = UnixStream::from(asked.session);
        session.set_nonblocking(false).unwrap();
        let mut said = String::new();
        (&session).read_to_string(&mut said).unwrap();
        assert_eq!(said, written);
    }
}

#[test]
fn a_refusal_says_what_to_do_and_nothing_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let svr = folder.path().join("svr");
    let _asked = factory(&svr);
    let marker = folder.path().join("ran");
    let output = run(&[
        "run",
        "--svr",
        svr.to_str().unwrap(),
        "a=1234:n1",
        "b=absent",
        "--",
        "touch",
        marker.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(error.contains("`device=absent`: no such device") && error.contains("nvme-ctl ls"), "{error}");
    assert!(!marker.exists());
}

#[test]
fn a_command_that_cannot_be_run_is_told_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    let svr = folder.path().join("svr");
    let _asked = factory(&svr);
    let with =
        |command: &str| run(&["--svr", svr.to_str().unwrap(), "run", "a=x", "--", command]).status.code();
    assert_eq!(with("/nonexistent/command"), Some(127));
    assert_eq!(with("/dev/null"), Some(126));
}

#[test]
fn create_holds_the_session_until_a_signal_and_removes_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (svr, listen) = (folder.path().join("svr"), folder.path().join("listen"));
    let asked = factory(&svr);
    let spawn = || {
        let mut command = nvme_ctl();
        command
            .env("NVME_DRV_SVR", &svr)
            .args(["create", "device=1234:n1", "ds-max=3", "--listen"])
            .arg(&listen);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    // A signal ends it well.
    let mut child = spawn();
    let session = asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(session.words, ["create", "0", "device=1234:n1", "ds-max=3"]);
    let client = UnixStream::connect(&listen).unwrap();
    let listener = session.listener.as_ref().unwrap();
    wait(listener);
    assert!(nvme_linux::socket::accept(listener).unwrap().is_some(), "the server takes clients there");
    drop(client);
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!listen.exists());
    // The server's end of the session ends it with an error.
    drop(session);
    let child = spawn();
    drop(asked.recv_timeout(PATIENCE).unwrap());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the server ended the session"));
    assert!(!listen.exists());
}

#[test]
fn ls_prints_a_tree_or_the_document_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let inventory = Inventory {
        version: VERSION,
        server: "nvme-drv 0.1.0".to_owned(),
        controllers: vec![Controller {
            serial: "1234".to_owned(),
            namespaces: vec![Namespace { nsid: 1, blocks: 8, block_size: 512, ..Namespace::default() }],
            ..Controller::default()
        }],
        ..Inventory::default()
    };
    let document = inventory.to_json().unwrap();
    let served = document.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            client.unwrap().write_all(&served).unwrap();
        }
    });
    let tree = run(&["ls", "--ctl", path.to_str().unwrap()]);
    assert!(text(&tree.stdout).contains("device=1234:n1"), "{}", text(&tree.stderr));
    assert_eq!(run(&["ls", "--json", "--ctl", path.to_str().unwrap()]).stdout, document);
}

#[test]
fn a_server_that_is_not_there_is_an_error_that_says_where_it_was_looked_for() {
    for command in
        [&["ls"][..], &["create", "device=x", "--listen", "/nonexistent/l"], &["run", "a=x", "--", "true"]]
    {
        let started = Instant::now();
        let place = ["--svr", "/nonexistent/svr", "--ctl", "/nonexistent/ctl"];
        let (first, rest) = command.split_first().unwrap();
        let output = run(&[&[*first][..], &place, rest].concat());
        assert_eq!(output.status.code(), Some(4));
        let error = text(&output.stderr);
        assert!(error.contains("/nonexistent/") && error.contains("is nvme-drv running?"), "{error}");
        assert!(started.elapsed() < PATIENCE);
    }
}

#[test]
fn each_place_names_the_right_spelling_of_read_only() {
    for (arguments, says) in [
        (
            &["create", "device=1234:n1", "--readonly", "--listen", "/x"][..],
            "--readonly is a word here, not an option: read-only",
        ),
        (
            &["create", "device=1234:n1", "--read-only", "--listen", "/x"],
            "--read-only is a word here, not an option: read-only",
        ),
        (
            &["create", "device=1234:n1,ro", "--listen", "/x"],
            "words of create stand alone: device=1234:n1 read-only",
        ),
        (&["run", "a=1234:n1,readonly", "--", "true"], "`readonly`: did you mean read-only?"),
        (&["run", "a=1234:n1", "--", "echo", "{b}"], "{b} in the command names no session; there is a."),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {}", text(&output.stderr));
    }
}
