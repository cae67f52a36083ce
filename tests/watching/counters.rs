//! What sessions did, counted.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use nvme_client::{Client, Io, Options, Segment, Status, kind};
use nvme_linux::inventory::{ByKind, Counters};

use crate::server::{Bench, wait_until};
use crate::{inventory, metrics, nvme_ctl, run, text};

/// The only session's counters, once as many requests were answered.
fn counters(bench: &Bench, requests: u64) -> Counters {
    let mut found = Counters::default();
    wait_until("the counts", || {
        let inventory = inventory(bench);
        found = inventory.sessions.first().map(|s| s.counters.clone()).unwrap_or_default();
        found.requests.sum() >= requests
    });
    found
}

#[test]
fn each_request_is_counted_by_kind_with_its_bytes_and_its_latency() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    let before = counters(&bench, 0);
    let mut data = vec![0; 8192];
    for _ in 0..5 {
        client.read(0, &mut data).unwrap();
    }
    for _ in 0..3 {
        client.write(0, &data[..4096]).unwrap();
    }
    client.flush().unwrap();
    client.id().unwrap();
    let far = 1 << 30;
    assert!(client.read(far, &mut data).is_err());
    let counted = counters(&bench, before.requests.sum() + 11);
    let requests = &counted.requests;
    assert_eq!((requests.read, requests.write, requests.flush), (6, 3, 1), "{counted:?}");
    assert_eq!(requests.other - before.requests.other, 1, "its name");
    assert_eq!((counted.failed.read, counted.failed.sum()), (1, 1));
    assert_eq!((counted.read_bytes, counted.written_bytes), (5 * 8192, 3 * 4096));
    assert_eq!((counted.in_flight, counted.depth_most), (0, 1));
    let listed = inventory(&bench);
    assert!(counted.registered_bytes >= 1 << 20, "{counted:?}");
    assert_eq!(counted.registered_bytes, listed.sessions[0].registered);
    assert_eq!(listed.controllers[0].counters.ready, 1);
    assert!(counted.notifications > 0 && counted.notifications <= requests.sum(), "{counted:?}");
    for (kind, latency) in counted.latency_seconds.iter() {
        let (_, many) = counted.requests.iter().find(|(word, _)| *word == kind).unwrap();
        assert_eq!(latency.count(), *many, "{kind}");
    }
    // What was answered at once took no time; the others took some, and no longer than this test.
    let read = &counted.latency_seconds.read;
    assert!(read.sum > 0.0 && read.sum < 60.0, "{read:?}");
    assert!(read.buckets.iter().all(|(n, _)| *n < 36), "{read:?}");
    let inventory = inventory(&bench);
    let [queue] = inventory.sessions[0].by_queue.as_slice() else { panic!("{inventory:?}") };
    assert_eq!((queue.queue, queue.requests, queue.read_bytes), (0, requests.sum(), counted.read_bytes));
}

/// Requests that a real image fails, and one that the server refuses before: that is no error of the controller's.
#[test]
fn what_a_controller_fails_is_counted_by_kind_and_by_its_status_wherever_numbers_are_shown() {
    let bench = Bench::new();
    let (ctl, metrics) = (bench.socket("ctl"), bench.socket("metrics"));
    let disk = format!("{},engine=uring", bench.disk());
    let server = bench.start(&[&disk, &bench.socket("svr"), &ctl, &metrics], &[], &[]);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:bystander"]), &Options::default()).unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    assert_eq!(counters(&bench, 1).errors, ByKind::default(), "nothing failed yet");
    // Somebody cuts the image off before the last partition.
    File::options().write(true).open(bench.path("disk")).unwrap().set_len(2 << 20).unwrap();
    for _ in 0..3 {
        assert!(client.read(0, &mut [0; 4096]).is_err(), "{}", server.said());
    }
    assert!(client.read(1 << 30, &mut [0; 512]).is_err());
    let counted = counters(&bench, 5);
    assert_eq!((counted.failed.read, counted.failed.sum()), (4, 4));
    let read = &counted.errors.read;
    assert_eq!(read.iter().collect::<Vec<_>>(), [(&"out_of_range".to_owned(), &3)], "{counted:?}");
    assert_eq!(counted.errors.iter().map(|(_, by)| by.len()).sum::<usize>(), 1, "{counted:?}");
    server.says("status 0x080 (LBA Out of Range)");
    let stat: serde_json::Value = serde_json::from_slice(&run(&bench, &["stat", "--json"]).stdout).unwrap();
    assert_eq!(stat["sessions"][0]["counters"]["errors"]["read"]["out_of_range"], 3, "{stat}");
    assert_eq!(stat["sessions"][0]["rates"]["errors"]["read"]["out_of_range"], 0.0, "{stat}");
    let (_, body) = metrics::ask(metrics::at(&bench), metrics::GET);
    let line = body.lines().find(|line| line.starts_with("nvme_drv_session_errors_total{")).unwrap();
    assert!(line.ends_with(",kind=\"read\",status=\"out_of_range\"} 3"), "{line}");
    assert_eq!(body.matches("\nnvme_drv_session_errors_total{").count(), 1, "{body}");
    metrics::checked(&body);
}

