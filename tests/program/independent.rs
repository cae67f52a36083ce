//! A client that nobody here wrote: the vhost-user driver of libblkio (crate `blkio`). It registers its memory region by
//! region, and some of them are no whole number of pages.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use nvme_linux::clientmem::map_shared;

use crate::server::Bench;

/// Waits for one request's end. (How it ended cannot be read without unsafe code; the data is looked at instead.)
fn wait(queue: &mut Blkioq) {
    let mut done = [MaybeUninit::<Completion>::uninit()];
    assert_eq!(queue.do_io(&mut done, 1, None, None).unwrap(), 1);
}

#[test]
fn libblkio_reads_writes_flushes_and_discards() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
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
