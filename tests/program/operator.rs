//! What the operator asks of the running server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nvme_client::{Client, Io, Options, Segment, Status, kind};
use nvme_linux::inventory::Inventory;

use crate::server::{Bench, wait_until};

fn ctl(bench: &Bench, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ctl"));
    command.env("NVME_DRV_ADMIN", bench.path("admin")).env("NVME_DRV_CTL", bench.path("ctl"));
    let done = command.args(words).output().unwrap();
    (done.status.code(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
}

/// A client that offers one read, which it does not wait for.
fn offer(client: &mut Client, token: u64) {
    let segments = [Segment { addr: client.scratch, len: 512 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false }, token).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
}

fn done(client: &mut Client) -> bool {
    let done = client.queue(0).unwrap().poll().unwrap();
    done.inspect(|completion| assert_eq!(completion.status, Status::Ok)).is_some()
}

#[test]
fn sessions_of_a_device_that_is_drained_wait_until_it_is_resumed_and_nothing_fails() {
    let bench = Bench::new();
    let mut server = bench.serve(&[&bench.socket("admin")]);
    let client = |name: &str| {
        Client::from_fd(bench.create(&[&format!("device=partlabel:{name}")]), &Options::default()).unwrap()
    };
    for (drained, resumed) in [("SN 1:2:n1:2", "partlabel:attack"), ("SN 1:2", "SN 1:2"), ("", "")] {
        let words = |verb: &'static str, word: &'static str| {
            ctl(&bench, &[verb, word].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>())
        };
        let (mut held, mut other) = (client("attack"), client("after"));
        held.read(0, &mut [0; 512]).unwrap();
        let (status, said) = words("drain", drained);
        assert_eq!(status, Some(0), "{said}");
        server.says("is drained");
        offer(&mut held, 1);
        if drained.contains(":n1") {
            other.read(0, &mut [0; 512]).unwrap();
            // By another name than it was drained by, nothing goes on.
            assert_eq!(ctl(&bench, &["resume", "SN 1:2:n1:3"]).0, Some(3));
        }
        // One that comes meanwhile waits as well: its queue is set up, and nothing is taken from it.
        let mut late = drained.is_empty().then(|| client("before"));
        if let Some(late) = &mut late {
            offer(late, 2);
        }
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            assert!(!done(&mut held) && !late.as_mut().is_some_and(done), "{drained:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (status, said) = words("resume", resumed);
        assert!(status == Some(0) && said.contains("\"drained\":true"), "{said}");
        wait_until("what waited", || done(&mut held));
        if let Some(late) = &mut late {
            wait_until("who came meanwhile", || done(late));
        }
        other.read(0, &mut [0; 512]).unwrap();
        held.write(0, &[1; 512]).unwrap();
        // A session ends though it is held.
        assert_eq!(words("drain", drained).0, Some(0));
        offer(&mut held, 3);
        drop((held, other, late));
        drop(bench.create(&["device=partlabel:attack"]));
        assert_eq!(words("resume", resumed).0, Some(0));
    }
    for nobody in ["SN 1:2:n1:9", "nobody"] {
        assert_eq!(ctl(&bench, &["drain", nobody]).0, Some(3), "{nobody}");
        assert_eq!(ctl(&bench, &["resume", nobody]).0, Some(3), "{nobody}");
    }
    assert_eq!(ctl(&bench, &["drain", "a", "b"]).0, Some(2));
    // What a terminal would take for more than words does not come back.
    for verb in ["drain", "resume", "rescan"] {
        let (status, said) = ctl(&bench, &[verb, "SN 1:2:n1\u{1b}[31m"]);
        assert!(matches!(status, Some(2 | 3)) && !said.contains('\u{1b}'), "{verb}: {said:?}");
    }
    // And the server stops, drained or not.
    let mut held = client("attack");
    assert_eq!(ctl(&bench, &["drain"]).0, Some(0));
    offer(&mut held, 4);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_session_is_ended_by_its_number_and_how_much_is_said_changes() {
    let bench = Bench::new();
    let words = ["--client", "cl1", "--device", "partlabel:after"];
    let (admin, cl1) = (bench.socket("admin"), bench.socket("cl1"));
    let all: Vec<&str> = [admin.as_str(), cl1.as_str()].into_iter().chain(words).collect();
    let mut server = bench.serve(&all);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(ctl(&bench, &["end", "77"]).0, Some(3));
    let (status, said) = ctl(&bench, &["end", "2"]);
    assert_eq!(status, Some(0), "{said}");
    server.says("session 2: ended");
    drop(bench.create(&["device=partlabel:attack"]));
    // A static client's begins anew, for whoever connects next.
    let fixed = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    assert_eq!(ctl(&bench, &["end", "1"]).0, Some(0));
    drop(fixed);
    wait_until("the next client", || {
        Client::connect(bench.path("cl1"), &Options::default())
            .is_ok_and(|mut next| next.read(0, &mut [0; 512]).is_ok())
    });
    assert!(!server.said().contains("debug: "));
    assert_eq!(ctl(&bench, &["verbose", "2"]).0, Some(0));
    drop(bench.create(&["device=partlabel:attack"]));
    server.says("debug: ");
    assert_eq!(ctl(&bench, &["verbose", "4"]).0, Some(2));
    assert_eq!(server.stop(), 0);
    assert_eq!(ctl(&bench, &["end", "1"]).0, Some(4), "nobody is there");
}

/// Whoever partitioned a disk from outside has that known without a restart, with sessions or without.
#[test]
fn a_table_that_changed_outside_is_known_after_a_rescan_and_the_answer_says_what_there_is() {
    let bench = Bench::new();
    let mut server = bench.serve(&[&bench.socket("admin"), &bench.socket("ctl")]);
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    let partitions = || {
        let listed = ctl(&bench, &["ls", "--json"]).1;
        let inventory = Inventory::from_json(listed.as_bytes()).unwrap();
        inventory.controllers[0].namespaces[0].partitions.len()
    };
    assert_eq!(partitions(), 4);
    let whole = std::fs::metadata(bench.path("disk")).unwrap().len();
    let disk = File::options().read(true).write(true).open(bench.path("disk")).unwrap();
    // Both tables: at its begin, and at its end.
    let tables = [(0, 34 * 512), (whole - 33 * 512, 33 * 512)].map(|(at, len)| {
        let mut bytes = vec![0; len];
        disk.read_exact_at(&mut bytes, at).unwrap();
        disk.write_all_at(&vec![0; len], at).unwrap();
        (at, bytes)
    });
    assert_eq!(partitions(), 4, "nobody looked");
    let told = format!("[{{\"device\":\"SN 1:2:n1\",\"bytes\":{whole}}}]\n");
    assert_eq!(ctl(&bench, &["rescan", "SN 1:2"]), (Some(0), told.clone()));
    // What a session has stays as it is; what is nobody's is gone.
    assert!(partitions() < 4);
    client.write(0, &[7; 512]).unwrap();
    assert!(bench.factory().create(&["device=partlabel:after"], None).is_err());
    for (at, bytes) in tables {
        disk.write_all_at(&bytes, at).unwrap();
    }
    assert_eq!(ctl(&bench, &["rescan"]), (Some(0), told));
    assert_eq!(partitions(), 4);
    drop(bench.create(&["device=partlabel:after"]));
    client.read(0, &mut [0; 512]).unwrap();
    for nobody in ["SN 1", "SN 1:2:3", "nobody"] {
        let (status, said) = ctl(&bench, &["rescan", nobody]);
        assert!(status == Some(3) && said.contains(&format!("`{nobody}`")), "{said}");
    }
    assert_eq!(server.stop(), 0);
}
