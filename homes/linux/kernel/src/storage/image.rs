//! An image that is served: a file or a block device.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nvme_mem::Window;
use nvme_soft::{Failure, Job};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::durable::{Durable, Flush, Joined};
use super::engine::Engine;
use super::facts;
use super::facts::{Alignment, BLKGETSIZE64, Facts, FactsError};
use super::question::Question;
use super::room::Room;
use crate::events::{Doorbell, now};
use crate::logger::{OPERATOR, RateLimit};

/// How an image is to be served.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// How messages call it.
    pub name: String,
    /// Its serial number: what `nvme-ctl resume` takes.
    pub serial: String,
    /// Block size; `None`: what the device has, or 512.
    pub block_size: Option<u32>,
    /// Nothing is written.
    pub read_only: bool,
    /// Who makes the calls.
    pub engine: Engine,
    /// Space for all of it is taken now.
    pub preallocate: bool,
    /// Client memory is pinned.
    pub pin: bool,
}

/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What it is.
    #[error("{0}")]
    Facts(#[from] FactsError),
    /// `lba=` is smaller than the device's own blocks.
    #[error("lba={asked} is less than the device's block size, {device}")]
    BlockSize {
        /// What was asked for.
        asked: u32,
        /// What the device has.
        device: u32,
    },
    /// It has blocks that no namespace here can have.
    #[error(
        "the device's block size is {0}, and sessions have 512 or 4096: give lba=4096, if that is a multiple of it"
    )]
    OddBlocks(u32),
    /// It holds no whole block.
    #[error("the image holds no whole block of {0} bytes")]
    Empty(u32),
    /// It cannot be mapped.
    #[error("engine=window: {0}")]
    Window(String),
    /// io_uring was asked for.
    #[error("engine=uring: {0}")]
    NoRing(String),
    /// Only rings pin memory.
    #[error("pin: it is of use with engine=uring alone")]
    PinWithout,
    /// There is no space for all of it.
    #[error("preallocate: {0}")]
    Preallocate(Errno),
    /// A thread cannot be started, or memory cannot be had.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Memory to copy to what alignment forbids to read and write in place: pieces of the longest transfer.
const BOUNCES: usize = 16;
const BOUNCE: usize = 1 << 20;
/// BLKDISCARD of linux/fs.h.
pub(super) const BLKDISCARD: u32 = 0x1277;
/// Longest piece of zeroes written at once.
const ZEROES: usize = 1 << 20;
/// Lines about failures in one second.
const LINES: u32 = 4;

