//! A server that is starting is waited for, and a listing says since when a session is there.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nvme_client::{Client, Options};
use nvme_linux::inventory::Inventory;

use crate::server::Bench;
use crate::{inventory, nvme_ctl, run, text};

#[test]
fn whoever_waits_has_the_server_that_is_starting_with_all_its_disks() {
    let bench = Bench::new();
    let begin = Instant::now();
    assert_eq!(run(&bench, &["ls"]).status.code(), Some(4), "nobody is there");
    let gone = run(&bench, &["ls", "--wait=1"]);
    assert_eq!(gone.status.code(), Some(4), "{}", text(&gone.stderr));
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let mut waits = nvme_ctl(&bench, &["--wait", "ls", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(waits.try_wait().unwrap().is_none(), "it waits");
    let _server = bench.serve(&[&bench.socket("ctl")]);
    let output = waits.wait_with_output().unwrap();
    assert!(output.status.success());
    let shown = Inventory::from_json(&output.stdout).unwrap();
    assert!(!shown.scanning && shown.controllers[0].namespaces[0].partitions.len() == 4, "{shown:?}");
}

#[test]
fn a_session_says_since_when_it_is_there() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    let before = now();
    let client = Client::from_fd(bench.create(&["device=partlabel:attack"]), &Options::default()).unwrap();
    let since = inventory(&bench).sessions[0].since;
    assert!((before..=now()).contains(&since), "{since}");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(inventory(&bench).sessions[0].since, since);
    let listed = text(&run(&bench, &["ls"]).stdout);
    assert!(listed.lines().all(|line| line.chars().count() <= 100), "{listed}");
    // The name of a process is a guess, and marked as one.
    let whose = listed.lines().find(|line| line.contains("process") && line.contains("of user")).unwrap();
    assert!(whose.contains("?)"), "{listed}");
    drop(client);
}
