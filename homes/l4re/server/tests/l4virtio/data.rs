//! Requests.

use std::collections::HashMap;
use std::sync::Arc;

use nvme_l4re::model::{Kind, Said};
use nvme_mem::Window;
use nvme_soft::{MemoryMedium, NamespaceConfig, WriteCache};

use crate::driver::*;
use crate::rig::*;

/// Data of one request for each slot.
const ROOM: usize = SLOTS as usize * 4096;
/// Places of a disk that a client writes to.
const PLACES: u64 = 64;

/// What a client has under way, and what it knows of its places.
struct Churn {
    driver: Driver,
    /// Its first sector.
    first: u64,
    holds: HashMap<u64, u64>,
    flying: HashMap<u16, (u64, u32, u64)>,
    asked: u64,
    done: u64,
}

impl Churn {
    fn new(driver: Driver, first: u64) -> Self {
        Self { driver, first, holds: HashMap::new(), flying: HashMap::new(), asked: 0, done: 0 }
    }

    /// Takes what has ended, and asks for more, up to `count` in all and `depth` at a time.
    fn step(&mut self, count: u64, depth: usize) -> bool {
        for (slot, status) in self.driver.ended() {
            assert_eq!(status, OK);
            let (place, kind, seed) = self.flying.remove(&slot).unwrap();
            if kind == OUT {
                self.holds.insert(place, seed);
            } else {
                let expected = self.holds.get(&place).map_or(vec![0; 4096], |seed| pattern(*seed, 4096));
                let found = self.driver.bytes(usize::from(slot) * 4096, 4096);
                assert!(found == expected, "place {place} after {} requests", self.done);
            }
            self.done += 1;
        }
        let mut news = false;
        while self.asked < count && self.flying.len() < depth {
            let seed = self.first + self.asked;
            let (place, kind) =
                (seed.wrapping_mul(7919) % PLACES, if seed.is_multiple_of(3) { IN } else { OUT });
            let Some(slot) = self.driver.next_slot() else { break };
            // What is written and read at the same time may be either.
            if self.flying.values().any(|(p, ..)| *p == place) {
                break;
            }
            let data = usize::from(slot) * 4096;
            let bytes = if kind == OUT { pattern(seed, 4096) } else { vec![0x77; 4096] };
            self.driver.fill(data, &bytes);
            assert_eq!(self.driver.ask(kind, self.first + place * 8, data, 4096), Some(slot));
            self.flying.insert(slot, (place, kind, seed));
            self.asked += 1;
            news = true;
        }
        if news {
            self.driver.notify();
        }
        self.done == count
    }

    /// What is on the disk is what was written last.
    fn check(&self, disk: &Window) {
        for (place, seed) in &self.holds {
            let mut bytes = vec![0; 4096];
            disk.read(((self.first + place * 8) * 512) as usize, &mut bytes).unwrap();
            assert!(bytes == pattern(*seed, 4096), "place {place}");
        }
    }
}

fn churn(rig: &mut Rig, clients: &mut [Churn], count: u64, depth: usize) {
    rig.until("the end of all requests", |_| {
        let ended: Vec<bool> = clients.iter_mut().map(|client| client.step(count, depth)).collect();
        ended.into_iter().all(|ended| ended)
    });
}

#[test]
fn ten_thousand_requests_of_a_client_that_flags_its_data_the_wrong_way_round() {
    let (mut rig, disk) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let driver = Driver::setup(&mut rig, task, session, ROOM);
    let mut clients = [Churn::new(driver, 0)];
    churn(&mut rig, &mut clients, 10_000, 32);
    clients[0].check(&disk);
    assert!(clients[0].holds.len() == PLACES as usize);
    assert_eq!(rig.model.unanswered(), 0);
}

