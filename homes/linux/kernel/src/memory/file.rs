//! A memory file that a client handed over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_mem::Window;
use nvme_platform::PAGE;
use rustix::fs::{OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstatfs};
use rustix::io::Errno;

use super::identity::{FileId, Refusal, check_access, identify};
use super::mapping::{self, MapError};
use super::trusted::{self, Trusted};
use crate::dispose::dispose;

/// `f_type` of tmpfs and of memfds (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
/// `f_type` of hugetlbfs and of memfds with huge pages.
const HUGETLBFS: u64 = 0x9584_58f6;

/// A file of memory. What its owner can still do to it: write, and, unless it is sealed, shrink.
#[derive(Debug)]
pub struct MemoryFile {
    /// Until it is dropped.
    file: Option<OwnedFd>,
    checked: Checked,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // To close a trusted file takes away what the proof of another's identity locked in it.
        let _turn = (!self.checked.trusted.is_empty()).then(trusted::turn);
        self.file.take();
    }
}

#[derive(Debug)]
struct Checked {
    id: FileId,
    writable: bool,
    sealed: bool,
    trusted: Vec<usize>,
    block: u64,
}

impl Checked {
    fn new(fd: BorrowedFd<'_>, trusted: &Trusted) -> Result<Self, Refusal> {
        let flags = check_access(fd)?;
        let id = identify(fd)?.id;
        let known = trusted.recognise(fd, id);
        let is_trusted = !known.is_empty();
        if !trusted.is_empty() && !is_trusted {
            return Err(Refusal::NotTrusted);
        }
        // The kernel's memory file systems alone have seals; asking for them asks the kernel only.
        let seals = fcntl_get_seals(fd);
        if !is_trusted && seals.is_err() {
            return Err(Refusal::NotMemory);
        }
        let statfs = fstatfs(fd).map_err(|e| Refusal::System("fstatfs", e))?;
        let kind = statfs.f_type as u64 & 0xffff_ffff;
        if !is_trusted && kind != TMPFS && kind != HUGETLBFS {
            return Err(Refusal::NotMemory);
        }
        let block = if kind == HUGETLBFS { u64::try_from(statfs.f_bsize).unwrap_or(0) } else { PAGE as u64 };
        if !block.is_power_of_two() || block < PAGE as u64 {
            return Err(Refusal::System("fstatfs", Errno::INVAL));
        }
        let seals = seals.unwrap_or(SealFlags::empty());
        let sealed = seals.contains(SealFlags::SHRINK) || fcntl_add_seals(fd, SealFlags::SHRINK).is_ok();
        let frozen = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
        let writable = flags & OFlags::RWMODE == OFlags::RDWR && !frozen;
        Ok(Self { id, writable, sealed, trusted: known, block })
    }
}

impl MemoryFile {
    /// Accepts a client's descriptor when it is memory, or trusted, and seals it against shrinking where that can be. Asks
    /// nothing of a file system that a client may have mounted, so it never waits for ever; but sealing waits for the file's
    /// lock, closing frees its pages, and so this, what follows and the end of this value are for a [`lane`](crate::lanes).
    pub fn open(file: OwnedFd, trusted: &Trusted) -> Result<Self, Refusal> {
        match Checked::new(file.as_fd(), trusted) {
            Ok(checked) => Ok(Self { file: Some(file), checked }),
            Err(refusal) => {
                dispose([file]);
                Err(refusal)
            }
        }
    }

    /// The descriptor.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(OwnedFd::as_fd)
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Refusal> {
        self.file.as_ref().map(OwnedFd::as_fd).ok_or(Refusal::System("fcntl", Errno::BADF))
    }

    /// Which file object it is: regions of one file count as one dataspace.
    pub fn id(&self) -> FileId {
        self.checked.id
    }

    /// The file's size in bytes, now.
    pub fn size(&self) -> Result<u64, Refusal> {
        identify(self.fd()?).map(|identity| identity.size)
    }

    /// Whether its windows may be written.
    pub fn writable(&self) -> bool {
        self.checked.writable
    }

    /// Whether nobody can make it shorter any more.
    pub fn sealed(&self) -> bool {
        self.checked.sealed
    }

    /// Which of the trusted files it is, by the order in which they were added: one file may have been added twice.
    pub fn trusted(&self) -> &[usize] {
        &self.checked.trusted
    }

    /// The size of its pages in bytes: 4096, or that of its huge pages. What is mapped is rounded to whole pages.
    pub fn block_size(&self) -> u64 {
        self.checked.block
    }

    /// Maps `len` bytes at `offset`, inside the file. The window stays when this value is dropped.
    /// When [`writable`](Self::writable) is false, nothing may be written through it: a write would end the process.
    pub fn map(&self, offset: u64, len: u64) -> Result<Window, Refusal> {
        let (pages, skip) = self.map_pages(offset, len)?;
        let len = usize::try_from(len).map_err(|_| Refusal::System("mmap", Errno::NOMEM))?;
        pages.sub(skip, len).map_err(|_| Refusal::System("mmap", Errno::FAULT))
    }

    /// As [`map`](Self::map), with the rest of the first and the last page of 4096 bytes, as a controller is given
    /// memory; and at which byte of the first page the range begins. What lies behind the file's end reads as
    /// zeroes.
    pub fn map_pages(&self, offset: u64, len: u64) -> Result<(Window, usize), Refusal> {
        let size = self.size()?;
        let beyond = Refusal::BeyondEnd { offset, len, size };
        let end = offset.checked_add(len).filter(|end| len > 0 && *end <= size).ok_or(beyond)?;
        // A region of a client may begin inside a huge page; the mapping cannot.
        let start = offset & !(self.checked.block - 1);
        let whole = end.checked_next_multiple_of(self.checked.block).map(|end| end - start).ok_or(beyond)?;
        let too_long = |_| Refusal::System("mmap", Errno::NOMEM);
        let whole = usize::try_from(whole).map_err(too_long)?;
        let block = usize::try_from(self.checked.block).map_err(too_long)?;
        let window =
            mapping::map(self.fd()?, start, whole, block, self.checked.writable).map_err(|e| match e {
                MapError::TooMany => Refusal::TooManyWindows,
                MapError::System(e) => Refusal::System("mmap", e),
            })?;
        let page = PAGE as u64;
        let first = offset & !(page - 1);
        // `end` was rounded up without overflow to a larger block above.
        let pages = end.next_multiple_of(page) - first;
        let skip = usize::try_from(first - start).map_err(too_long)?;
        let pages = window.sub(skip, usize::try_from(pages).map_err(too_long)?).map_err(|_| beyond)?;
        Ok((pages, (offset - first) as usize))
    }
}
