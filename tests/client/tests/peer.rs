//! The client against a server that nobody here wrote: Debian's `qemu-storage-daemon` (package `qemu-utils` or
//! `qemu-system-common`). Without it, each test says so and passes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nvme_client::message::protocol;
use nvme_client::{Client, Error, Options, Status, feature, socket};

struct Peer {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peer(writable: bool) -> Option<Peer> {
    let dir = tempfile::tempdir().unwrap();
    let (socket, image) = (dir.path().join("s"), dir.path().join("image"));
    std::fs::write(&image, (0..4u32 << 20 >> 2).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let child = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=f0,discard=unmap,filename={}", image.display()))
        .arg("--export")
        .arg(format!(
            "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={},writable={},num-queues=2",
            socket.display(),
            if writable { "on" } else { "off" }
        ))
        .stdin(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some(Peer { child, socket, _dir: dir }),
        Err(error) => {
            println!("skipped: qemu-storage-daemon: {error} (apt-get install qemu-utils)");
            None
        }
    }
}

fn connect(path: &Path, options: &Options) -> Client {
    let socket = socket::connect_retry(path, Duration::from_secs(10)).unwrap();
    Client::from_fd(socket, options).unwrap()
}

fn works(options: &Options) {
    let Some(peer) = peer(true) else { return };
    let mut client = connect(&peer.socket, options);
    assert_eq!(client.config.capacity, 8192);
    let mut bytes = vec![0; 8192];
    client.read(16, &mut bytes).unwrap();
    let expected: Vec<u8> = (2048u32..4096).flat_map(u32::to_le_bytes).collect();
    assert!(bytes == expected);
    // Over the end of the scratch memory, so in two requests.
    let pattern: Vec<u8> = (0..(1 << 20) + 4096).map(|i: usize| (i / 512) as u8 ^ i as u8).collect();
    client.write(100, &pattern).unwrap();
    client.flush().unwrap();
    let mut back = vec![0; pattern.len()];
    client.read(100, &mut back).unwrap();
    assert!(back == pattern);
    client.write_zeroes(100, 8, false).unwrap();
    client.discard(200, 64).unwrap();
    client.read(100, &mut back[..8192]).unwrap();
    assert!(back[..4096].iter().all(|b| *b == 0) && back[4096..8192] == pattern[4096..8192]);
    assert_ne!(client.id().unwrap(), [0; 20]);
    assert!(matches!(client.read(8192, &mut back[..512]), Err(Error::Status(Status::IoErr))));
}

#[test]
fn the_default_client_reads_writes_flushes_and_discards() {
    works(&Options::default());
}

#[test]
fn so_does_one_with_direct_chains_and_without_event_idx() {
    let features = !(feature::INDIRECT_DESC | feature::EVENT_IDX | feature::RING_PACKED | feature::LOG_ALL);
    works(&Options { features, spin: Duration::ZERO, queue_size: 64, ..Options::default() });
}

#[test]
fn so_does_one_that_adds_its_regions_one_by_one() {
    let regions = vec![(0x10_0000, 4 << 20), (0x1000_0000, 1 << 20), (0x1_0000_0000, 2 << 20)];
    works(&Options { regions, region_by_region: true, spin: Duration::ZERO, ..Options::default() });
}

#[test]
fn so_does_one_without_acknowledgements() {
    let protocol = protocol::CONFIG | protocol::MQ;
    works(&Options { protocol, queues: 2, queue_size: 256, ..Options::default() });
}

#[test]
fn a_second_client_follows_the_first() {
    let Some(peer) = peer(false) else { return };
    for _ in 0..3 {
        let mut client = connect(&peer.socket, &Options::default());
        assert!(client.has(feature::RO));
        assert!(client.write(0, &[0; 512]).is_err());
        client.read(0, &mut [0; 512]).unwrap();
    }
}

#[test]
fn a_stopped_queue_says_where_it_stands_and_goes_on() {
    let Some(peer) = peer(true) else { return };
    let mut client = connect(&peer.socket, &Options::default());
    client.read(0, &mut [0; 512]).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(client.stop_queue(0).unwrap(), 2);
    client.start_queue(&client.queues[0]).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(client.stop_queue(0).unwrap(), 3);
    client.restart_queue(0).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
}

#[test]
fn nonsense_ends_the_connection() {
    let Some(peer) = peer(true) else { return };
    let client = connect(&peer.socket, &Options { queues: 0, ..Options::default() });
    client.front.send_raw(&[0xff; 12], &[]).unwrap();
    socket::wait_closed(&client.front.socket(), Duration::from_secs(10)).unwrap();
}
