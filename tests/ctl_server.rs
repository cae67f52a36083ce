//! `nvme-ctl` and the real server, both as programs.

#![forbid(unsafe_code)]

#[path = "hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
#[path = "program/server.rs"]
#[expect(dead_code, reason = "the tests of the program use more of it")]
mod server;

use std::io::Cursor;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use nvme_client::{Client, Options, socket};
use nvme_linux::inventory::{Access, Inventory, State};
use rustix::process::{Pid, Signal};

use crate::server::{Bench, wait_until};

const WORD: &str = "device=SN 1:2:n1:2";

fn nvme_ctl(bench: &Bench, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ctl"));
    command.env("NVME_DRV_SVR", bench.path("svr")).env("NVME_DRV_CTL", bench.path("ctl"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(bench: &Bench, words: &[&str]) -> Output {
    nvme_ctl(bench, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The document, as soon as the scan is over.
fn scanned(bench: &Bench) -> Inventory {
    let mut found = None;
    wait_until("the scan", || {
        let output = run(bench, &["ls", "--json"]);
        found = Inventory::from_json(&output.stdout).ok().filter(|i| !i.scanning);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn ls_shows_disks_and_partitions_as_they_are() {
    let bench = Bench::new();
    let mut server = bench.serve(&[&bench.socket("ctl")]);
    let inventory = scanned(&bench);
    assert_eq!(inventory.pid, server.pid().unsigned_abs());
    assert!(inventory.sessions.is_empty() && inventory.clients.is_empty() && inventory.trusted.is_empty());
    let [controller] = inventory.controllers.as_slice() else { panic!("{inventory:?}") };
    assert_eq!((controller.serial.as_str(), controller.state), ("SN 1:2", State::Ready));
    let [namespace] = controller.namespaces.as_slice() else { panic!("{controller:?}") };
    assert_eq!((namespace.nsid, namespace.block_size, namespace.table.as_deref()), (1, 512, Some("gpt")));
    assert_eq!(namespace.blocks * 512, disk::SIZE);
    let labels: Vec<&str> = namespace.partitions.iter().map(|p| p.label.as_str()).collect();
    assert_eq!(labels, disk::LABELS);
    assert!(namespace.partitions.iter().all(|p| p.blocks == disk::SECTORS));
    let tree = text(&run(&bench, &["ls"]).stdout);
    assert!(tree.contains("'device=SN 1:2:n1:2'") && tree.contains("\"attack\""), "{tree}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn create_serves_clients_at_its_socket_until_it_ends() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    scanned(&bench);
    let path = bench.path("listen");
    let mut command = nvme_ctl(&bench, &["create", WORD, "ds-max=1", "--listen"]);
    let mut holder = command.arg(&path).spawn().unwrap();
    wait_until("the socket", || path.exists());
    let options = Options::default();
    for round in 0..2u8 {
        let mut client = Client::connect(&path, &options).unwrap();
        let data = vec![round; 4096];
        client.write(0, &data).unwrap();
        let mut back = vec![0xff; 4096];
        client.read(0, &mut back).unwrap();
        assert_eq!(back, data);
        let inventory = scanned(&bench);
        let [session] = inventory.sessions.as_slice() else { panic!("{inventory:?}") };
        assert_eq!((session.device.as_str(), session.access), ("SN 1:2:n1:2", Access::ReadWrite));
        assert!(session.connected && session.client.is_none());
        assert_eq!((session.ds_max, session.dataspaces, session.regions, session.queues), (1, 1, 1, 1));
        assert_eq!((session.factory, session.held, session.path.as_deref()), (0, false, path.to_str()));
        assert_eq!(session.registered, 16 << 20);
        assert_eq!(session.peer.unwrap().pid, std::process::id().cast_signed());
    }
    // It is taken meanwhile, and free afterwards.
    let second = run(&bench, &["create", WORD, "--listen", bench.path("second").to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(3), "it is in use");
    assert!(text(&second.stderr).contains("nvme-ctl ls"), "{}", text(&second.stderr));
    assert!(!bench.path("second").exists());
    rustix::process::kill_process(Pid::from_child(&holder), Signal::TERM).unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(0));
    wait_until("the session's end", || scanned(&bench).sessions.is_empty());
    assert!(!path.exists());
}

#[test]
fn create_has_its_session_again_from_the_next_server_when_one_was_killed() {
    let bench = Bench::new();
    let ctl = bench.socket("ctl");
    let mut server = bench.serve(&[&ctl]);
    scanned(&bench);
    let path = bench.path("listen");
    let mut command = nvme_ctl(&bench, &["create", WORD, "name=vm1", "--listen"]);
    let mut holder = command.arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the socket", || path.exists());
    let mut client = Client::connect(&path, &Options::default()).unwrap();
    client.write(0, &[7; 4096]).unwrap();
    server.signal(Signal::KILL);
    server.wait();
    // Whoever connects meanwhile waits.
    let waiting = socket::connect_retry(&path, Duration::ZERO).unwrap();
    let mut server = bench.serve(&[&ctl]);
    client.reconnect(waiting, None).unwrap();
    let mut bytes = [0; 4096];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
    let inventory = scanned(&bench);
    assert_eq!(inventory.sessions.len(), 1);
    // Stopped, the server is gone for good.
    drop(client);
    std::fs::remove_file(bench.path("svr")).unwrap();
    assert_eq!(server.stop(), 0);
    assert_eq!(holder.wait().unwrap().code(), Some(1));
    assert!(!path.exists());
}

#[test]
fn run_gives_a_command_its_sessions_and_they_end_with_it() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    scanned(&bench);
    let ctl = env!("CARGO_BIN_EXE_nvme-ctl");
    let script = format!("readlink /proc/$$/fd/{{a}} /proc/$$/fd/{{b}}; exec {ctl} ls");
    let output = run(
        &bench,
        &["run", "a=partlabel:attack,ds-max=3", "b=SN 1:2:n1:4,read-only", "--", "sh", "-c", &script],
    );
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.starts_with("socket:[")).count(), 2, "{said}");
    // As many as the limit of descriptors has room for.
    assert!(said.contains("sessions: 2 of 2"), "{said}");
    assert!(said.contains("'device=SN 1:2:n1:2'  rw") && said.contains("'device=SN 1:2:n1:4'  ro"), "{said}");
    wait_until("the sessions' end", || scanned(&bench).sessions.is_empty());
}

/// A disk with as many partitions as a table usually has, with names as long as they can be.
fn crowded() -> Vec<u8> {
    let bytes = vec![0; 1 << 20];
    let mut device = Cursor::new(bytes);
    ProtectiveMBR::with_lb_size((1 << 20) / 512 - 1).overwrite_lba0(&mut device).unwrap();
    let mut disk = GptConfig::new().writable(true).create_from_device(device, None).unwrap();
    for number in 1..=128u32 {
        let label = "長".repeat(35);
        let first = 40 + u64::from(number) * 8;
        disk.add_partition_at(&label, number, first, 8, partition_types::LINUX_FS, 0).unwrap();
    }
    disk.write().unwrap().into_inner()
}

#[test]
fn a_document_longer_than_a_datagram_arrives_whole() {
    let bench = Bench::new();
    std::fs::write(bench.path("crowded"), crowded()).unwrap();
    let disks: Vec<String> = (0..10)
        .map(|n| format!("--cap=vbus=soft:{},serial=s{n},ro", bench.path("crowded").display()))
        .collect();
    let ctl = bench.socket("ctl");
    let words: Vec<&str> = disks.iter().map(String::as_str).chain([ctl.as_str()]).collect();
    let _server = bench.serve(&words);
    let inventory = scanned(&bench);
    let partitions: usize =
        inventory.controllers.iter().flat_map(|c| &c.namespaces).map(|n| n.partitions.len()).sum();
    assert_eq!(partitions, 10 * 128 + 4);
    // More than the kernel takes as one datagram (net.core.wmem_max, 208 KiB unless somebody raised it).
    assert!(inventory.to_json().unwrap().len() > 212_992);
}

/// A disk with a GPT of partitions by label and attributes, of which there may be none.
fn with_attributes(partitions: &[(&str, u64)]) -> Vec<u8> {
    let mut device = Cursor::new(vec![0; 1 << 20]);
    ProtectiveMBR::with_lb_size((1 << 20) / 512 - 1).overwrite_lba0(&mut device).unwrap();
    let mut disk = GptConfig::new().writable(true).create_from_device(device, None).unwrap();
    for (number, (label, attributes)) in (1..).zip(partitions) {
        let first = 64 * u64::from(number);
        disk.add_partition_at(label, number, first, 64, partition_types::LINUX_FS, *attributes).unwrap();
    }
    disk.write().unwrap().into_inner()
}

#[test]
fn a_partition_that_its_table_marks_read_only_is_listed_and_had_so() {
    let bench = Bench::new();
    std::fs::write(bench.path("marked"), with_attributes(&[("gold", 1 << 60), ("plain", 1)])).unwrap();
    let disk = format!("--cap=vbus=soft:{},serial=marked", bench.path("marked").display());
    let clients = ["--client", "cl1", "--device", "partlabel:gold"];
    let more = ["--client", "cl2", "--device", "partlabel:gold", "--readonly"];
    let sockets = [bench.socket("ctl"), bench.socket("cl1"), bench.socket("cl2")];
    let mut words = vec![disk.as_str()];
    words.extend(clients.iter().chain(&more));
    words.extend(sockets.iter().map(String::as_str));
    let server = bench.serve(&words);
    let inventory = scanned(&bench);
    let marked = inventory.controllers.iter().find(|c| c.serial == "marked").unwrap();
    let read_only: Vec<bool> = marked.namespaces[0].partitions.iter().map(|p| p.read_only).collect();
    assert_eq!((read_only, marked.namespaces[0].read_only), (vec![true, false], false));
    let tree = text(&run(&bench, &["ls"]).stdout);
    let lines: Vec<_> = tree.lines().filter(|line| line.contains("device=marked:n1:")).collect();
    assert!(lines[0].ends_with("\"gold\"  read-only") && lines[1].ends_with("\"plain\""), "{tree}");
    // Whoever wants to write is told what to add, be it a word or an option.
    let said = "marked:n1:1 is marked read-only in its partition table; add ";
    assert_eq!(bench.refused(&["device=partlabel:gold"]), (13, format!("{said}read-only")));
    server.says(&format!("client cl1: {said}--readonly"));
    assert!(!inventory.clients[0].present && inventory.clients[1].present, "{inventory:?}");
    let mut client =
        Client::from_fd(bench.create(&["device=partlabel:gold", "read-only"]), &Options::default()).unwrap();
    assert!(client.write(0, &[0; 512]).is_err());
    drop(bench.create(&["device=partlabel:plain"]));
}

#[test]
fn a_table_without_partitions_is_listed_by_its_kind() {
    let bench = Bench::new();
    let mut mbr = vec![0; 1 << 20];
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut words = vec![bench.socket("ctl")];
    for (name, bytes) in [("gpt", with_attributes(&[])), ("mbr", mbr), ("none", vec![0; 1 << 20])] {
        std::fs::write(bench.path(name), bytes).unwrap();
        words.push(format!("--cap=vbus=soft:{},serial={name}", bench.path(name).display()));
    }
    let _server = bench.serve(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let inventory = scanned(&bench);
    for (serial, table) in [("gpt", Some("gpt")), ("mbr", Some("mbr")), ("none", None)] {
        let controller = inventory.controllers.iter().find(|c| c.serial == serial).unwrap();
        assert_eq!(controller.namespaces[0].table.as_deref(), table);
    }
}

/// A tenant gets a factory at a socket of its own, mints and lists through it, and all of it is taken back when its holder ends.
#[test]
fn delegate_gives_a_tenant_a_factory_until_it_is_taken_back() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    scanned(&bench);
    let office = bench.path("office");
    let office = office.to_str().unwrap();
    let words = ["delegate", WORD, "read-only", "sessions=2", "name=tenant", "--listen", office];
    let mut holder = nvme_ctl(&bench, &words).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the office", || run(&bench, &["--factory", office, "ls"]).status.success());

    let refused =
        run(&bench, &["--factory", office, "create", WORD, "--listen", bench.path("x").to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("add read-only"), "{}", text(&refused.stderr));

    let place = format!("{office}.vm");
    let vm = ["--factory", office, "create", WORD, "read-only", "name=web", "--listen", &place];
    let mut vm = nvme_ctl(&bench, &vm).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the session", || std::path::Path::new(&place).exists());
    let mut client = Client::connect(&place, &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();

    let listed = text(&run(&bench, &["--factory", office, "ls"]).stdout);
    for said in [
        "factory 1 \"tenant\": read-only, ds-max 2, sessions 2",
        "'device=SN 1:2:n1:2'",
        "sessions: 1",
        "\"web\"",
    ] {
        assert!(listed.contains(said), "{said} in\n{listed}");
    }
    rustix::process::kill_process(Pid::from_child(&holder), Signal::TERM).unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(vm.wait().unwrap().code(), Some(1), "the server ended its session");
    assert!(client.front.features().is_err());
    assert!(!std::path::Path::new(office).exists());
}

/// The command has a factory and no more, and what came of it ends with the command, though something it started lives on.
#[test]
fn delegate_takes_back_from_whatever_its_command_leaves_behind() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    scanned(&bench);
    let ctl = env!("CARGO_BIN_EXE_nvme-ctl");
    let place = bench.path("left");
    let place = place.to_str().unwrap();
    let script = format!(
        "\"{ctl}\" --factory fd={{factory}} create '{WORD}' read-only --listen {place} 2>/dev/null & \
         while ! test -S {place}; do sleep 0.01; done; exit 5"
    );
    let output = run(&bench, &["delegate", WORD, "read-only", "--", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    wait_until("its end", || scanned(&bench).sessions.is_empty());
}
