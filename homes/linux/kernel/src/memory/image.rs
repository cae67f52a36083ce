//! A disk image, mapped whole.
#![expect(unsafe_code, reason = "makes windows of an image")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_mem::Window;
use nvme_platform::PAGE;
use rustix::fs::{
    FallocateFlags, FileType, MemfdFlags, OFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals,
    fcntl_getfl, fdatasync, fstat, ftruncate, memfd_create, seek,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MsyncFlags, msync};

use super::lock::{Lock, lock_file};
use super::mapping::{self, MapError};

/// What the server may do to an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageAccess {
    /// Read; others may read it too.
    ReadOnly,
    /// Read and write, alone.
    ReadWrite,
}

/// Why an image cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImageError {
    /// Another process, or another controller of this one, has it.
    #[error(
        "another process or controller uses the image; two may share it only when both open it read-only (`ro`)"
    )]
    InUse,
    /// It is neither a file nor a block device.
    #[error("neither a regular file nor a block device")]
    NotAnImage,
    /// It has no bytes.
    #[error("the image is empty")]
    Empty,
    /// The descriptor has not the rights that are asked for.
    #[error("the descriptor is not open for reading and writing; open the image read-only (`ro`)")]
    NotWritable,
    /// The descriptor cannot be read.
    #[error("the descriptor is not open for reading")]
    NotReadable,
    /// The process has as many windows as it may.
    #[error("the server has no room for another window")]
    TooManyWindows,
    /// The image is read-only.
    #[error("the image is read-only")]
    ReadOnly,
    /// The range is not in the image.
    #[error("outside the image")]
    OutOfBounds,
    /// The image shrank or failed under the server.
    #[error("the image shrank or failed")]
    Failed,
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, Errno),
}

/// A disk image as one window: a file, a block device, or memory. It is locked against other servers while it is open.
#[derive(Debug)]
pub struct ImageFile {
    file: OwnedFd,
    window: Window,
    access: ImageAccess,
}

/// Below this many bytes, writing zeroes costs less than telling the file system.
const ZERO_BY_HAND: u64 = 64 << 10;

impl ImageFile {
    /// Maps an image that was opened with at least these rights.
    pub fn open(file: OwnedFd, access: ImageAccess) -> Result<Self, ImageError> {
        let system = |what| move |errno| ImageError::System(what, errno);
        let flags = fcntl_getfl(&file).map_err(system("F_GETFL"))?;
        let rights = flags & OFlags::RWMODE;
        if flags.contains(OFlags::PATH) || rights == OFlags::WRONLY {
            return Err(ImageError::NotReadable);
        }
        let writable = access == ImageAccess::ReadWrite;
        if writable && rights != OFlags::RDWR {
            return Err(ImageError::NotWritable);
        }
        let stat = fstat(&file).map_err(system("fstat"))?;
        let size = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => seek(&file, SeekFrom::End(0)).map_err(system("lseek"))?,
            _ => return Err(ImageError::NotAnImage),
        };
        if !lock_file(&file, if writable { Lock::Exclusive } else { Lock::Shared })
            .map_err(system("F_OFD_SETLK"))?
        {
            return Err(ImageError::InUse);
        }
        Self::map(file, size, access)
    }

    /// Makes an image of `size` zero bytes in memory, which is gone when it is dropped.
    pub fn memory(size: u64) -> Result<Self, ImageError> {
        let system = |what| move |errno| ImageError::System(what, errno);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("nvme-image", flags).map_err(system("memfd_create"))?;
        ftruncate(&file, size).map_err(system("ftruncate"))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(system("F_ADD_SEALS"))?;
        Self::map(file, size, ImageAccess::ReadWrite)
    }

    /// Goes on with one that another server made.
    pub fn made(file: OwnedFd, size: u64) -> Result<Self, ImageError> {
        let system = |what| move |errno| ImageError::System(what, errno);
        let stat = fstat(&file).map_err(system("fstat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || u64::try_from(stat.st_size) != Ok(size)
        {
            return Err(ImageError::NotAnImage);
        }
        Self::map(file, size, ImageAccess::ReadWrite)
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn map(file: OwnedFd, size: u64, access: ImageAccess) -> Result<Self, ImageError> {
        if size == 0 {
            return Err(ImageError::Empty);
        }
        let whole = size.checked_next_multiple_of(PAGE as u64).and_then(|n| usize::try_from(n).ok());
        let whole = whole.ok_or(ImageError::System("mmap", Errno::NOMEM))?;
        let mapped = mapping::map(file.as_fd(), 0, whole, PAGE, access == ImageAccess::ReadWrite).map_err(
            |e| match e {
                MapError::TooMany => ImageError::TooManyWindows,
                MapError::System(e) => ImageError::System("mmap", e),
            },
        )?;
        let size = usize::try_from(size).map_err(|_| ImageError::OutOfBounds)?;
        let window = mapped.sub(0, size).map_err(|_| ImageError::OutOfBounds)?;
        Ok(Self { file, window, access })
    }

    /// The whole image. Of a read-only one nothing may be written: a write would end the process.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.window.len() as u64
    }

    /// Whether it may be read only.
    pub fn read_only(&self) -> bool {
        self.access == ImageAccess::ReadOnly
    }

    fn check(&self, offset: u64, len: u64) -> Result<(usize, usize), ImageError> {
        if self.window.failed() {
            return Err(ImageError::Failed);
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size());
        match (inside, usize::try_from(offset), usize::try_from(len)) {
            (true, Ok(offset), Ok(len)) => Ok((offset, len)),
            _ => Err(ImageError::OutOfBounds),
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(usize, usize), ImageError> {
        if self.read_only() { Err(ImageError::ReadOnly) } else { self.check(offset, len) }
    }

    /// Waits until what was written to these bytes is on stable storage.
    pub fn flush(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let (start, bytes) = self.check(offset, len)?;
        if self.read_only() || bytes == 0 {
            return Ok(());
        }
        if bytes == self.window.len() {
            retry_on_intr(|| fdatasync(&self.file)).map_err(|e| ImageError::System("fdatasync", e))?;
        } else {
            let skew = start % PAGE;
            let at = self.window.address() + (start - skew);
            // SAFETY: the range is inside the mapping that `self.window` keeps.
            unsafe { msync(std::ptr::with_exposed_provenance_mut(at), bytes + skew, MsyncFlags::SYNC) }
                .map_err(|e| ImageError::System("msync", e))?;
        }
        // Pages that were put in the file's place count as flushed; they are not.
        if self.window.failed() { Err(ImageError::Failed) } else { Ok(()) }
    }

    /// Gives the storage of these bytes back where that can be done; they read as zeroes then, or as before.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        if self.check_write(offset, len)?.1 == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.file, flags, offset, len)) {
            // A discard is a hint.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(ImageError::System("fallocate", e)),
        }
    }

    /// Makes these bytes zeroes.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let (start, bytes) = self.check_write(offset, len)?;
        if len > ZERO_BY_HAND {
            // Storage stays reserved where it can.
            for flags in [FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE] {
                match retry_on_intr(|| fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, len))
                {
                    Ok(()) => return Ok(()),
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                    Err(e) => return Err(ImageError::System("fallocate", e)),
                }
            }
        }
        self.window.fill(start, bytes, 0).map_err(|_| ImageError::OutOfBounds)?;
        if self.window.failed() { Err(ImageError::Failed) } else { Ok(()) }
    }
}
