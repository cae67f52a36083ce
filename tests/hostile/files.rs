//! What is no memory.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nvme_client::message::RegionWords;
use nvme_client::socket;
use rustix::fs::{Mode, OFlags};

use crate::disk::memory_dir;
use crate::raw::*;
use crate::rig::attack;

const REGION: RegionWords = RegionWords { guest: 1 << 40, size: 4096, user: 1 << 40, offset: 0 };

/// None of these is registered, by either message.
fn refused(files: Vec<(&'static str, OwnedFd)>) {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let words: Vec<_> = raw.client.memory.regions.iter().map(|r| r.words).chain([REGION]).collect();
        for (what, file) in &files {
            let front = &raw.client.front;
            assert!(front.add_mem_reg(REGION, file.as_fd()).is_err(), "{what}");
            let ram = raw.client.memory.file(0).unwrap();
            let table = [ram, ram, ram, file.as_fd()];
            assert!(front.set_mem_table_raw(4, &words, &table).is_err(), "{what}");
            raw.refused(nvme_client::kind::IN, 0, &[(REGION.guest, 512, WRITE)], IOERR);
        }
        raw.guards_hold();
    });
}

fn open(path: &str) -> OwnedFd {
    File::open(path).unwrap_or_else(|e| panic!("{path}: {e}")).into()
}

#[test]
fn a_device_is_no_memory() {
    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
    refused(vec![("null", open("/dev/null")), ("zero", zero.into()), ("full", open("/dev/full"))]);
}

#[test]
fn a_pipe_or_socket_is_no_memory() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (stream, _peer) = UnixStream::pair().unwrap();
    let event = socket::event().unwrap();
    refused(vec![("reader", reader), ("writer", writer), ("socket", stream.into()), ("eventfd", event)]);
}

#[test]
fn a_file_on_a_disk_is_no_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kind = rustix::fs::statfs(dir.path()).unwrap().f_type;
    assert_ne!(kind as u64, 0x0102_1994, "the target directory is in memory: this cannot be tested there");
    let path = dir.path().join("ram");
    fs::write(&path, [0; 8192]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    refused(vec![
        ("disk", file.into()),
        ("proc", open("/proc/self/maps")),
        ("sys", open("/sys/kernel/mm/transparent_hugepage/enabled")),
    ]);
}

#[test]
fn a_directory_is_no_memory() {
    let dir = memory_dir();
    refused(vec![("tmpfs", open(dir.path().to_str().unwrap())), ("root", open("/"))]);
}

#[test]
fn a_descriptor_that_cannot_be_read_is_no_memory() {
    let dir = memory_dir();
    let path = dir.path().join("ram");
    fs::write(&path, [0; 8192]).unwrap();
    let only = OpenOptions::new().write(true).open(&path).unwrap();
    let named = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    refused(vec![("write-only", only.into()), ("O_PATH", named)]);
}
