//! What the kernel says of an image: file or block device, how large, how it wants to be read, and who else has it.
#![expect(unsafe_code, reason = "asks the kernel what its safe wrappers do not")]

use std::fs;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    Advice, AtFlags, FileType, Mode, OFlags, Stat, StatxFlags, fadvise, fcntl_getfl, fstat, fstatfs,
    fstatvfs, ioctl_blksszget, statx,
};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::holder::{loop_over, sysfs, writer};
use crate::memory::{Lock, lock_file, proc_path};

/// `f_type` of tmpfs and hugetlbfs (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
/// Of ext4, XFS, Btrfs, F2FS and overlayfs: of a file there its size is known without asking any other machine.
const LOCAL: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, OVERLAYFS];
const OVERLAYFS: u64 = 0x794c_7630;
/// BLKROGET of linux/fs.h.
const BLKROGET: libc::Ioctl = 0x125e;
/// BLKGETSIZE64 of linux/fs.h.
pub(super) const BLKGETSIZE64: u32 = 0x8008_1272;
/// STATX_DIOALIGN of statx(2).
const DIOALIGN: u32 = 0x2000;
/// An image that is longer is never mapped: an address space has 128 TiB.
pub(super) const MAP_MAX: u64 = 32 << 40;
/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Somebody has it: who, in parentheses, if that can be seen.
    #[error(
        "another process or controller uses the image{0}; two may share it only when both open it read-only (`ro`)"
    )]
    InUse(String),
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
    /// Its flags, which are its giver's as well, do not let it be served, and it cannot be opened without them.
    #[error(
        "the descriptor was opened with {0}, and cannot be opened again without: {1}. Pass one that was not"
    )]
    Flags(&'static str, Errno),
    /// The device can only be read.
    #[error("the device is read-only; open it read-only (`ro`)")]
    ReadOnlyDevice,
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, Errno),
}

/// How memory and places must be aligned to be read and written directly, in bytes. 1: anyhow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment {
    /// Addresses.
    pub memory: usize,
    /// Offsets and lengths.
    pub offset: usize,
}

/// What an image is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Whether it is a block device.
    pub block_device: bool,
    /// Size in bytes.
    pub size: u64,
    /// Its blocks: a device's logical ones; 512 for a file.
    pub block_size: u32,
    /// It is in memory.
    pub memory: bool,
    /// What the kernel knows of its size is what there is: nothing answers for it that is not here.
    pub local: bool,
    /// Whoever wants to know how large it is may have to ask somebody who does not answer.
    pub asks: bool,
    /// It has huge pages of its own: what is mapped of it is reserved.
    pub huge: bool,
    /// A discard gives something back.
    pub discards: bool,
    /// How many bytes it gives back together, as far as that is known.
    pub discard_granularity: u64,
    /// What it looks like, if not raw.
    pub format: Option<&'static str>,
    /// Who else has it open for writing.
    pub writer: Option<String>,
    /// Bytes that have storage, and what is free where it is. A file's.
    pub space: Option<(u64, u64)>,
}