/// A file or a block device that is served.
pub struct Image {
    options: ImageOptions,
    facts: Facts,
    /// The file as it is read and written.
    file: OwnedFd,
    /// The file as it was given, where that is another descriptor: the lock is on it, and the claim.
    held: Option<OwnedFd>,
    /// It is read and written directly.
    is_direct: bool,
    index: usize,
    /// Which of a thread's rings is for it.
    ring: AtomicUsize,
    block_size: u32,
    alignment: Alignment,
    size: AtomicU64,
    question: Question,
    /// How long it may become until it is opened anew, where it is mapped.
    reach: OnceLock<u64>,
    /// Who reaches it: never [`Engine::Auto`].
    engine: Engine,
    durable: Durable,
    bounces: Mutex<Vec<Window>>,
    room: Room,
    zeroes: Window,
    lines: Mutex<RateLimit>,
    /// The device went for good: nothing of it is left.
    gone: AtomicBool,
    /// Rung when that is news.
    bell: OnceLock<Arc<Doorbell>>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens an image that was opened with at least these rights. `index`: the how manieth it is of those that rings know.
    /// `rings`: whether there can be rings, or why not.
    pub(super) fn open(
        file: OwnedFd,
        options: ImageOptions,
        index: usize,
        rings: &Result<(), String>,
    ) -> Result<Self, OpenError> {
        let facts = Facts::of(file.as_fd(), options.read_only)?;
        let block_size = block_size(&facts, options.block_size)?;
        let size = facts.size / u64::from(block_size) * u64::from(block_size);
        if size == 0 {
            return Err(OpenError::Empty(block_size));
        }
        if options.preallocate && !options.read_only && !facts.block_device {
            fallocate(&file, FallocateFlags::KEEP_SIZE, 0, facts.size).map_err(OpenError::Preallocate)?;
        }
        warn_of(&options, &facts, block_size);
        let engine = match options.engine {
            Engine::Auto if options.pin => Engine::Uring,
            Engine::Auto if facts.memory && facts.maps() => Engine::Window,
            Engine::Auto if rings.is_ok() => Engine::Uring,
            Engine::Auto => {
                if let Err(why) = rings {
                    log::warn!(target: OPERATOR, "{}: no io_uring ({why}); served by threads", options.name);
                }
                Engine::Threads
            }
            engine => engine,
        };
        if options.pin && engine != Engine::Uring {
            return Err(OpenError::PinWithout);
        }
        match engine {
            Engine::Window if facts.block_device => {
                return Err(OpenError::Window("a block device is not mapped".into()));
            }
            Engine::Uring => rings.clone().map_err(OpenError::NoRing)?,
            Engine::Window | Engine::Auto | Engine::Threads => {}
        }
        let direct = match engine {
            Engine::Window => None,
            _ => facts::direct(file.as_fd(), &facts, options.read_only, block_size),
        };
        let is_direct = direct.is_some();
        let anyhow = Alignment { memory: 1, offset: 1 };
        let (again, alignment) = match direct {
            Some((direct, alignment)) => (Some(direct), alignment),
            None if engine == Engine::Window => (None, anyhow),
            None => (facts::placed(file.as_fd(), options.read_only)?, anyhow),
        };
        let (file, held) = match again {
            Some(again) => (again, Some(file)),
            None => (file, None),
        };
        let no_memory = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let aside = engine != Engine::Window;
        let bounces = (0..if aside { BOUNCES } else { 0 }).map(|_| nvme_mem::heap(BOUNCE));
        let bounces = bounces.collect::<Option<Vec<_>>>().ok_or_else(no_memory)?;
        Ok(Self {
            options,
            facts,
            file,
            held,
            is_direct,
            index,
            ring: AtomicUsize::new(0),
            block_size,
            alignment,
            size: AtomicU64::new(size),
            question: Question::default(),
            reach: OnceLock::new(),
            engine,
            durable: Durable::default(),
            bounces: Mutex::new(bounces),
            room: Room::default(),
            zeroes: nvme_mem::heap(ZEROES).ok_or_else(no_memory)?,
            lines: Mutex::new(RateLimit::new(LINES)),
            gone: AtomicBool::new(false),
            bell: OnceLock::new(),
        })
    }

    /// Who reaches it.
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// How it is served, for the operator.
    pub(super) fn say(&self) {
        let (name, size, engine) = (&self.options.name, self.size(), self.engine.word());
        let direct = if self.is_direct { ", direct" } else { "" };
        let pin = if self.options.pin { ", client memory is pinned" } else { "" };
        log::info!(target: OPERATOR, "{name}: {size} bytes, engine={engine}{direct}{pin}");
    }

    /// Bytes, as far as is known.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether nothing can be written.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its serial number.
    pub fn serial(&self) -> &str {
        &self.options.serial
    }

    /// Whether the kernel knows how large it is.
    pub fn is_local(&self) -> bool {
        self.facts.local
    }

    /// Whether somebody has to be asked how large it is who may not answer.
    pub fn asks(&self) -> bool {
        self.facts.asks
    }

    /// Whether more of it may be mapped than there is. Of huge pages there must be as many as are mapped.
    pub(super) fn may_grow(&self) -> bool {
        !self.facts.huge
    }

    /// It is mapped, and so far.
    pub(super) fn reaches(&self, len: u64) {
        let _ = self.reach.set(len);
    }

    /// How many bytes a discard gives back together; 0: not known.
    pub(super) fn discard_granularity(&self) -> u64 {
        self.facts.discard_granularity
    }

    /// Whether a discard means anything to it.
    pub fn discards(&self) -> bool {
        self.facts.discards
    }

