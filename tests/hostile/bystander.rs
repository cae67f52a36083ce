//! An honest client whose I/O must go on whatever others do.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_client::{Client, Memory, Options, memfd};

use crate::disk::{self, PART};
use crate::rig::WAIT;

/// Bytes of one transfer.
const CHUNK: usize = 16 << 10;
/// Bytes of its memory.
pub(crate) const MEMORY: u64 = (1 << 20) + (64 << 10);

pub(crate) struct Bystander {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Bystander {
    /// Writes and reads on its partition, and compares, until it is stopped.
    pub(crate) fn start(session: OwnedFd, block: u64) -> Self {
        Self::over(session, memfd(MEMORY, false).unwrap(), block)
    }

    /// The same with its memory in that file, which has [`MEMORY`] bytes.
    pub(crate) fn over(session: OwnedFd, file: OwnedFd, block: u64) -> Self {
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let options =
            Options { queue_size: 16, seg_max: 4, scratch: CHUNK as u32, wait: WAIT, ..Options::default() };
        let mut memory = Memory::new();
        let file = memory.add_file(file);
        memory.add_region(file, 0, 0, 1 << 20).unwrap();
        memory.add_region(file, 1 << 20, 1 << 32, 64 << 10).unwrap();
        let mut client = Client::with_memory(session, memory, &options).unwrap();
        assert_eq!(u64::from(client.config.blk_size), block);
        let (counted, told) = (Arc::clone(&rounds), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // Memory that no request of its own names.
            let guard = disk::pattern(0, 64 << 10);
            client.memory.write(1 << 32, &guard).unwrap();
            let at = |round: u64| round % (PART / CHUNK as u64) * CHUNK as u64;
            let mut round = 0;
            while !told.load(Ordering::Relaxed) {
                let mut read = vec![0; CHUNK];
                if round < PART / CHUNK as u64 {
                    client.read(at(round) / 512, &mut read).unwrap();
                    assert_eq!(read, disk::pattern(disk::start("bystander") + at(round), CHUNK));
                }
                let written = disk::pattern(round << 20, CHUNK);
                client.write(at(round) / 512, &written).unwrap();
                if round % 8 == 0 {
                    client.flush().unwrap();
                }
                client.read(at(round) / 512, &mut read).unwrap();
                assert_eq!(read, written);
                assert_eq!(client.memory.bytes(1 << 32, guard.len()).unwrap(), guard);
                round += 1;
                counted.fetch_add(1, Ordering::Relaxed);
                // The machine is for the attack.
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { rounds, stop, thread }
    }

    /// Waits until it has made a few more rounds.
    pub(crate) fn goes_on(&self) {
        let (rounds, deadline) = (self.rounds.load(Ordering::Relaxed), Instant::now() + WAIT);
        while self.rounds.load(Ordering::Relaxed) < rounds + 3 {
            assert!(!self.thread.is_finished(), "the bystander failed");
            assert!(Instant::now() < deadline, "the bystander is not served");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
