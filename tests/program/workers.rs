//! Two workers and one client with two busy queues: both serve it, and what it reads is right.

use std::time::Duration;

use nvme_client::bench::{Load, Order, fill_pattern};
use nvme_client::{Client, Options};

use crate::disk;
use crate::server::{Bench, WAIT, wait_until};

/// Nanoseconds that a thread of the server had a processor.
fn cpu(pid: i32, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let paths = tasks.map(|task| task.unwrap().path());
    let named =
        paths.filter(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == name));
    let ran = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap();
    named.map(|path| ran(path).split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn two_busy_queues_of_one_client_are_served_by_two_workers_and_come_together_when_idle() {
    let bench = Bench::new();
    let dir = disk::memory_dir();
    let image = dir.path().join("image");
    fill_pattern(&image, 8 << 20).unwrap();
    let disk = format!("--cap=vbus=soft:{},serial=two", image.display());
    let server = bench.start(&[&disk, &bench.socket("svr"), "--workers", "2", "-v", "-v"], &[], &[]);
    let options = Options { queues: 2, ..Options::default() };
    let mut client = Client::from_fd(bench.create(&["device=two:n1"]), &options).unwrap();
    // Long requests, of which the server has more to do than the client; and short ones, of which each is looked at.
    let order = Order::Random;
    let heavy =
        Load { order, block: 128 << 10, depth: 8, time: Duration::from_millis(300), ..Load::default() };
    let exact = Load { order, verify: true, time: Duration::from_millis(100), ..Load::default() };
    let (long, short) = (heavy.buffers(&mut client).unwrap(), exact.buffers(&mut client).unwrap());
    let check = |client: &mut Client| {
        for write in [false, true, false] {
            assert!(Load { write, ..exact }.run(client, &short).unwrap().requests > 0);
        }
    };
    check(&mut client);
    let deadline = std::time::Instant::now() + WAIT;
    while !server.said().contains("goes from worker") {
        assert!(std::time::Instant::now() < deadline, "no queue went anywhere: {}", server.said());
        heavy.run(&mut client, &long).unwrap();
    }
    check(&mut client);
    let workers = ["worker0", "worker1"];
    let before = workers.map(|name| cpu(server.pid(), name));
    heavy.run(&mut client, &long).unwrap();
    let used = [0, 1].map(|i| cpu(server.pid(), workers[i]) - before[i]);
    assert!(used.iter().all(|nanos| *nanos > 5_000_000), "both worked: {used:?}");
    // Nothing to do: what went comes back, and serves on.
    let went = |server: &crate::server::Server| server.said().matches("goes from worker").count();
    let now = went(&server);
    wait_until("the queue comes home", || went(&server) > now);
    check(&mut client);
}

/// How often each of those threads of the server went to sleep whose name begins so.
fn sleeps(pid: i32, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let word = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let named = statuses.filter(|status| word(status, "Name:").starts_with(name));
    named.map(|status| word(&status, "voluntary_ctxt_switches:").parse::<u64>().unwrap()).sum()
}

#[test]
fn threads_that_wait_for_a_session_of_their_own_sleep_as_long_as_there_is_none() {
    let bench = Bench::new();
    let server = bench.start(&["--cap=vbus=soft:mem:1M,serial=idle", &bench.socket("svr")], &[], &[]);
    let mut client = Client::from_fd(bench.create(&["device=idle:n1"]), &Options::default()).unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = sleeps(server.pid(), "apart");
    assert!(before > 0, "there are some");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sleeps(server.pid(), "apart"), before);
}