#[test]
fn two_clients_of_two_controllers_and_one_that_shares_are_served_together() {
    let disks = [disk(), disk()];
    let devices = vec![soft("a", &disks[0]), soft("b", &disks[1])];
    let mut rig = Rig::start("", devices, |_, _| {}).unwrap();
    let mut clients = Vec::new();
    for (words, first) in [(["device=a:n1"], 0), (["device=b:n1"], 4096)] {
        let (task, session) = rig.client(&words);
        let driver = Driver::setup(&mut rig, task, session, ROOM);
        clients.push(Churn::new(driver, first));
    }
    assert_eq!(rig.create(&["device=a:n1"]), Err(EBUSY));
    churn(&mut rig, &mut clients, 1500, 16);
    clients.iter().zip(&disks).for_each(|(client, disk)| client.check(disk));
}

#[test]
fn the_device_says_what_it_is() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    assert_eq!(driver.capacity(), (DISK / 512) as u64);
    let identity = [0x08, 0x0c].map(|at| driver.page.load32(at).unwrap());
    assert_eq!(identity, [2, 0x44], "a block device of Kernkonzept's");
    assert_eq!(driver.page.load32(at::QUEUES_OFFSET), Ok(at::QUEUE as u32));
    // VERSION_1, INDIRECT_DESC, WRITE_ZEROES, DISCARD, CONFIG_WCE, TOPOLOGY, FLUSH, BLK_SIZE, SEG_MAX, SIZE_MAX.
    assert_eq!(driver.offered(), 0x1_1000_6e46);
    assert_eq!(driver.request(&mut rig, GET_ID, 0, 0, 20), OK);
    assert_eq!(&driver.bytes(0, 9), b"soft0:n1\0");
    assert_eq!(driver.request(&mut rig, 99, 0, 0, 512), UNSUPP);
}

#[test]
fn flush_zeroes_and_discard_reach_the_disk() {
    let (mut rig, disk) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    driver.serves(&mut rig, 3);
    assert_eq!(driver.request(&mut rig, FLUSH, 0, 0, 0), OK);
    assert_eq!(rig.handles[0].statistics().flushes, 1);
    let mut range = [0; 16];
    range[..8].copy_from_slice(&24u64.to_le_bytes());
    range[8..12].copy_from_slice(&8u32.to_le_bytes());
    driver.fill(0, &range);
    assert_eq!(driver.request(&mut rig, ZEROES, 0, 0, 16), OK);
    let mut bytes = [1; 4096];
    disk.read(24 * 512, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
    assert_eq!(driver.request(&mut rig, DISCARD, 0, 0, 16), OK);
}

#[test]
fn a_read_only_session_reads_and_refuses_everything_else() {
    let (mut rig, disk) = Rig::one();
    disk.fill(0, 4096, 0x5a).unwrap();
    let (task, session) = rig.client(&["read-only", "device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    assert_eq!(driver.offered() & 1 << 5, 1 << 5, "RO");
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    assert_eq!(driver.bytes(0, 4096), [0x5a; 4096]);
    driver.fill(0, &[0xa5; 4096]);
    assert_eq!(driver.request(&mut rig, OUT, 0, 0, 4096), IOERR);
    driver.fill(0, &[0; 16]);
    driver.fill(8, &8u32.to_le_bytes());
    for kind in [ZEROES, DISCARD] {
        assert_ne!(driver.request(&mut rig, kind, 0, 0, 16), OK);
    }
    assert_eq!(driver.request(&mut rig, FLUSH, 0, 0, 0), OK);
    let mut bytes = [0; 4096];
    disk.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 4096]);
    assert_eq!(rig.handles[0].statistics().writes, 0);
    // A second reader is welcome, a writer is not.
    assert!(rig.create(&["device=soft0:n1", "read-only"]).is_ok());
    assert_eq!(rig.create(&["device=soft0:n1"]), Err(EBUSY));
}

#[test]
fn requests_outside_the_device_or_the_memory_fail_and_the_next_is_served() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    let end = (DISK / 512) as u64;
    for (sector, addr) in [
        (end, BASE + DATA as u64),
        (end - 7, BASE + DATA as u64),
        (u64::MAX, BASE + DATA as u64),
        (0, 0),
        (0, BASE - 1),
        (0, BASE + driver.memory.len() as u64 - 4095),
        (0, u64::MAX),
    ] {
        let slot = driver.ask_at(IN, sector, addr, 4096).unwrap();
        assert_eq!(driver.finish(&mut rig, slot), IOERR, "{sector} {addr:#x}");
    }
    driver.serves(&mut rig, 9);
}