#[test]
fn counts_go_on_with_a_session_s_next_client() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    bench.factory();
    let path = bench.path("listen");
    let words = ["create", "device=partlabel:attack", "--listen", path.to_str().unwrap()];
    let mut holder = crate::nvme_ctl(&bench, &words).spawn().unwrap();
    wait_until("the socket", || path.exists());
    for round in 1..=2 {
        let mut client = Client::connect(&path, &Options::default()).unwrap();
        client.read(0, &mut [0; 4096]).unwrap();
        drop(client);
        assert_eq!(counters(&bench, round).requests.read, round);
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn stat_shows_what_is_done_a_second() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    let fd = bench.create(&["device=partlabel:attack"]);
    let mut client = Client::from_fd(fd, &Options::default()).unwrap();
    let asks = std::thread::spawn(move || {
        for _ in 0..150 {
            client.read(0, &mut [0; 4096]).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        client
    });
    let output = run(&bench, &["stat"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let row = said.lines().find(|line| line.contains("SN 1:2:n1:2")).unwrap_or_else(|| panic!("{said}"));
    let (_, behind) = row.split_once("n1:2").unwrap();
    let reads: f64 = behind.split_whitespace().next().unwrap().parse().unwrap();
    assert!(reads > 1.0 && reads <= 110.0, "at most 100 a second: {said}");
    assert!(said.contains("worker 0: "), "{said}");
    drop(asks.join().unwrap());
    let asleep = inventory(&bench).workers[0].asleep_seconds;
    assert!(asleep > 0.1, "it slept between requests: {asleep}");
}

/// Requests that are not as most are: in two buffers, or at an odd address that no PRP can say.
#[test]
fn requests_of_an_unusual_form_and_those_whose_data_is_copied_are_counted_as_such() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl"), "--nosgl"]);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    let mut read = |segments: &[(u64, u32)]| {
        let at = client.scratch;
        let segments: Vec<Segment> =
            segments.iter().map(|(offset, len)| Segment { addr: at + offset, len: *len }).collect();
        let io = Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
        assert_eq!(client.request(0, io).unwrap().status, Status::Ok);
    };
    let forms = |counters: &Counters| (counters.slow_path, counters.bounced);
    let before = counters(&bench, 0);
    read(&[(0, 4096)]);
    let usual = counters(&bench, before.requests.sum() + 1);
    assert_eq!(forms(&usual), forms(&before));
    read(&[(0, 512), (8192, 512)]);
    let unusual = counters(&bench, before.requests.sum() + 2);
    assert_eq!(unusual.slow_path, before.slow_path + 1);
    read(&[(1, 512)]);
    let copied = counters(&bench, before.requests.sum() + 3);
    assert_eq!(copied.bounced, unusual.bounced + 1, "{copied:?}");
}

#[test]
fn a_worker_that_sleeps_counts_as_asleep_whenever_somebody_looks() {
    let bench = Bench::new();
    let server = bench.serve(&[&bench.socket("ctl")]);
    server.says("ready");
    let asleep = || {
        let inventory = inventory(&bench);
        (inventory.workers[0].asleep_seconds, inventory.clock as f64 / 1e9)
    };
    // It has nothing to do, and nothing wakes it.
    wait_until("sleep", || asleep().0 > 0.0);
    let (before, then) = asleep();
    std::thread::sleep(Duration::from_millis(400));
    let (after, now) = asleep();
    assert!(after - before > 0.8 * (now - then), "{} of {} s", after - before, now - then);
}

#[test]
fn stat_goes_on_until_the_server_is_gone() {
    let bench = Bench::new();
    let mut server = bench.serve(&[&bench.socket("ctl")]);
    let session = bench.create(&["device=partlabel:attack"]);
    let mut stat = nvme_ctl(&bench, &["stat", "--json", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(stat.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let report: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(report["sessions"][0]["device"], "SN 1:2:n1:2", "{report}");
        assert!(report["seconds"].as_f64().unwrap() >= 1.0, "{report}");
    }
    drop(session);
    assert_eq!(server.stop(), 0);
    let output = stat.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("cannot connect"), "{}", text(&output.stderr));
}
