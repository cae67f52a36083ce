//! The audit trail on a disk that is full, and on one that hangs.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::{Duration, Instant};

use nvme_audit::{Event, Line, Verified, verify};
use nvme_client::Client;

use crate::server::{Bench, Server, wait_until};
use crate::storage::{Loop, MIB, Mount, able, session, sparse};

const EIO: i32 = 5;

/// The records of a trail, which is sound.
pub(crate) fn read(path: &Path) -> (Verified, Vec<Line>) {
    let mut lines = Vec::new();
    let file = BufReader::new(File::open(path).unwrap());
    let verified = verify(file, None, |line| lines.push(line.clone())).unwrap();
    (verified, lines)
}

fn has(lines: &[Line], event: Event) -> bool {
    lines.iter().any(|line| line.record.event == event)
}

/// A server that writes its trail there, and a client of the first partition.
fn serve(bench: &Bench, path: &Path, options: &str) -> (Server, Client) {
    let audit = format!("--cap=audit=file:{}{options}", path.display());
    let server = bench.serve(&[&audit]);
    let mut client = session(bench, &["device=partlabel:before"]);
    client.read(0, &mut [0; 512]).unwrap();
    (server, client)
}

#[test]
fn a_full_disk_costs_records_and_where_they_are_required_grants_and_nobody_what_he_has() {
    if !able() {
        return;
    }
    for required in [true, false] {
        let (bench, disk) = (Bench::new(), Mount::tmpfs(64 << 10));
        let path = disk.path("audit");
        let (mut server, mut client) = serve(&bench, &path, if required { ",required" } else { "" });
        wait_until("the dataspace", || has(&read(&path).1, Event::Dataspace));
        let before = read(&path).1.len();
        let filler = disk.path("filler");
        // A part of a line may fit: what is left of its page.
        assert!(std::fs::write(&filler, vec![0; 128 << 10]).is_err());
        let mut refused = 0;
        for _ in 0..20 {
            match bench.factory().create(&["device=partlabel:attack"], None) {
                Err(nvme_client::Error::Create { code, message }) if code == -EIO => {
                    assert!(required && message.contains("audit"), "{message}");
                    refused += 1;
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        server.says("audit: records cannot be written");
        if required {
            assert!(refused > 0);
            // Nor a factory.
            let reply = bench.factory().request("factory", &["device=partlabel:attack"], None).unwrap();
            assert_eq!(reply.code, -EIO);
        }
        // What somebody has he keeps, and what ends does not wait.
        client.read(0, &mut [0; 512]).unwrap();
        drop(client);
        server.says("session 1: ended");
        std::fs::remove_file(&filler).unwrap();
        server.says("audit: records are written again");
        drop(bench.create(&["device=partlabel:after"]));
        assert_eq!(server.stop(), 0);
        let (verified, lines) = read(&path);
        let after = lines.get(before..).unwrap();
        let lost = after.iter().find(|line| line.record.event == Event::Lost);
        assert!(verified.gaps >= 1 && lost.and_then(|l| l.record.count).unwrap() >= 3, "{after:#?}");
        assert!(has(after, Event::Grant) && has(after, Event::Stop), "{after:#?}");
    }
}

#[test]
fn a_disk_that_hangs_costs_a_grant_two_seconds_and_ends_nothing() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 16 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let path = system.path("audit");
    let (mut server, mut client) = serve(&bench, &path, ",required");
    system.freeze();
    let began = Instant::now();
    let refused = bench.refused(&["device=partlabel:attack"]);
    let took = began.elapsed();
    assert_eq!(refused.0, EIO, "{refused:?}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    // Others are served meanwhile, and an end waits for nothing.
    client.read(0, &mut [0; 512]).unwrap();
    drop(client);
    server.says("session 1: ended");
    system.thaw();
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    let (verified, lines) = read(&path);
    let records = |event| lines.iter().filter(move |line| line.record.event == event);
    assert_eq!(verified.gaps, 0, "{lines:#?}");
    // That which was refused was written down late, and with it that it was.
    assert_eq!((records(Event::Grant).count(), records(Event::End).count()), (3, 3), "{lines:#?}");
    let late = records(Event::Refusal).next().unwrap();
    assert_eq!(late.record.errno, Some(EIO), "{late:?}");
}
