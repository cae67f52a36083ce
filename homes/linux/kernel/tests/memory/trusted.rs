//! Which files are trusted.

use std::os::fd::OwnedFd;

use nvme_linux::memory::{MemoryFile, Refusal, Trusted};

use crate::support::*;

fn trusting(files: &[&OwnedFd]) -> Trusted {
    let mut trusted = Trusted::new();
    for (n, file) in files.iter().enumerate() {
        trusted.add(&format!("ds{n}"), file.try_clone().unwrap()).unwrap();
    }
    trusted
}

#[test]
fn a_trusted_file_is_recognised_by_any_descriptor_of_it() {
    let (other, file) = (memfd(4096), memfd(4096));
    let trusted = trusting(&[&other, &file]);
    for candidate in [file.try_clone().unwrap(), reopen(&file, true), reopen(&file, false)] {
        assert_eq!(MemoryFile::open(candidate, &trusted).unwrap().trusted(), [1]);
    }
}

#[test]
fn a_file_that_is_trusted_by_two_names_is_known_by_both() {
    let (other, file) = (memfd(4096), memfd(4096));
    let trusted = trusting(&[&file, &other, &reopen(&file, false)]);
    assert_eq!(MemoryFile::open(file, &trusted).unwrap().trusted(), [0, 2]);
}

#[test]
fn a_trusted_file_that_the_server_can_only_read_is_recognised() {
    let file = memfd(4096);
    let trusted = trusting(&[&reopen(&file, false)]);
    assert_eq!(MemoryFile::open(file, &trusted).unwrap().trusted(), [0]);
}

#[test]
fn with_a_trusted_file_no_other_memory_is_accepted() {
    let (file, same_size) = (memfd(4096), memfd(4096));
    let copy = memfd(4096);
    rustix::io::pwrite(&file, b"content", 0).unwrap();
    rustix::io::pwrite(&copy, b"content", 0).unwrap();
    let trusted = trusting(&[&file]);
    for stranger in [same_size, copy, on_disk(4096).into(), tempfile::tempfile_in("/dev/shm").unwrap().into()]
    {
        assert_eq!(MemoryFile::open(stranger, &trusted).unwrap_err(), Refusal::NotTrusted);
    }
}

#[test]
fn a_trusted_file_may_lie_on_a_disk() {
    let file: OwnedFd = on_disk(8192).into();
    let memory = MemoryFile::open(reopen(&file, true), &trusting(&[&file])).unwrap();
    memory.map(0, 8192).unwrap().write(4096, b"hello").unwrap();
    let mut bytes = [0; 5];
    rustix::io::pread(&file, &mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn locks_of_others_neither_make_nor_break_a_trusted_file() {
    let (file, stranger) = (memfd(4096), memfd(4096));
    let trusted = trusting(&[&file]);
    // Somebody with a descriptor of each locks all of both for itself.
    let (mine, theirs) = (reopen(&file, true), reopen(&stranger, true));
    for fd in [&mine, &theirs] {
        rustix::fs::flock(fd, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    assert!(MemoryFile::open(stranger, &trusted).is_err());
    assert!(MemoryFile::open(file, &trusted).is_ok());
}

#[test]
fn what_cannot_be_a_dataspace_is_not_trusted() {
    let mut trusted = Trusted::new();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert!(matches!(trusted.add("p", pipe), Err(Refusal::NotAFile(_))));
    assert!(trusted.is_empty());
}
