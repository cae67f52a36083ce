//! What a session may do a second, and that others do not notice.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvme_client::{Client, Factory, Io, Options, Segment, kind};

use crate::server::{Bench, Server, WAIT};
use crate::{inventory, run, text};

/// A client that reads as fast as it can, `len` bytes at a time, until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn start(mut client: Client, len: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut data = vec![0; len];
            while !told.load(Ordering::Relaxed) {
                client.read(0, &mut data).unwrap();
            }
        });
        Self { stop, thread }
    }

    /// Always has as many requests waiting as a session's part of 30 ms is.
    fn many(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // All of it: a session is over when its connection is.
            let mut client = client;
            let segments = [Segment { addr: client.scratch, len: 4096 }];
            let io = Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
            while !told.load(Ordering::Relaxed) {
                let queue = &mut client.queues[0];
                while queue.in_flight() < 16 {
                    queue.submit(io, 0).unwrap();
                }
                queue.publish().unwrap();
                queue.next(Duration::ZERO, Instant::now() + WAIT).unwrap();
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn client(bench: &Bench, words: &[&str]) -> Client {
    Client::from_fd(bench.create(words), &Options::default()).unwrap()
}

/// Requests and bytes a second, by session, over about so long; by the server's own clock. What a burst brings is over then.
fn rates(bench: &Bench, over: Duration) -> Vec<(f64, f64)> {
    thread::sleep(Duration::from_millis(300));
    let before = inventory(bench);
    thread::sleep(over);
    let after = inventory(bench);
    let seconds = (after.clock - before.clock) as f64 / 1e9;
    let pairs = before.sessions.iter().zip(&after.sessions);
    pairs
        .map(|(b, a)| {
            assert_eq!(a.id, b.id);
            let requests = a.counters.requests.sum() - b.counters.requests.sum();
            let bytes = a.counters.read_bytes - b.counters.read_bytes;
            (requests as f64 / seconds, bytes as f64 / seconds)
        })
        .collect()
}

/// What a burst is of the time that is measured.
const BURST: f64 = 0.05;

/// Waits until what `of` says of the rates is as near to that as it should be, and says all of them. Never is it more, but for a burst.
///
/// A machine that has other things to do may stop the client, or the server, for longer than a burst makes up for: then it is measured again.
fn settles(
    bench: &Bench,
    what: &str,
    wanted: f64,
    part: f64,
    of: impl Fn(&[(f64, f64)]) -> f64,
) -> Vec<(f64, f64)> {
    let deadline = Instant::now() + 3 * WAIT;
    loop {
        let all = rates(bench, LONG);
        let is = of(&all);
        assert!(is <= wanted * (1.0 + part + BURST), "{what}: {is:.1}, more than {wanted:.1}");
        if (is - wanted).abs() <= wanted * part {
            return all;
        }
        let off = part * 100.0;
        assert!(Instant::now() < deadline, "{what}: {is:.1}, not {wanted:.1} ± {off:.0} %");
    }
}

fn serve(bench: &Bench, words: &[&str]) -> Server {
    let (ctl, admin) = (bench.socket("ctl"), bench.socket("admin"));
    let all: Vec<&str> = [ctl.as_str(), admin.as_str()].into_iter().chain(words.iter().copied()).collect();
    bench.serve(&all)
}

/// Two seconds, and 5 %. `cargo xtask bench --limits` measures ten seconds and 2 %.
const LONG: Duration = Duration::from_secs(2);

#[test]
fn a_session_has_as_many_requests_a_second_as_it_may_and_others_as_many_as_they_like() {
    let bench = Bench::new();
    let _server = serve(&bench, &[]);
    let limited = Reader::start(client(&bench, &["device=partlabel:attack", "iops=500"]), 4096);
    let free = Reader::start(client(&bench, &["device=partlabel:bystander"]), 4096);
    let both = settles(&bench, "limited", 500.0, 0.05, |all| all[0].0);
    assert!(both[1].0 > 5.0 * 500.0, "the other is not held back: {both:?}");
    let sessions = inventory(&bench).sessions;
    assert_eq!((sessions[0].iops, sessions[1].iops), (Some(500), None));
    let held = |at: usize| sessions[at].counters.held_seconds;
    assert!(held(0) > 1.0 && held(1) == 0.0, "{} {}", held(0), held(1));
    limited.stop();
    free.stop();
}

#[test]
fn a_session_has_as_many_bytes_a_second_as_it_may_however_long_its_requests_are() {
    let bench = Bench::new();
    let _server = serve(&bench, &[]);
    for len in [4096, 128 << 10] {
        let reader = Reader::start(client(&bench, &["device=partlabel:attack", "bytes=1M"]), len);
        // A request of 128 KiB is an eighth of a second's bytes, counted when it is taken.
        let part = if len > 4096 { 0.12 } else { 0.05 };
        settles(&bench, &format!("{len} bytes each"), 1048576.0, part, |all| all[0].1);
        reader.stop();
    }
}

#[test]
fn limits_are_changed_while_a_session_works() {
    let bench = Bench::new();
    let server = serve(&bench, &[]);
    let reader = Reader::start(client(&bench, &["device=partlabel:attack", "iops=1"]), 4096);
    let id = inventory(&bench).sessions[0].id.to_string();
    let limit = |words: &[&str]| {
        let all: Vec<&str> = ["limit", &id].into_iter().chain(words.iter().copied()).collect();
        run(&bench, &all)
    };
    // It waits for a second now, and not any longer.
    let said = limit(&["iops=300"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(text(&said.stdout).trim(), format!("{{\"session\":{id},\"iops\":300,\"bytes\":null}}"));
    settles(&bench, "300", 300.0, 0.05, |all| all[0].0);
    assert!(limit(&["none"]).status.success());
    assert!(rates(&bench, Duration::from_millis(300))[0].0 > 1500.0);
    assert!(limit(&["bytes=400K"]).status.success());
    settles(&bench, "400K", 409_600.0, 0.05, |all| all[0].1);
    server.says(&format!("limit {id} bytes=400K"));
    for (words, status) in [(&["iops=0"][..], 2), (&["speed=1"], 2)] {
        let refused = limit(words);
        assert_eq!(refused.status.code(), Some(status), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("iops=N"), "{}", text(&refused.stderr));
    }
    let refused = run(&bench, &["limit", "4711", "none"]);
    assert!(text(&refused.stderr).contains("there is no session 4711"), "{}", text(&refused.stderr));
    reader.stop();
}

/// Two sessions of a factory that has this bound read all they can, 4096 bytes at a time; then what `of` says of both settles.
fn together(bound: &str, wanted: f64, of: impl Fn(&(f64, f64)) -> f64) {
    let bench = Bench::new();
    let _server = serve(&bench, &["--workers=2"]);
    let words = ["device=partlabel:attack", "device=partlabel:bystander", "sessions=2", bound];
    let reply = bench.factory().request("factory", &words, None).unwrap();
    let [factory, _lifetime] = <[OwnedFd; 2]>::try_from(reply.fds).unwrap();
    let factory = Factory::from_fd(factory, WAIT);
    let readers: Vec<Reader> = ["device=partlabel:attack", "device=partlabel:bystander"]
        .into_iter()
        .map(|word| {
            let fd = factory.create(&[word], None).unwrap();
            Reader::many(Client::from_fd(fd, &Options::default()).unwrap())
        })
        .collect();
    settles(&bench, bound, wanted, 0.05, |all| all.iter().map(&of).sum());
    // Half each, but for what a machine that has other things to do keeps from one of them.
    let least = |all: &[(f64, f64)]| all.iter().map(&of).fold(f64::INFINITY, f64::min);
    settles(&bench, bound, wanted / 2.0, 0.2, least);
    readers.into_iter().for_each(Reader::stop);
}

#[test]
fn the_sessions_of_a_factory_have_what_it_may_together_on_whatever_workers() {
    together("iops-all=600", 600.0, |(iops, _)| *iops);
    together("bytes-all=2M", 2_097_152.0, |(_, bytes)| *bytes);
}

#[test]
fn a_session_that_is_held_back_ends_at_once() {
    let bench = Bench::new();
    let _server = serve(&bench, &[]);
    let reader = Reader::start(client(&bench, &["device=partlabel:attack", "iops=1"]), 4096);
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    reader.stop();
    crate::server::wait_until("its end", || inventory(&bench).sessions.is_empty());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
