//! Dataspaces, made by a memory allocator with an optional quota.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::failure::Failure;

/// A memory allocator.
#[derive(Default)]
pub(crate) struct Allocator {
    /// Bytes that it may still give away. They are not given back: the memory lives as long as any descriptor of it.
    left: Option<Cell<u64>>,
}

impl Allocator {
    /// A part of this one, of so many bytes.
    pub(crate) fn part(&self, bytes: u64) -> Result<Allocator, Failure> {
        self.take(bytes)?;
        Ok(Allocator { left: Some(Cell::new(bytes)) })
    }

    /// A dataspace of `bytes`, rounded up to whole pages and zero. Its size is sealed: neither a client nor the server
    /// can be made to fault on memory that another one cut off.
    pub(crate) fn dataspace(&self, bytes: u64) -> Result<OwnedFd, Failure> {
        let page = rustix::param::page_size() as u64;
        if bytes == 0 {
            return Err(Failure::new(Errno::RANGE, "a dataspace of nothing"));
        }
        let size =
            bytes.checked_next_multiple_of(page).filter(|size| *size > 0 && i64::try_from(*size).is_ok());
        let size =
            size.ok_or_else(|| Failure::new(Errno::INVAL, format!("{bytes} is no size for a dataspace")))?;
        self.take(size)?;
        let make = || -> Result<OwnedFd, Errno> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = rustix::fs::memfd_create("dataspace", flags)?;
            rustix::fs::ftruncate(&file, size)?;
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(file)
        };
        make().map_err(|errno| Failure::io(format_args!("a dataspace of {size} bytes"), &errno.into()))
    }

    fn take(&self, bytes: u64) -> Result<(), Failure> {
        let Some(left) = &self.left else { return Ok(()) };
        let after = left.get().checked_sub(bytes).ok_or_else(|| {
            let text =
                format!("{bytes} bytes are more than the {} that are left of this factory", left.get());
            Failure::new(Errno::NOMEM, text)
        })?;
        left.set(after);
        Ok(())
    }
}

/// Another descriptor of a memory file, through which it cannot be written.
pub(crate) fn read_only(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataspace_is_whole_pages_and_can_be_neither_cut_nor_grown() {
        let file = Allocator::default().dataspace(5000).unwrap();
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 8192);
        assert_eq!(rustix::fs::ftruncate(&file, 4096), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 16384), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::PERM));
        assert_eq!(rustix::io::pwrite(&file, b"x", 8191), Ok(1));
    }

    #[test]
    fn sizes_of_nothing_and_of_more_than_there_is_are_refused() {
        assert_eq!(Allocator::default().dataspace(0).unwrap_err().code, -34);
        assert_eq!(Allocator::default().dataspace(u64::MAX).unwrap_err().code, -22);
        let small = Allocator::default().part(8192).unwrap();
        small.dataspace(4097).unwrap();
        assert_eq!(small.dataspace(1).unwrap_err().code, -12);
        assert_eq!(Allocator::default().part(10).unwrap().part(11).map(|_| ()).unwrap_err().code, -12);
    }

    #[test]
    fn a_read_only_descriptor_cannot_be_written_through() {
        let file = Allocator::default().dataspace(4096).unwrap();
        let reader = read_only(file.as_fd()).unwrap();
        assert_eq!(rustix::io::pwrite(&reader, b"x", 0), Err(Errno::BADF));
    }
}
