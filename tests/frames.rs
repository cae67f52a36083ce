//! A server that is built with the feature `defmt`: its trace points, decoded.

#![forbid(unsafe_code)]

#[path = "hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
#[path = "program/server.rs"]
#[expect(dead_code, reason = "the tests of the program use more of it")]
mod server;

use nvme_client::{Client, Options};

use crate::server::{Bench, Server};

fn serve(bench: &Bench, frames: &str) -> Server {
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    bench.start(&[&disk, &svr], &[], &[("NVME_DRV_FRAMES", frames)])
}

/// The lines of a run, each with its thread and level.
fn decoded(frames: &[u8]) -> String {
    let program = std::fs::read(env!("CARGO_BIN_EXE_nvme-drv")).unwrap();
    let mut text = Vec::new();
    assert_eq!(nvme_decode::decode(&program, frames, &mut text).unwrap(), 0);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_request_s_way_is_told_from_the_control_thread_to_the_completion() {
    let bench = Bench::new();
    let path = bench.path("frames");
    let mut server = serve(&bench, path.to_str().unwrap());
    let session = bench.create(&["device=partlabel:attack"]);
    let mut client = Client::from_fd(session, &Options::default()).unwrap();
    client.write(0, &[7; 4096]).unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    client.flush().unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);

    let text = decoded(&std::fs::read(path).unwrap());
    let lines: Vec<&str> = text.lines().collect();
    // Each after the one before it, of the thread that says it.
    for (thread, expected) in [
        ("[0] debug", vec!["queue pairs", "session 1: minted", "ring of 128 entries starts at 0", "ends"]),
        ("] trace", vec!["opcode 0x01", "status 0x0000", "opcode 0x02", "status 0x0000", "opcode 0x00"]),
    ] {
        let mut said = lines.iter().filter(|line| line.contains(thread));
        for what in expected {
            assert!(said.any(|line| line.contains(what)), "{what:?} is not said by {thread}:\n{text}");
        }
    }
    // What is meant for the operator stays text.
    assert!(lines.iter().all(|line| line.contains(" debug ") || line.contains(" trace ")), "{text}");
}

#[test]
fn without_a_place_for_them_there_are_no_frames_and_all_is_well() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    let session = bench.create(&["device=partlabel:attack"]);
    let mut client = Client::from_fd(session, &Options::default()).unwrap();
    client.write(0, &[7; 512]).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_place_that_cannot_be_opened_is_named() {
    let bench = Bench::new();
    let mut server = serve(&bench, "/nonexistent/frames");
    assert_ne!(server.wait(), 0);
    assert!(server.said().contains("NVME_DRV_FRAMES=/nonexistent/frames"), "{}", server.said());
}
