//! Clients that nobody here wrote: the vhost-user driver of libblkio (crate `blkio`), which registers its memory region by
//! region, some of them no whole number of pages long; and rust-vmm's front-end (crate `vhost`), which is what Cloud
//! Hypervisor and Firecracker speak with.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use nvme_client::{Desc, Memory, Ring, desc_flag};
use nvme_linux::clientmem::map_shared;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::disk::{pattern, start};
use crate::server::{Bench, Server};

/// Who reaches the disk.
const ENGINES: [&str; 3] = ["window", "uring", "threads"];

fn serve(bench: &Bench, engine: &str) -> Server {
    let (disk, svr) = (format!("{},engine={engine}", bench.disk()), bench.socket("svr"));
    // So few that there are descriptors for all queues, whatever the limit is here.
    bench.start(&[&disk, &svr, "--sessions-max=16"], &[], &[])
}

/// Waits for one request's end. (How it ended cannot be read without unsafe code; the data is looked at instead.)
fn wait(queue: &mut Blkioq) {
    let mut done = [MaybeUninit::<Completion>::uninit()];
    assert_eq!(queue.do_io(&mut done, 1, None, None).unwrap(), 1);
}

#[test]
fn libblkio_reads_writes_flushes_and_discards() {
    ENGINES.into_iter().for_each(libblkio);
}

fn libblkio(engine: &str) {
    let bench = Bench::new();
    let mut server = serve(&bench, engine);
    let listener = UnixListener::bind(bench.path("blkio.sock")).unwrap();
    let words = ["device=partlabel:attack", "ds-max=16"];
    let lifetime = bench.factory().create(&words, Some(listener.as_fd())).unwrap();

    let mut blkio = Blkio::new("virtio-blk-vhost-user").unwrap();
    blkio.set_str("path", bench.path("blkio.sock").to_str().unwrap()).unwrap();
    blkio.connect().unwrap();
    assert_eq!(blkio.get_u64("capacity").unwrap(), crate::disk::PART);
    assert_eq!(blkio.get_i32("max-queues").unwrap(), 256);
    blkio.set_i32("num-queues", 4).unwrap();
    let mut started = blkio.start().unwrap();
    let region = blkio.alloc_mem_region(1 << 20).unwrap();
    blkio.map_mem_region(&region).unwrap();
    // The region's file, mapped once more: its own addresses cannot be followed without unsafe code.
    let file = format!("/proc/self/fd/{}", region.fd);
    let file = File::options().read(true).write(true).open(file).unwrap();
    let window = map_shared(file.as_fd(), region.fd_offset as u64, region.len).unwrap();
    let address = |offset: usize| (region.addr + offset) as *mut u8;

    for (index, queue) in started.queues.iter_mut().enumerate() {
        let (byte, at) = (0x50 + index as u8, 16384 * index as u64);
        window.fill(0, 8192, byte).unwrap();
        queue.write(at, address(0), 8192, 1, ReqFlags::empty());
        wait(queue);
        queue.flush(2, ReqFlags::empty());
        wait(queue);
        queue.read(at, address(65536), 8192, 3, ReqFlags::empty());
        wait(queue);
        let mut bytes = [0; 8192];
        window.read(65536, &mut bytes).unwrap();
        assert!(bytes == [byte; 8192], "queue {index}");
        queue.write_zeroes(at, 4096, 4, ReqFlags::empty());
        wait(queue);
        queue.discard(at + 4096, 4096, 5, ReqFlags::empty());
        wait(queue);
        queue.read(at, address(65536), 4096, 6, ReqFlags::empty());
        wait(queue);
        window.read(65536, &mut bytes).unwrap();
        assert!(bytes[..4096] == [0; 4096], "queue {index}");
    }
    drop(started);
    drop(blkio);
    assert_eq!(server.stop(), 0);
    drop(lifetime);
}

#[test]
fn the_front_end_of_rust_vmm_reads_a_block() {
    ENGINES.into_iter().for_each(rust_vmm);
}

fn rust_vmm(engine: &str) {
    let bench = Bench::new();
    let mut server = serve(&bench, engine);
    let session = bench.create(&["device=partlabel:attack", "read-only"]);
    let mut front = Frontend::from_stream(UnixStream::from(session), 256);
    front.set_owner().unwrap();
    let offered = front.get_features().unwrap();
    let features = offered & !(1 << 29);
    assert!(features & (1 << 30 | 1 << 32) == (1 << 30 | 1 << 32) && features & 1 << 5 != 0, "{offered:#x}");
    let protocol = front.get_protocol_features().unwrap();
    let wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
    assert!(protocol.contains(wanted), "{protocol:?}");
    front.set_protocol_features(wanted).unwrap();
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(front.get_queue_num().unwrap(), 256);
    assert_eq!(front.get_max_mem_slots().unwrap(), 512);
    front.set_features(features).unwrap();
    let (_, config) = front.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), crate::disk::SECTORS);

    let mut memory = Memory::flat(0x10_0000, 1 << 20).unwrap();
    let words = memory.regions[0].words;
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: words.guest,
        memory_size: words.size,
        userspace_addr: words.user,
        mmap_offset: words.offset,
        mmap_handle: memory.files[0].as_raw_fd(),
    };
    front.set_mem_table(&[region]).unwrap();
    let ring = Ring::new(&mut memory, 0, 16).unwrap();
    let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    front.set_vring_num(0, 16).unwrap();
    let user = |guest| memory.user(guest).unwrap();
    let config = VringConfigData {
        queue_max_size: 256,
        queue_size: 16,
        flags: 0,
        desc_table_addr: user(ring.desc),
        used_ring_addr: user(ring.used),
        avail_ring_addr: user(ring.avail),
        log_addr: None,
    };
    front.set_vring_addr(0, &config).unwrap();
    front.set_vring_base(0, 0).unwrap();
    front.set_vring_call(0, &call).unwrap();
    front.set_vring_kick(0, &kick).unwrap();
    front.set_vring_enable(0, true).unwrap();

    // A read of one block: header, data, status.
    let (header, data, status) = (0x18_0000, 0x18_1000, 0x18_2000);
    let chain = [
        (header, 16, desc_flag::NEXT),
        (data, 512, desc_flag::NEXT | desc_flag::WRITE),
        (status, 1, desc_flag::WRITE),
    ];
    memory.write(header, &[0; 16]).unwrap();
    memory.write(status, &[0xff]).unwrap();
    for (index, (addr, len, flags)) in (0..).zip(chain) {
        ring.set_desc(index, Desc { addr, len, flags, next: index + 1 }).unwrap();
    }
    ring.set_avail(0, 0).unwrap();
    ring.set_avail_index(1).unwrap();
    kick.write(1).unwrap();
    assert_eq!(call.read().unwrap(), 1);
    assert_eq!(memory.bytes(status, 1).unwrap(), [0]);
    assert!(memory.bytes(data, 512).unwrap() == pattern(start("attack"), 512));
    assert_eq!(front.get_vring_base(0).unwrap(), 1);
    drop(front);
    assert_eq!(server.stop(), 0);
}