impl Facts {
    /// Asks the kernel, and takes the lock that keeps other servers out.
    pub fn of(file: BorrowedFd<'_>, read_only: bool) -> Result<Self, FactsError> {
        let system = |what| move |errno| FactsError::System(what, errno);
        let flags = fcntl_getfl(file).map_err(system("F_GETFL"))?;
        let rights = flags & OFlags::RWMODE;
        if flags.contains(OFlags::PATH) || rights == OFlags::WRONLY {
            return Err(FactsError::NotReadable);
        }
        if !read_only && rights != OFlags::RDWR {
            return Err(FactsError::NotWritable);
        }
        let stat = fstat(file).map_err(system("fstat"))?;
        let block_device = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(FactsError::NotAnImage),
        };
        let size = size(file, block_device).map_err(system("size"))?;
        if size == 0 {
            return Err(FactsError::Empty);
        }
        let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
        if !let_go_of(|| lock_file(file, lock)).map_err(system("F_OFD_SETLK"))? {
            return Err(FactsError::InUse(writer(&stat).map(|who| format!(" ({who})")).unwrap_or_default()));
        }
        if block_device && !read_only && is_read_only(file) {
            return Err(FactsError::ReadOnlyDevice);
        }
        // A loop device claims nothing of what it lies over.
        let above = loop_over(&stat);
        if block_device
            && !read_only
            && let Some(above) = &above
        {
            return Err(FactsError::InUse(format!(" ({above} lies over it)")));
        }
        let statfs = fstatfs(file).map_err(system("fstatfs"))?;
        let kind = statfs.f_type as u64 & 0xffff_ffff;
        let memory = !block_device && (kind == TMPFS || kind == HUGETLBFS);
        let block_size = if block_device { ioctl_blksszget(file).map_err(system("BLKSSZGET"))? } else { 512 };
        let space = fstatvfs(file).ok().filter(|_| !block_device).map(|vfs| {
            let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            (taken, vfs.f_bavail.saturating_mul(vfs.f_frsize))
        });
        Ok(Self {
            block_device,
            size,
            block_size,
            memory,
            local: block_device || kind == TMPFS || LOCAL.contains(&kind),
            // What lies below an overlay may be anybody's.
            asks: !block_device && kind != TMPFS && (kind == OVERLAYFS || !LOCAL.contains(&kind)),
            huge: !block_device && kind == HUGETLBFS,
            discards: !block_device || queue_limit(&stat, "discard_max_bytes") > 0,
            discard_granularity: if block_device { queue_limit(&stat, "discard_granularity") } else { 0 },
            format: format(file),
            writer: above.or_else(|| writer(&stat)),
            space,
        })
    }

    /// Whether it can be mapped whole.
    pub fn maps(&self) -> bool {
        self.size <= MAP_MAX
    }

    /// A sparse image that cannot become as large as it says: bytes without storage, and bytes that are free.
    pub fn overcommitted(&self) -> Option<(u64, u64)> {
        let (taken, free) = self.space?;
        let missing = self.size.saturating_sub(taken);
        (missing > free).then_some((missing, free))
    }
}

/// How long a ring may keep its files when the process is gone that had it: the kernel takes rings down later.
const TAKEN_DOWN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Tries to have what a server that has just ended may have still. `false`: somebody has it.
pub(crate) fn let_go_of<E>(mut had: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let until = Instant::now() + TAKEN_DOWN;
    loop {
        if had()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Its size in bytes, as far as the kernel knows it: whose file system asks somebody else is not asked.
pub fn known_size(file: BorrowedFd<'_>, block_device: bool) -> Result<u64, Errno> {
    if block_device {
        return size(file, true);
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(file, "", flags, StatxFlags::SIZE).map(|found| found.stx_size)
}

/// Its size in bytes, now. Of a device that hangs, too: `lseek` would wait for the lock that a discard or write-zeroes under way has. A file's may
/// be somebody else's to say, who takes what time he likes.
pub fn size(file: BorrowedFd<'_>, block_device: bool) -> Result<u64, Errno> {
    if block_device {
        let mut answer = 0_u64;
        // SAFETY: the request takes a pointer to 64 bits.
        let asked = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64.into(), &raw mut answer) };
        let failed = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
        return if asked == 0 { Ok(answer) } else { Err(failed()) };
    }
    fstat(file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
}

fn is_read_only(file: BorrowedFd<'_>) -> bool {
    let mut answer: libc::c_int = 0;
    // SAFETY: the request takes a pointer to an int.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), BLKROGET, &raw mut answer) };
    asked == 0 && answer != 0
}

/// A limit of a device's queue, in bytes; 0: none is said.
fn queue_limit(stat: &Stat, name: &str) -> u64 {
    let folder = sysfs(stat);
    // A partition's queue is its disk's.
    let mut queues = [format!("{folder}/queue"), format!("{folder}/../queue")].into_iter();
    let limit =
        queues.find_map(|queue| fs::read_to_string(format!("{queue}/{name}")).ok()?.trim().parse().ok());
    limit.unwrap_or(0)
}

/// How long storage may take to give the first bytes. They are only looked at for a warning.
const FIRST: Duration = Duration::from_millis(100);

/// The first bytes, unless they take long: what a server before began may hold the storage up.
fn read_first(file: BorrowedFd<'_>, first: &mut [u8]) -> Option<usize> {
    let until = Instant::now() + FIRST;
    let _ = fadvise(file, 0, NonZeroU64::new(4096), Advice::WillNeed);
    loop {
        match preadv2(file, &mut [IoSliceMut::new(first)], 0, ReadWriteFlags::NOWAIT) {
            Ok(count) => return Some(count),
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return pread(file, first, 0).ok(),
            Err(_) => return None,
        }
    }
}

/// Formats by what their headers begin with, or have at that place.
const FORMATS: [(usize, &[u8], &str); 12] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    // Before it is text, which each program words as it likes.
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"Bochs Virtual HD Image\0", "Bochs"),
];

