//! A driver that writes whatever it is told to into its ring.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub(crate) use nvme_client::desc_flag::{INDIRECT, NEXT, WRITE};
use nvme_client::message::RegionWords;
pub(crate) use nvme_client::status::{IOERR, OK, UNSUPP};
use nvme_client::{Client, Desc, Header, Memory, Options, Ring, feature, kind, memfd, socket};
use rustix::event::PollFlags;

use crate::disk;
use crate::rig::{Rig, WAIT, file_bytes};

/// Guest addresses of the registered memory: three regions, the first two adjoining, the third behind a gap.
pub(crate) const RAM: u64 = 0x10_0000;
pub(crate) const RAM_LEN: u64 = 1 << 20;
pub(crate) const SECOND: u64 = RAM + RAM_LEN;
pub(crate) const SECOND_LEN: u64 = 64 << 10;
pub(crate) const THIRD: u64 = SECOND + SECOND_LEN + 0x10_0000;
pub(crate) const THIRD_LEN: u64 = 64 << 10;
/// Bytes of the file that are not registered: before, between and after the regions.
const GUARD: u64 = 64 << 10;

/// Where [`Raw::add_rom`] puts its region.
pub(crate) const ROM: u64 = 1 << 33;
pub(crate) const ROM_LEN: u64 = GUARD;
const ROM_USER: u64 = 1 << 46;

/// Entries of the ring.
pub(crate) const SIZE: u16 = 16;

pub(crate) fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

pub(crate) fn options() -> Options {
    Options { queue_size: SIZE, seg_max: 8, scratch: 64 << 10, wait: WAIT, ..Options::default() }
}

pub(crate) struct Raw {
    pub(crate) client: Client,
    /// A header and, behind it, a status byte; an indirect table; room for data, 64 KiB.
    pub(crate) head: u64,
    pub(crate) table: u64,
    pub(crate) data: u64,
    avail: u16,
    used: u16,
}

impl Raw {
    /// A session on the partition `attack`.
    pub(crate) fn new(rig: &Rig) -> Self {
        Self::with(rig.create(&["device=partlabel:attack"]), &options())
    }

    /// The same without these features.
    pub(crate) fn without(rig: &Rig, features: u64) -> Self {
        let all = options();
        let options = Options { features: all.features & !features, ..all };
        Self::with(rig.create(&["device=partlabel:attack"]), &options)
    }

    pub(crate) fn with(session: OwnedFd, options: &Options) -> Self {
        let mut memory = Memory::new();
        let len = 4 * GUARD + RAM_LEN + SECOND_LEN + THIRD_LEN;
        let file = memory.add_file(memfd(len, false).unwrap());
        memory.add_region(file, GUARD, RAM, RAM_LEN).unwrap();
        memory.add_region(file, 2 * GUARD + RAM_LEN, SECOND, SECOND_LEN).unwrap();
        memory.add_region(file, 3 * GUARD + RAM_LEN + SECOND_LEN, THIRD, THIRD_LEN).unwrap();
        let mut client = Client::with_memory(session, memory, options).unwrap();
        let head = client.memory.alloc(64, 64).unwrap();
        let table = client.memory.alloc(32 << 10, 64).unwrap();
        let data = client.scratch;
        Self { client, head, table, data, avail: 0, used: 0 }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.client.queues[0].ring
    }

    pub(crate) fn put(&self, addr: u64, bytes: &[u8]) {
        self.client.memory.write(addr, bytes).unwrap();
    }

