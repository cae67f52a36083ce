//! Metrics as Prometheus comes for them.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nvme_client::{Client, Options};
use nvme_linux::inventory::{Form, NAMES};

use crate::server::{Bench, WAIT, wait_until};

/// Sends a request, and receives all of the answer: its head, and its body.
pub(crate) fn ask(mut socket: impl Read + Write, request: &str) -> (String, String) {
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

pub(crate) fn at(bench: &Bench) -> UnixStream {
    let mut socket = None;
    wait_until("the socket", || {
        socket = UnixStream::connect(bench.path("metrics")).ok();
        socket.is_some()
    });
    socket.unwrap()
}

pub(crate) const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn prometheus_own_tool_finds_nothing_wrong_with_all_numbers() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("metrics")]);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    client.write(0, &[0; 512]).unwrap();
    let mut found = (String::new(), String::new());
    wait_until("the counts", || {
        found = ask(at(&bench), GET);
        found.1.contains("kind=\"write\"} 1")
    });
    let (head, body) = found;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    // Errors are there as far as there were any (counters.rs).
    for name in NAMES.iter().filter(|name| !name.by_status) {
        let suffix = if name.form == Form::Counter { "_total" } else { "" };
        assert!(body.contains(&format!("\n{}{suffix}", name.metric())), "{}", name.name);
    }
    checked(&body);
    // And who knows OpenMetrics gets that.
    let accepts =
        "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0,*/*;q=0.1\r\n\r\n";
    let (head, body) = ask(at(&bench), accepts);
    assert!(head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"), "{head}");
}

/// Prometheus' own parser has nothing to say.
pub(crate) fn checked(body: &str) {
    let mut tool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(tool) => tool,
        Err(e) => panic!("promtool: {e} (apt-get install prometheus)"),
    };
    tool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = crate::text(&output.stdout) + &crate::text(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{body}");
}

#[test]
fn metrics_are_had_by_tcp_of_this_machine_and_nothing_else_is() {
    let bench = Bench::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let word = format!("--cap=metrics=tcp:127.0.0.1:{port}");
    let server = bench.serve(&[&word]);
    bench.factory();
    let connect = || {
        let deadline = Instant::now() + WAIT;
        // The factory may be there a moment before.
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other.unwrap(),
            }
        }
    };
    assert!(ask(connect(), GET).1.contains("nvme_drv_worker_asleep_seconds_total"));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (head, body) = ask(connect(), request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(!body.contains("nvme_drv_"), "{body}");
    }
    let begin = "GET /metrics HTTP/1.1\r\nX: ";
    let long = format!("{begin}{}", "x".repeat(4096 - begin.len()));
    assert!(ask(connect(), &long).0.starts_with("HTTP/1.1 431 "));
    server.says(&format!("metrics at 127.0.0.1:{port}"));
    let mut refused =
        bench.start(&[&bench.disk(), &bench.socket("svr"), "--cap=metrics=tcp:0.0.0.0:9000"], &[], &[]);
    assert_eq!(refused.wait(), 2);
    refused.says("add `,public` if that is meant");
}

#[test]
fn those_who_say_nothing_hold_nobody_up_for_longer_than_their_time() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("metrics")]);
    let silent: Vec<UnixStream> = (0..8).map(|_| at(&bench)).collect();
    // The ninth is closed at once.
    let begin = Instant::now();
    let mut ninth = at(&bench);
    assert_eq!(ninth.read(&mut [0; 1]).unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_secs(5));
    // The factory does not notice.
    drop(bench.create(&["device=partlabel:attack"]));
    for mut one in silent {
        assert_eq!(one.read(&mut [0; 1]).unwrap(), 0, "its time is over");
    }
    assert!(begin.elapsed() > Duration::from_secs(5));
    assert!(ask(at(&bench), GET).0.starts_with("HTTP/1.1 200"));
}

/// As systemd passes the socket of a `.socket` unit.
#[test]
fn a_listening_socket_is_inherited_by_its_name() {
    use std::os::fd::AsFd;
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = [bench.disk(), bench.socket("svr")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _server = bench.start(&words, &[("metrics", listener.as_fd())], &[]);
    drop(listener);
    let answer = ask(TcpStream::connect(("127.0.0.1", port)).unwrap(), GET);
    assert!(answer.1.contains("nvme_drv_worker_busy_seconds_total"), "{answer:?}");
}
