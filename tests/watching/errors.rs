//! What a controller fails is told in few lines, which count what they do not name.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use nvme_client::{Client, Options};

use crate::server::{Bench, Server, wait_until};

/// Sessions that all fail at a time, each on a queue pair of its own.
const SESSIONS: usize = 6;

/// How many lines there are about requests that failed, and of how many requests they tell.
fn told(server: &Server) -> (usize, u64) {
    let said = server.said();
    let mut told = (0, 0);
    for line in said.lines().filter(|line| line.contains("(LBA Out of Range)")) {
        let (_, behind) = line.split_once("Range)").unwrap();
        let more = behind.strip_prefix(" (").and_then(|rest| rest.split(' ').next());
        told.0 += 1;
        told.1 += 1 + more.map_or(0, |more| more.parse().unwrap());
    }
    for line in said.lines().filter(|line| line.contains("more requests of sessions failed")) {
        let (_, rest) = line.split_once("nvme-drv: ").unwrap();
        told.0 += 1;
        told.1 += rest.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap();
    }
    told
}

#[test]
fn however_many_requests_fail_there_are_a_few_lines_a_second_and_they_count_all() {
    let bench = Bench::new();
    let server = bench.start(&[&format!("{},engine=uring", bench.disk()), &bench.socket("svr")], &[], &[]);
    let client = || {
        let words = ["device=partlabel:bystander", "read-only"];
        let mut client = Client::from_fd(bench.create(&words), &Options::default()).unwrap();
        client.read(0, &mut [0; 4096]).unwrap();
        client
    };
    let clients: Vec<Client> = (0..SESSIONS).map(|_| client()).collect();
    // Somebody cuts the image off before the partition.
    File::options().write(true).open(bench.path("disk")).unwrap().set_len(2 << 20).unwrap();
    let begin = Instant::now();
    let until = begin + Duration::from_millis(2500);
    let fail = move |mut client: Client| {
        let mut failed = 0;
        while Instant::now() < until {
            assert!(client.read(0, &mut [0; 4096]).is_err());
            failed += 1;
        }
        (client, failed)
    };
    let threads: Vec<_> = clients.into_iter().map(|client| thread::spawn(move || fail(client))).collect();
    let (clients, failed): (Vec<Client>, Vec<u64>) =
        threads.into_iter().map(|thread| thread.join().unwrap()).unzip();
    let failed = failed.iter().sum::<u64>();
    wait_until("what is told of all", || told(&server).1 >= failed);
    let (lines, all) = told(&server);
    assert_eq!(all, failed);
    let seconds = begin.elapsed().as_secs() as usize;
    assert!(lines >= 2 && lines <= 4 * (seconds + 2), "{lines} lines of {failed} requests in {seconds} s");
    drop(clients);
}