    pub(crate) fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        self.client.memory.bytes(addr, len).unwrap()
    }

    pub(crate) fn set_desc(&self, index: u16, desc: Desc) {
        self.ring().set_desc(index, desc).unwrap();
    }

    pub(crate) fn set_indirect(&self, index: u16, d: Desc) {
        let window = self.client.memory.window(self.table, 32 << 10).unwrap();
        window.write_value(usize::from(index) * 16, &d).unwrap();
    }

    /// Where the status byte is.
    pub(crate) fn status_at(&self) -> u64 {
        self.head + 16
    }

    pub(crate) fn status(&self) -> u8 {
        self.get(self.status_at(), 1)[0]
    }

    /// Writes a header, and an impossible status.
    pub(crate) fn header(&self, kind: u32, sector: u64) {
        let header = Header { kind, reserved: 0, sector };
        self.client.memory.window(self.head, 16).unwrap().write_value(0, &header).unwrap();
        self.put(self.status_at(), &[0xff]);
    }

    /// Chains a request with these data buffers (address, bytes, flags) from descriptor 0 on.
    pub(crate) fn chain(&self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) {
        self.header(kind, sector);
        self.set_desc(0, desc(self.head, 16, NEXT, 1));
        for (i, (addr, len, flags)) in (1..).zip(data) {
            self.set_desc(i, desc(*addr, *len, flags | NEXT, i + 1));
        }
        self.set_desc(data.len() as u16 + 1, desc(self.status_at(), 1, WRITE, 0));
    }

    /// Makes these heads available at once, and kicks.
    pub(crate) fn offer(&mut self, heads: &[u16]) {
        for head in heads {
            self.ring().set_avail(self.avail, *head).unwrap();
            self.avail = self.avail.wrapping_add(1);
        }
        self.ring().set_avail_index(self.avail).unwrap();
        self.client.queues[0].kick().unwrap();
    }

    /// Waits for the next used entry.
    pub(crate) fn answer(&mut self) -> (u32, u32) {
        let deadline = Instant::now() + WAIT;
        while self.ring().used_index().unwrap() == self.used {
            assert_eq!(socket::drain(self.client.queues[0].err.as_fd()).unwrap(), 0, "the queue broke");
            assert!(Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_micros(50));
        }
        let used = self.ring().used(self.used).unwrap();
        self.used = self.used.wrapping_add(1);
        used
    }

    /// Waits for the next used entry, or (`None`) until the ring is broken, and then sets it up again.
    pub(crate) fn answer_or_restart(&mut self) -> Option<(u32, u32)> {
        let deadline = Instant::now() + WAIT;
        while self.ring().used_index().unwrap() == self.used {
            if socket::drain(self.client.queues[0].err.as_fd()).unwrap() > 0 {
                self.restart();
                return None;
            }
            assert!(Instant::now() < deadline, "neither an answer nor a broken ring");
            std::hint::spin_loop();
        }
        let used = self.ring().used(self.used).unwrap();
        self.used = self.used.wrapping_add(1);
        Some(used)
    }

    /// Registers the bytes in front of the first region at [`ROM`], read-only.
    pub(crate) fn add_rom(&self) {
        let file = self.client.memory.file(0).unwrap();
        let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let words = RegionWords { guest: ROM, size: ROM_LEN, user: ROM_USER, offset: 0 };
        self.client.front.add_mem_reg(words, file.as_fd()).unwrap();
    }

    /// Sends a request, and says its status and how many bytes were written.
    pub(crate) fn ask(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        self.chain(kind, sector, data);
        self.offer(&[0]);
        let (head, written) = self.answer();
        assert_eq!(head, 0);
        (self.status(), written)
    }

    /// A request that is refused with that status: no data is written anywhere, and the queue goes on.
    pub(crate) fn refused(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)], status: u8) {
        let memory = self.memory_but_rings();
        let (got, written) = self.ask(kind, sector, data);
        assert_eq!((got, written), (status, 1), "{kind} {sector:#x} {data:x?}");
        assert!(self.memory_but_rings() == memory, "{kind} {sector:#x} {data:x?} wrote into memory");
        self.serves();
    }

    /// Everything that a refused request has no business in.
    fn memory_but_rings(&self) -> Vec<Vec<u8>> {
        let data = self.get(self.data, 64 << 10);
        vec![data, self.get(SECOND, SECOND_LEN as usize), self.get(THIRD, THIRD_LEN as usize)]
    }

    /// The ring breaks: its owner is told, nothing is answered; set up again it serves.
    pub(crate) fn breaks(&mut self) {
        let queue = &self.client.queues[0];
        let told = socket::wait_for(queue.err.as_fd(), PollFlags::IN, Instant::now() + WAIT).unwrap();
        assert!(told, "the queue goes on; used {}", queue.ring.used_index().unwrap());
        assert_eq!(queue.ring.used_index().unwrap(), self.used, "something was answered");
        self.restart();
        self.serves();
    }

    /// Stops the queue and starts it from nothing.
    pub(crate) fn restart(&mut self) {
        self.client.stop_queue(0).unwrap();
        socket::drain(self.client.queues[0].err.as_fd()).unwrap();
        self.client.restart_queue(0).unwrap();
        (self.avail, self.used) = (0, 0);
    }

    /// An honest request is served.
    pub(crate) fn serves(&mut self) {
        self.put(self.data, &[0; 512]);
        assert_eq!(self.ask(kind::GET_ID, 0, &[(self.data, 20, WRITE)]), (OK, 21));
        assert_ne!(self.get(self.data, 20), [0; 20]);
        let data = self.data;
        assert_eq!(self.ask(kind::IN, disk::SECTORS - 1, &[(data, 512, WRITE)]), (OK, 513));
    }

    /// What is not registered of the client's own file is as it was: all zeroes.
    pub(crate) fn guards_hold(&self) {
        let bytes = file_bytes(self.client.memory.file(0).unwrap());
        let mut at = 0;
        for region in &self.client.memory.regions {
            let offset = region.words.offset as usize;
            assert!(bytes[at..offset].iter().all(|b| *b == 0), "unregistered memory changed");
            at = offset + region.words.size as usize;
        }
        assert!(bytes[at..].iter().all(|b| *b == 0), "unregistered memory changed");
    }

    pub(crate) fn has_indirect(&self) -> bool {
        self.client.has(feature::INDIRECT_DESC)
    }
}
