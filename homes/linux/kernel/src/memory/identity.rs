//! What a client's descriptor is, and why it is not taken.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, statx};
use rustix::io::Errno;

/// Which file object it is, while it exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId {
    /// Major and minor number of its file system's device.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

/// Why memory is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The descriptor is no regular file.
    #[error("a {0} is no memory")]
    NotAFile(Kind),
    /// The file is on a file system where a page fault may wait for ever.
    #[error("the file is not on tmpfs or hugetlbfs, and no memfd")]
    NotMemory,
    /// There are trusted dataspaces, and this is none.
    #[error("it is no trusted dataspace")]
    NotTrusted,
    /// The descriptor only names the file (`O_PATH`).
    #[error("the descriptor only names the file (O_PATH)")]
    PathOnly,
    /// The descriptor cannot be read.
    #[error("the file is not open for reading")]
    NotReadable,
    /// The descriptor cannot be written, or the file is sealed against that.
    #[error("the file cannot be written")]
    NotWritable,
    /// The range is not in the file.
    #[error("offset {offset:#x} and length {len:#x} reach over the file's end at {size:#x}")]
    BeyondEnd {
        /// Start of the range.
        offset: u64,
        /// Its length.
        len: u64,
        /// The file's size at that time.
        size: u64,
    },
    /// The process has as many windows as it may.
    #[error("the server has no room for another window")]
    TooManyWindows,
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, Errno),
}

/// What a descriptor is instead of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(FileType);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            FileType::Directory => "directory",
            FileType::Symlink => "symbolic link",
            FileType::Fifo => "pipe",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "character device",
            FileType::BlockDevice => "block device",
            _ => "special file",
        })
    }
}

pub(super) struct Identity {
    pub(super) id: FileId,
    pub(super) size: u64,
}

/// The flags of a descriptor that can be read.
pub(super) fn check_access(file: BorrowedFd<'_>) -> Result<OFlags, Refusal> {
    let flags = fcntl_getfl(file).map_err(|e| Refusal::System("F_GETFL", e))?;
    if flags.contains(OFlags::PATH) {
        return Err(Refusal::PathOnly);
    }
    if flags & OFlags::RWMODE == OFlags::WRONLY {
        return Err(Refusal::NotReadable);
    }
    Ok(flags)
}

/// Which regular file it is, as far as the kernel knows it without asking anybody: a file system in user space could make
/// an ordinary `fstat` wait for ever.
pub(super) fn identify(file: BorrowedFd<'_>) -> Result<Identity, Refusal> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let want = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE;
    let stat = statx(file, "", flags, want).map_err(|e| Refusal::System("statx", e))?;
    let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
    if kind != FileType::RegularFile {
        return Err(Refusal::NotAFile(Kind(kind)));
    }
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    Ok(Identity { id: FileId { device, inode: stat.stx_ino }, size: stat.stx_size })
}
