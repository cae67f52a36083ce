//! Which descriptors are memory.

use std::fs::File;
use std::os::fd::AsFd;

use nvme_linux::memory::Refusal;
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstatfs, ftruncate, memfd_create,
};

use crate::support::*;

#[test]
fn long_memory_lies_in_huge_pages_as_it_does_in_its_file() {
    const HUGE: u64 = 2 << 20;
    let file = open(memfd(64 << 20)).unwrap();
    let mut held = Vec::new();
    // As an ordinary machine's regions are, from any page on, and one after the other.
    for (offset, len) in [(768 << 10, 40 << 20), (0x1f_f000, HUGE), (0, 64 << 20), (0x5_3123, 5 << 20)] {
        for _ in 0..3 {
            let (pages, skip) = file.map_pages(offset, len).unwrap();
            assert_eq!((pages.address() as u64 + skip as u64) % HUGE, offset % HUGE, "{offset:#x}");
            pages.write(pages.len() - 1, &[7]).unwrap();
            held.push(pages);
        }
    }
    let windows: Vec<_> = held.iter().map(|w| (w.address(), w.address() + w.len())).collect();
    for (i, a) in windows.iter().enumerate() {
        assert!(windows[..i].iter().all(|b| a.1 <= b.0 || b.1 <= a.0), "each has a place of its own");
    }
}

#[test]
fn a_memfd_is_mapped_shared_and_sealed_against_shrinking() {
    let fd = memfd(0x3000);
    let file = open(fd.try_clone().unwrap()).unwrap();
    assert!(file.writable() && file.sealed() && file.trusted().is_empty());
    assert!(fcntl_get_seals(&fd).unwrap().contains(SealFlags::SHRINK));
    assert!(ftruncate(&fd, 0).is_err());
    let window = file.map(0x1000, 0x2000).unwrap();
    drop(file);
    window.write(0x1fff, b"x").unwrap();
    let mut byte = [0];
    rustix::io::pread(&fd, &mut byte, 0x2fff).unwrap();
    assert_eq!((window.len(), byte), (0x2000, *b"x"));
    assert!(open(unsealable(4096)).is_ok_and(|file| !file.sealed()));
}

#[test]
fn two_descriptors_of_one_file_are_one_dataspace() {
    let (one, two) = (memfd(4096), memfd(4096));
    let again = open(reopen(&one, false)).unwrap();
    let (one, two) = (open(one).unwrap(), open(two).unwrap());
    assert_eq!(one.id(), again.id());
    assert_ne!(one.id(), two.id());
}

#[test]
fn a_file_in_a_tmpfs_is_memory() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(4096).unwrap();
    let file = open(file.into()).unwrap();
    assert!(file.map(0, 4096).is_ok() && file.writable() && !file.sealed());
}

#[test]
fn what_may_not_be_written_is_said_to_be_read_only() {
    let fd = memfd(4096);
    assert!(!open(reopen(&fd, false)).unwrap().writable());
    let window = open(reopen(&fd, false)).unwrap().map(0, 4096).unwrap();
    assert_eq!(window.load16(0), Ok(0));
    fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).unwrap();
    let frozen = open(fd).unwrap();
    assert!(!frozen.writable() && frozen.map(0, 4096).is_ok());
}

#[test]
fn what_is_no_memory_is_refused_by_name() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let directory = File::open("/dev/shm").unwrap();
    let device = File::open("/dev/zero").unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    for (fd, what) in [
        (pipe, "a pipe is no memory"),
        (directory.into(), "a directory is no memory"),
        (device.into(), "a character device is no memory"),
        (socket.into(), "a socket is no memory"),
    ] {
        assert_eq!(open(fd).unwrap_err().to_string(), what);
    }
    assert!(matches!(open(event).unwrap_err(), Refusal::NotAFile(_) | Refusal::NotMemory));
    let proc = File::open("/proc/self/maps").unwrap();
    assert_eq!(open(proc.into()).unwrap_err(), Refusal::NotMemory);
}

#[test]
fn a_file_on_a_disk_is_refused() {
    let file = on_disk(4096);
    if fstatfs(&file).unwrap().f_type == 0x0102_1994 {
        eprintln!("skipped: the sources are in a tmpfs");
        return;
    }
    assert_eq!(open(file.into()).unwrap_err(), Refusal::NotMemory);
}

#[test]
fn a_descriptor_without_the_right_to_read_is_refused() {
    let fd = memfd(4096);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let reopen = |flags| rustix::fs::open(path.as_str(), flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(open(reopen(OFlags::PATH)).unwrap_err(), Refusal::PathOnly);
    assert_eq!(open(reopen(OFlags::WRONLY)).unwrap_err(), Refusal::NotReadable);
}

#[test]
fn a_range_outside_the_file_is_refused() {
    let file = open(memfd(0x3000)).unwrap();
    for (offset, len) in
        [(0, 0x4000), (0x3000, 0x1000), (u64::MAX - 0xfff, 0x1000), (0x1000, u64::MAX - 0xfff)]
    {
        assert!(
            matches!(file.map(offset, len), Err(Refusal::BeyondEnd { size: 0x3000, .. })),
            "{offset:x} {len:x}"
        );
    }
    assert!(matches!(file.map(0x1000, 0), Err(Refusal::BeyondEnd { .. })));
    // A last page that is there in part is not there.
    assert!(open(memfd(0x1800)).unwrap().map(0, 0x2000).is_err());
}

#[test]
fn a_range_may_begin_and_end_anywhere_in_a_page() {
    let file = open(memfd(0x2abc)).unwrap();
    file.map(0, 0x2abc).unwrap().write(0x1fff, &[7, 8, 9]).unwrap();
    let window = file.map(0x1ffe, 0x804).unwrap();
    let mut bytes = [0; 4];
    window.read(0, &mut bytes).unwrap();
    assert_eq!((window.len(), bytes), (0x804, [0, 7, 8, 9]));
    let (pages, skip) = file.map_pages(0x1ffe, 0x804).unwrap();
    assert_eq!((pages.len(), skip), (0x2000, 0xffe));
    let (pages, skip) = file.map_pages(0x2000, 0xabc).unwrap();
    assert_eq!((pages.len(), skip), (0x1000, 0));
    pages.read(0xabc, &mut [0; 0x544]).unwrap();
}

#[test]
fn windows_are_kept_out_of_core_dumps_and_are_never_executable() {
    let window = open(memfd(0x7000)).unwrap().map(0, 0x7000).unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-{:x} ", window.address(), window.address() + 0x7000);
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    assert!(lines.next().unwrap().contains(" rw-s "));
    let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    assert!(has("dd") && has("dc") && !has("ex") && has("sh"), "{flags}");
    let address = start;
    drop(window);
    assert!(
        !std::fs::read_to_string("/proc/self/maps").unwrap().contains(&address),
        "unmapped with the last window"
    );
}

#[test]
fn a_region_may_begin_inside_a_huge_page() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB;
    let huge = memfd_create("huge", flags).and_then(|fd| ftruncate(&fd, 4 << 20).map(|()| fd));
    let Ok(fd) = huge else {
        eprintln!("skipped: no huge pages");
        return;
    };
    let file = open(fd.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(file.block_size(), 2 << 20);
    match file.map(0xc_0000, 0x1000) {
        Ok(window) => assert_eq!(window.address() % (2 << 20), 0xc_0000),
        Err(e) => eprintln!("skipped: {e}"),
    }
}
