//! Requests that take long are remembered, with where their time went.

use std::time::{Duration, Instant};

use nvme_client::{Client, Io, Options, Segment, kind};
use nvme_linux::inventory::{Slow, SlowRequest};
use rustix::process::Signal;

use crate::server::{Bench, WAIT, wait_until};
use crate::{run, text};

/// What the server remembers of requests that took so long.
fn slow(bench: &Bench, ms: Option<&str>) -> Slow {
    let words: Vec<&str> = ["slow", "--json"].into_iter().chain(ms).collect();
    let output = run(bench, &words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    Slow::from_json(&text(&output.stdout)).unwrap()
}

fn in_order(request: &SlowRequest) {
    assert!(request.taken <= request.submitted, "{request:?}");
    assert!(request.submitted <= request.completed, "{request:?}");
    assert!(request.completed <= request.used, "{request:?}");
    let sum = request.held_seconds + (request.used - request.taken) as f64 / 1e9;
    assert!((request.seconds - sum).abs() < 1e-6, "{request:?}");
}

#[test]
fn a_request_that_a_limit_kept_waiting_says_so() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl"), &bench.socket("admin")]);
    let words = ["device=partlabel:attack", "iops=5"];
    let mut client = Client::from_fd(bench.create(&words), &Options::default()).unwrap();
    for sector in 0..4 {
        client.read(sector * 8, &mut [0; 4096]).unwrap();
    }
    let found = slow(&bench, Some("50"));
    assert!(!found.requests.is_empty() && found.ms == 50, "{found:?}");
    for request in &found.requests {
        in_order(request);
        assert_eq!((request.kind.as_str(), request.bytes, request.status.as_str()), ("read", 4096, "ok"));
        assert_eq!(request.device.as_deref(), Some("SN 1:2:n1:2"));
        assert!(request.held_seconds > 0.05 && request.held_seconds < 5.0, "{request:?}");
        assert!(request.used <= found.clock);
    }
    let said = text(&run(&bench, &["slow", "50"]).stdout);
    let row = said.lines().nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(row.contains("device=SN") || row.contains("SN 1:2:n1:2"), "{said}");
    assert!(said.lines().next().unwrap().contains("limit  line  drive  told"), "{said}");
    // Nothing took as long as that.
    assert!(slow(&bench, Some("3600000")).requests.is_empty());
    assert_eq!(run(&bench, &["slow", "0"]).status.code(), Some(2));
    let mut admin = nvme_linux::factory::Client::connect(bench.path("admin")).unwrap();
    for wrong in ["0", "-1", "x"] {
        let refusal = admin.ask(["slow", wrong]).unwrap_err();
        assert!(refusal.errno == 22 && refusal.message.contains("milliseconds"), "{wrong}: {refusal}");
    }
    assert_eq!(admin.ask(["slow", "1", "2"]).unwrap_err().errno, 22);
}

/// The server is stopped in the middle of what it does: for whatever was under way then, that took long.
#[test]
fn a_request_that_took_long_is_remembered_with_its_stages() {
    let bench = Bench::new();
    let server = bench.serve(&[&bench.socket("ctl"), &bench.socket("admin"), "--workers=1"]);
    let fd = bench.create(&["device=partlabel:attack"]);
    let mut client = Client::from_fd(fd, &Options::default()).unwrap();
    assert!(slow(&bench, Some("200")).requests.is_empty());
    let deadline = Instant::now() + WAIT;
    let stopper = std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut asked = 0_u64;
            let segments = [Segment { addr: client.scratch, len: 65536 }];
            while Instant::now() < deadline {
                for token in 0..8 {
                    let io =
                        Io { kind: kind::OUT, sector: token * 128, segments: &segments, to_device: true };
                    let queue = client.queue(0).unwrap();
                    queue.submit(io, token).unwrap();
                }
                client.queue(0).unwrap().publish().unwrap();
                client.queue(0).unwrap().kick().unwrap();
                let mut done = 0;
                while done < 8 {
                    done += usize::from(client.queue(0).unwrap().poll().unwrap().is_some());
                }
                asked += 8;
                if asked.is_multiple_of(800) && !slow(&bench, Some("200")).requests.is_empty() {
                    return true;
                }
            }
            false
        });
        while !asks.is_finished() {
            server.signal(Signal::STOP);
            std::thread::sleep(Duration::from_millis(300));
            server.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(100));
        }
        asks.join().unwrap()
    });
    assert!(stopper, "nothing was under way when it was stopped");
    let found = slow(&bench, Some("200"));
    for request in &found.requests {
        in_order(request);
        assert_eq!((request.kind.as_str(), request.bytes), ("write", 65536), "{request:?}");
        assert!((1..=8).contains(&request.together) && request.held_seconds == 0.0, "{request:?}");
        assert!(request.seconds >= 0.2 && request.seconds < 60.0, "{request:?}");
    }
    // It is remembered though its session is gone.
    drop(client);
    wait_until("its end", || crate::inventory(&bench).sessions.is_empty());
    let later = slow(&bench, Some("200"));
    assert_eq!(later.requests.len(), found.requests.len());
    assert!(later.requests.iter().all(|request| request.device.is_none()));
}