    /// What else is asked of its device: by a helper, and how large it is.
    pub fn ioctls(&self) -> &'static [u32] {
        if self.facts.block_device { &[BLKDISCARD, BLKGETSIZE64] } else { &[] }
    }

    /// Whether rings must know it.
    pub fn has_ring(&self) -> bool {
        self.engine == Engine::Uring
    }

    /// What holds its lock, where that is not [`file`](Self::file).
    pub(super) fn held(&self) -> Option<&OwnedFd> {
        self.held.as_ref()
    }

    /// Whether what is read and written goes through the page cache.
    pub(super) fn copies(&self) -> bool {
        !self.is_direct
    }

    /// Whether client memory is pinned for it.
    pub fn pins(&self) -> bool {
        self.options.pin
    }

    /// Whether it is memory: as durable as it will ever be.
    pub fn in_memory(&self) -> bool {
        self.facts.memory
    }

    /// The error of a write-back that failed, if one did.
    pub fn lost(&self) -> Option<Errno> {
        self.durable.lost()
    }

    /// A write-back had failed in another server, before this one took over.
    pub fn take_loss(&self, errno: i32) {
        self.durable.lose(Errno::from_raw_os_error(errno));
    }

    /// An error of a write-back is kept there from now on, for the next server: 16 bits, which are 0 while there is none.
    pub fn keep_loss(&self, window: Window) {
        self.durable.keep_in(window);
    }

    /// Lets flushes succeed again after a failed write-back. False: none had failed.
    pub fn resume(&self) -> bool {
        let lost = self.durable.resume();
        if let Some(why) = lost {
            log::warn!(
                target: OPERATOR,
                "{}: resumed after a failed write-back ({why}); what was acknowledged before may be lost",
                self.options.name
            );
        }
        lost.is_some()
    }

    /// Says once more that a write-back failed, if nobody has resumed it: the next server does not know.
    pub fn say_loss(&self) {
        if let Some(why) = self.lost() {
            log::warn!(
                target: OPERATOR,
                "{}: goes out of use after a failed write-back ({why}); what was acknowledged before may be lost",
                self.options.name
            );
        }
    }

    /// Says that a write-back had failed in a server before this one, as long as nobody has resumed it: who reads this one's lines does not know.
    pub fn say_taken_loss(&self) {
        if let Some(why) = self.lost() {
            log::error!(
                target: OPERATOR,
                "{}: a write-back had failed in the server before ({why}). What was acknowledged before may be lost; flushes and forced \
                 writes fail until `nvme-ctl resume {}`",
                self.options.name,
                self.options.serial
            );
        }
    }

    /// Looks how large it is by now, as far as the kernel knows: waits for nobody. Growth counts; a smaller size is said, and refuses what
    /// lies beyond.
    pub fn rescan(&self) -> u64 {
        self.found(facts::known_size(self.file.as_fd(), self.facts.block_device))
    }

    /// Asking its storage how large it is.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Asks, and takes what time that takes.
    pub(super) fn ask(&self) {
        self.question.ask(|| {
            self.found(facts::size(self.file.as_fd(), self.facts.block_device));
        });
    }

    /// It is as large as that.
    fn found(&self, found: Result<u64, Errno>) -> u64 {
        let Ok(found) = found else { return self.size() };
        let reach = self.reach.get().copied().unwrap_or(u64::MAX);
        let size = found.min(reach) / u64::from(self.block_size) * u64::from(self.block_size);
        // Two may look at a time: each says what it changed.
        let before = self.size.swap(size, Ordering::Relaxed);
        if found > reach && size != before {
            log::warn!(
                target: OPERATOR,
                "{}: no more than {size} bytes are served until the next start, since no more are mapped",
                self.options.name
            );
        }
        if size != before {
            let how = if size > before { "grew" } else { "shrank" };
            log::warn!(target: OPERATOR, "{}: {how} from {before} to {size} bytes", self.options.name);
        }
        if size == 0 && self.facts.block_device {
            self.lose();
        }
        size
    }

    /// Whom to ring for when the device goes for good.
    pub fn tell_of_loss(&self, bell: &Arc<Doorbell>) {
        let _ = self.bell.set(Arc::clone(bell));
    }

    /// Whether it is a device that went for good: a drive that was pulled out, a target that does not come back.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn lose(&self) {
        self.size.store(0, Ordering::Relaxed);
        if self.gone.swap(true, Ordering::Relaxed) {
            return;
        }
        log::error!("{}: the device is gone; its sessions are lost", self.options.name);
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// After an error: a device that is no more has no size. One that only fails has.
    fn look_whether_gone(&self) {
        if self.facts.block_device && facts::size(self.file.as_fd(), true).is_ok_and(|size| size == 0) {
            self.lose();
        }
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn is_device(&self) -> bool {
        self.facts.block_device
    }

    /// The descriptor that has the claim, and the lock.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.held.as_ref().unwrap_or(&self.file).as_fd()
    }

    /// Which of a thread's rings is for it.
    pub(super) fn ring(&self) -> usize {
        self.ring.load(Ordering::Relaxed)
    }

    /// Each image has rings of its own.
    pub(super) fn has_own_rings(&self) {
        self.ring.store(self.index, Ordering::Relaxed);
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn alignment(&self) -> Alignment {
        self.alignment
    }

    pub(super) fn zeroes(&self) -> &Window {
        &self.zeroes
    }

    pub(super) fn take_bounce(&self) -> Option<Window> {
        self.bounces.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn put_bounce(&self, bounce: Window) {
        self.bounces.lock().unwrap_or_else(PoisonError::into_inner).push(bounce);
    }

    /// Who waits for something of it to end.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn join(&self, flush: Flush) -> Joined {
        self.durable.join(flush)
    }

    /// A sync ended. True: it is to be made once more.
    pub(super) fn synced(&self, result: Result<(), Errno>) -> bool {
        let (again, news) = self.durable.done(result);
        if news {
            self.look_whether_gone();
        }
        if let (true, Err(why)) = (news, result) {
            log::error!(
                "{}: write-back failed{}: {why}. What was acknowledged before may be lost; flushes and forced writes fail until \
                 `nvme-ctl resume {}`",
                self.options.name,
                if matches!(why, Errno::NOSPC | Errno::DQUOT) { ", no space" } else { "" },
                self.options.serial
            );
        }
        again
    }

    /// One request failed.
    pub(super) fn report(&self, job: Job, failure: Failure, why: Option<Errno>) {
        let (allowed, missed) = self.lines.lock().unwrap_or_else(PoisonError::into_inner).allow(now());
        if !allowed {
            return;
        }
        if matches!(failure, Failure::Io | Failure::Gone) {
            self.look_whether_gone();
        }
        let (what, offset, len) = match job {
            Job::Read { offset, len } => ("read", offset, len),
            Job::Write { offset, len } => ("write", offset, len),
            Job::Discard { offset, len } => ("discard", offset, len),
            Job::Zero { offset, len, .. } => ("write-zeroes", offset, len),
            Job::Flush => ("flush", 0, 0),
        };
        let error = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let more = if missed > 0 { format!(" ({missed} more before)") } else { String::new() };
        log::error!(
            "{}: {}:n1: a {what} of {len} bytes at offset {offset} failed: {failure}{error}{more}",
            self.options.name,
            self.options.serial
        );
    }
}