#[test]
fn memory_that_may_not_be_written_is_written_to_the_disk_and_never_read_into() {
    for (kind, right) in [(Kind::ReadOnly, true), (Kind::Memory, false)] {
        writes_and_is_not_read_into(kind, right);
    }
}

/// A dataspace of that kind, sent with or without the right to write.
fn writes_and_is_not_read_into(kind: Kind, right: bool) {
    let (mut rig, disk) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    let image = driver.task.dataspace(kind, 8192);
    driver.task.window(image).fill(0, 8192, 0x3c).unwrap();
    let second = BASE + (64 << 20);
    let said = Said { cap: Some((image, right)), ..register(image, second, 0, 8192) };
    assert_eq!(rig.code(&driver.task, driver.session, said), 0);
    let slot = driver.ask_at(OUT, 8, second, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), OK);
    let mut bytes = [0; 4096];
    disk.read(8 * 512, &mut bytes).unwrap();
    assert_eq!(bytes, [0x3c; 4096]);
    let slot = driver.ask_at(IN, 0, second, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), IOERR);
    assert_eq!(driver.task.window(image).read_value::<[u8; 4]>(0), Ok([0x3c; 4]));
}

#[test]
fn the_cache_mode_that_a_driver_writes_counts_for_what_it_asks_after_that() {
    let cache = Arc::new(WriteCache::new(MemoryMedium::new(DISK).unwrap()).unwrap());
    let mut device = soft("soft0", &disk());
    device.namespaces = vec![NamespaceConfig::new(Arc::new(Arc::clone(&cache)))];
    let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    let mode = at::SPACE + 32;
    assert_eq!(driver.page.read_value(mode), Ok([1u8]), "there is a volatile write cache");
    driver.fill(0, &pattern(1, 4096));
    // Whatever else it writes is the safe mode.
    for (sector, chosen) in [(0, None), (8, Some(0)), (16, Some(0xff)), (24, Some(1))] {
        if let Some(chosen) = chosen {
            driver.page.write(mode, &[chosen]).unwrap();
        }
        assert_eq!(driver.request(&mut rig, OUT, sector, 0, 4096), OK);
    }
    cache.lose_power();
    let mut kept = Vec::new();
    for sector in [0, 8, 16, 24] {
        driver.fill(0, &[0; 4096]);
        assert_eq!(driver.request(&mut rig, IN, sector, 0, 4096), OK);
        kept.push(driver.bytes(0, 4096) == pattern(1, 4096));
    }
    assert_eq!(kept, [false, true, true, false]);
}

#[test]
fn parts_of_4096_byte_blocks_are_read_and_written() {
    let window = disk();
    let medium = Arc::new(MemoryMedium::over(window.clone()));
    let device = nvme_soft::Config {
        namespaces: vec![NamespaceConfig::new(medium).block_size(4096)],
        ..soft("soft0", &window)
    };
    let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, ROOM);
    let mut want = vec![0; 32 << 10];
    for (round, (sector, bytes)) in (1_u8..).zip([(0, 512), (7, 1024), (1, 4096), (5, 9216), (8, 4096)]) {
        let at = sector as usize * 512;
        driver.fill(0, &vec![round; bytes]);
        assert_eq!(driver.request(&mut rig, OUT, sector, 0, bytes as u32), OK);
        want[at..at + bytes].fill(round);
        let mut is = vec![0; want.len()];
        window.read(0, &mut is).unwrap();
        assert!(is == want, "{sector} {bytes}");
        driver.fill(0, &vec![0x77; bytes + 512]);
        assert_eq!(driver.request(&mut rig, IN, sector, 0, bytes as u32), OK);
        assert!(driver.bytes(0, bytes) == want[at..at + bytes]);
        assert!(driver.bytes(bytes, 512).iter().all(|b| *b == 0x77));
    }
}
