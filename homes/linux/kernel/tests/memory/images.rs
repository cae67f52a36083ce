//! Images for the software controller.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nvme_linux::memory::{ImageAccess, ImageError, ImageFile};

use crate::support::*;

fn opened(file: &File, access: ImageAccess) -> Result<ImageFile, ImageError> {
    let fd: OwnedFd = file.try_clone().unwrap().into();
    ImageFile::open(reopen(&fd, access == ImageAccess::ReadWrite), access)
}

/// A file on a disk and one in memory.
fn files(size: u64) -> [File; 2] {
    let shm = tempfile::tempfile_in("/dev/shm").unwrap();
    shm.set_len(size).unwrap();
    [on_disk(size), shm]
}

#[test]
fn what_is_written_to_an_image_is_in_its_file() {
    for file in files(1 << 20) {
        let image = opened(&file, ImageAccess::ReadWrite).unwrap();
        assert_eq!((image.size(), image.read_only()), (1 << 20, false));
        image.window().write(5000, b"data").unwrap();
        image.flush(4608, 512).unwrap();
        image.flush(0, 1 << 20).unwrap();
        image.flush(0, 0).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 5000).unwrap();
        assert_eq!(&bytes, b"data");
        assert_eq!(image.flush(1 << 20, 1), Err(ImageError::OutOfBounds));
        assert_eq!(image.discard(u64::MAX, 2), Err(ImageError::OutOfBounds));
    }
}

#[test]
fn zeroed_and_discarded_blocks_read_as_zeroes_and_their_neighbours_stay() {
    let whole = 1usize << 20;
    for file in files(whole as u64) {
        for (offset, len) in [(512usize, 1024usize), (4608, 200_192), (0, whole)] {
            for discard in [false, true] {
                let image = opened(&file, ImageAccess::ReadWrite).unwrap();
                image.window().fill(0, whole, 0x77).unwrap();
                let (at, bytes) = (offset as u64, len as u64);
                if discard { image.discard(at, bytes) } else { image.zero(at, bytes) }.unwrap();
                let mut all = vec![1; whole];
                image.window().read(0, &mut all).unwrap();
                let kept = |i: usize| !(offset..offset + len).contains(&i);
                assert!(
                    all.iter().enumerate().all(|(i, b)| *b == if kept(i) { 0x77 } else { 0 }),
                    "{offset} {len}"
                );
            }
        }
    }
}

#[test]
fn a_discard_gives_storage_back() {
    let [_, file] = files(1 << 20);
    let image = opened(&file, ImageAccess::ReadWrite).unwrap();
    image.window().fill(0, 1 << 20, 1).unwrap();
    let before = file.metadata().unwrap().blocks();
    image.discard(0, 1 << 20).unwrap();
    assert!(file.metadata().unwrap().blocks() < before);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn one_writer_or_many_readers() {
    for file in files(4096) {
        let reader = opened(&file, ImageAccess::ReadOnly).unwrap();
        let second = opened(&file, ImageAccess::ReadOnly).unwrap();
        assert_eq!(opened(&file, ImageAccess::ReadWrite).unwrap_err(), ImageError::InUse);
        drop((reader, second));
        let writer = opened(&file, ImageAccess::ReadWrite).unwrap();
        assert_eq!(opened(&file, ImageAccess::ReadOnly).unwrap_err(), ImageError::InUse);
        drop(writer);
        opened(&file, ImageAccess::ReadOnly).unwrap();
    }
}

#[test]
fn a_read_only_image_is_not_changed() {
    let [_, file] = files(8192);
    let image = opened(&file, ImageAccess::ReadOnly).unwrap();
    assert_eq!(image.zero(0, 512), Err(ImageError::ReadOnly));
    assert_eq!(image.discard(0, 512), Err(ImageError::ReadOnly));
    assert_eq!(image.flush(0, 8192), Ok(()));
    let fd: OwnedFd = file.try_clone().unwrap().into();
    assert_eq!(
        ImageFile::open(reopen(&fd, false), ImageAccess::ReadWrite).unwrap_err(),
        ImageError::NotWritable
    );
}

#[test]
fn what_is_no_image_is_refused() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert_eq!(ImageFile::open(pipe, ImageAccess::ReadOnly).unwrap_err(), ImageError::NotAnImage);
    assert_eq!(ImageFile::open(memfd(0), ImageAccess::ReadOnly).unwrap_err(), ImageError::Empty);
    assert_eq!(ImageFile::memory(0).unwrap_err(), ImageError::Empty);
    assert!(ImageFile::memory(u64::MAX).is_err());
}

#[test]
fn an_image_that_shrinks_fails() {
    let [_, file] = files(1 << 20);
    let image = opened(&file, ImageAccess::ReadWrite).unwrap();
    file.set_len(0).unwrap();
    let mut bytes = [1; 512];
    image.window().read(4096, &mut bytes).unwrap();
    assert!(image.window().failed());
    for done in [image.flush(0, 512), image.flush(0, 1 << 20), image.zero(0, 512), image.discard(0, 512)] {
        assert_eq!(done, Err(ImageError::Failed));
    }
    assert_eq!(file.metadata().unwrap().len(), 0, "and it is not made longer again");
}

#[test]
fn an_image_in_memory_needs_no_file() {
    let image = ImageFile::memory(10_000).unwrap();
    image.window().write(9_996, b"last").unwrap();
    assert_eq!(image.window().len(), 10_000);
    image.zero(0, 10_000).unwrap();
    assert_eq!(image.window().read_value::<[u8; 4]>(9_996), Ok([0; 4]));
}