/// Of blocks of 512 or 4096 bytes, each of which is some of the device's own.
fn block_size(facts: &Facts, asked: Option<u32>) -> Result<u32, OpenError> {
    let device = facts.block_size;
    match asked {
        Some(asked) if asked < device => Err(OpenError::BlockSize { asked, device }),
        Some(asked) if asked % device == 0 => Ok(asked),
        None if matches!(device, 512 | 4096) => Ok(device),
        _ => Err(OpenError::OddBlocks(device)),
    }
}

/// What an operator should know before it is served.
fn warn_of(options: &ImageOptions, facts: &Facts, block_size: u32) {
    let name = &options.name;
    let tail = facts.size % u64::from(block_size);
    if tail > 0 {
        log::warn!(target: OPERATOR, "{name}: the last {tail} bytes are no whole block, and are not served");
    }
    if let Some(format) = facts.format {
        log::warn!(target: OPERATOR, "{name}: this looks like a {format} image; it is served as it is, raw");
    }
    if let Some(who) = &facts.writer {
        let too = if options.read_only { "; what is read may change at any time" } else { ", too" };
        log::warn!(target: OPERATOR, "{name}: {who} has it open for writing{too}");
    }
    if options.preallocate && (options.read_only || facts.block_device) {
        let what = if facts.block_device { "a block device" } else { "a read-only image" };
        log::warn!(target: OPERATOR, "{name}: preallocate does nothing for {what}");
    }
    if options.engine == Engine::Window && !facts.memory {
        log::warn!(
            target: OPERATOR,
            "{name}: engine=window on a file that is not in memory: a page that its storage does not bring holds up all sessions of the worker"
        );
    }
    if options.read_only {
        return;
    }
    if let Some((missing, free)) = facts.overcommitted()
        && !options.preallocate
    {
        log::warn!(
            target: OPERATOR,
            "{name}: it is sparse, and {missing} bytes of it have no space yet; its file system has {free} left"
        );
    }
}