/// What the first bytes say.
fn format(file: BorrowedFd<'_>) -> Option<&'static str> {
    let mut first = [0; 0x44];
    let count = read_first(file, &mut first)?;
    let first = first.get(..count)?;
    let is = |at: usize, magic: &[u8]| first.get(at..).is_some_and(|rest| rest.starts_with(magic));
    FORMATS.iter().find(|(at, magic, _)| is(*at, magic)).map(|(.., name)| *name)
}

/// The same file once more, to be read and written directly, where that can be with blocks of this size.
pub fn direct(
    file: BorrowedFd<'_>,
    facts: &Facts,
    read_only: bool,
    block_size: u32,
) -> Option<(OwnedFd, Alignment)> {
    let alignment = alignment(file).unwrap_or(Alignment {
        memory: facts.block_size as usize,
        offset: if facts.block_device { facts.block_size as usize } else { 4096 },
    });
    if alignment.offset == 0 || alignment.memory == 0 || alignment.offset > block_size as usize {
        return None;
    }
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::DIRECT;
    let direct = rustix::fs::open(proc_path(file), flags, Mode::empty()).ok()?;
    Some((direct, alignment))
}

/// The same file once more, to be read and written through the page cache, at places that are asked for: where the flags of this descriptor
/// do not let that be. They are its giver's as well, so they stay.
pub fn placed(file: BorrowedFd<'_>, read_only: bool) -> Result<Option<OwnedFd>, FactsError> {
    let flags = fcntl_getfl(file).map_err(|errno| FactsError::System("F_GETFL", errno))?;
    let flag = match flags {
        // What is written goes to the end, wherever it was meant to go.
        flags if flags.contains(OFlags::APPEND) && !read_only => "O_APPEND",
        flags if flags.contains(OFlags::DIRECT) => "O_DIRECT",
        _ => return Ok(None),
    };
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let again = rustix::fs::open(proc_path(file), access | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty());
    again.map(Some).map_err(|errno| FactsError::Flags(flag, errno))
}

/// What the kernel says (since 6.1). `None`: it does not; zeroes: not at all.
fn alignment(file: BorrowedFd<'_>) -> Option<Alignment> {
    // SAFETY: all zeroes is a valid statx.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path is an empty string, and there is room for the answer.
    let asked = unsafe {
        libc::statx(file.as_fd().as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, DIOALIGN, &raw mut answer)
    };
    (asked == 0 && answer.stx_mask & DIOALIGN != 0).then_some(Alignment {
        memory: answer.stx_dio_mem_align as usize,
        offset: answer.stx_dio_offset_align as usize,
    })
}
