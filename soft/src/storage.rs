//! Storage that takes its time: what a namespace's blocks are kept in when they are not a window.
//!
//! The controller turns a command into one [`Request`] after the other, and hands each to its [`Storage`]. A request is a
//! linear value: it is ended exactly once, with [`Request::end`], on any thread and at any time; one that is dropped has
//! failed. While there is one, the memory it points to stays mapped, its queue is not deleted, the controller is not
//! disabled, and the mapping that it reaches cannot be taken away: all of these wait, or say that they cannot be done.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nvme_platform::Window;
use spin::Mutex;

use crate::map::{Map, Reached};
use crate::wire::Sqe;

/// What is to be done. Offsets and lengths are in bytes, multiples of the namespace's block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Reads into the request's memory.
    Read {
        /// Where.
        offset: u64,
        /// How much: as much as the request's pieces hold.
        len: u64,
    },
    /// Writes what is in the request's memory.
    Write {
        /// Where.
        offset: u64,
        /// How much: as much as the request's pieces hold.
        len: u64,
    },
    /// Makes everything durable whose request ended before this one began.
    Flush,
    /// Says that the contents do not matter any more.
    Discard {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Makes these bytes read as zeroes.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// Whether the storage behind them may be given back.
        unmap: bool,
    },
}

/// Why a request failed. Nothing else did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no space for it (ENOSPC, EDQUOT, EFBIG).
    NoSpace,
    /// The storage cannot read or write that (EIO).
    Io,
    /// The request's memory vanished (EFAULT).
    Memory,
    /// It cannot be written to.
    ReadOnly,
    /// The storage does not reach that far any more.
    Gone,
    /// An earlier write-back failed: what was acknowledged before may be lost, and nothing counts as durable.
    Lost,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "no space",
            Self::Io => "input/output error",
            Self::Memory => "the client's memory is gone",
            Self::ReadOnly => "read-only",
            Self::Gone => "beyond the end",
            Self::Lost => "an earlier write-back failed",
        })
    }
}

impl core::error::Error for Failure {}

/// What became of a request that was to begin.
#[derive(Debug)]
pub enum Begun {
    /// It is under way; somebody calls [`Request::end`].
    UnderWay,
    /// It ended at once.
    Ended(Request, Result<(), Failure>),
    /// As much is under way as may be: to be begun again when whoever runs the queue is woken, and after a while at the latest. Storage
    /// that can wakes him when there is room.
    Full(Request),
}

/// A file, a block device, or whatever else does not answer at once. Several workers may call at the same time.
pub trait Storage: Send + Sync {
    /// Its size in bytes, as far as it is known without waiting.
    fn size(&self) -> u64;
    /// Begins a request. Never waits.
    fn begin(&self, request: Request) -> Begun;
    /// Whether a request's data is copied in [`begin`](Self::begin), so that a long one takes long there.
    fn copies_in_begin(&self) -> bool {
        false
    }
    /// What it is, if it is memory of this process: then most reads and writes are copies that the controller makes itself, and no
    /// requests. Always the same.
    fn resident(&self) -> Option<Resident> {
        None
    }
    /// How many bytes are given back together (Identify Namespace, NPDG); 0: not known.
    fn discard_granularity(&self) -> u64 {
        0
    }
    /// Whether bytes that were given back read as zeroes for certain (Identify Namespace, DLFEAT).
    fn unmaps_to_zeroes(&self) -> bool {
        false
    }
}

/// Storage that lies in memory, but for pages that cannot be had now and then.
#[derive(Clone)]
pub struct Resident {
    /// Its bytes.
    pub window: Window,
    /// Which pages of them are others in their place.
    pub missing: Arc<Missing>,
}

/// Counts pages that could not be had, and have others in their place for a while.
///
/// Whoever copies asks before and after. If there was any, the copy counts for nothing, and what it was made for becomes a
/// [`Request`].
#[derive(Debug, Default)]
pub struct Missing {
    put: AtomicU64,
    back: AtomicU64,
}

impl Missing {
    /// Counts a page, before another is in its place. How many were counted before.
    pub fn put(&self) -> u64 {
        self.put.fetch_add(1, Ordering::AcqRel)
    }

    /// All pages of which so many were counted are back in their places.
    pub fn put_back(&self, count: u64) {
        // Release: whoever sees it also sees the pages.
        self.back.store(count, Ordering::Release);
    }

    /// How many were counted.
    #[inline]
    pub fn count(&self) -> u64 {
        self.put.load(Ordering::Acquire)
    }

    /// How many are back: to be asked before a copy.
    #[inline]
    pub fn back(&self) -> u64 {
        self.back.load(Ordering::Acquire)
    }

    /// To be asked after a copy, with what [`back`](Self::back) said before it: whether no page was missing meanwhile.
    #[inline]
    pub fn none_since(&self, back: u64) -> bool {
        self.count() == back
    }
}

/// A piece of memory: the mapping's place in the map (once it is held, among what the request reaches), and where in it.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) mapping: u32,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// What is left of a command once the request at hand has ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Left {
    #[default]
    Nothing,
    /// To make durable what it changed.
    Flush,
    /// To read from this offset on, after a flush.
    Read(u64),
    /// The ranges from this one on.
    Ranges(usize),
    /// To flush the other storages.
    Others,
}

/// What a command needs while it is under way. Used again for the next one.
pub(crate) struct Inner {
    pub(crate) job: Option<Job>,
    pub(crate) pieces: Vec<Piece>,
    reached: Vec<Reached>,
    pub(crate) storage: Option<Arc<dyn Storage>>,
    /// Where it goes on when it has ended there.
    pub(crate) others: Vec<Arc<dyn Storage>>,
    pub(crate) sqe: Sqe,
    pub(crate) left: Left,
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) result: Result<(), Failure>,
    inbox: Arc<Inbox>,
}

impl Inner {
    pub(crate) fn new(inbox: &Arc<Inbox>) -> Box<Self> {
        Box::new(Self {
            job: None,
            pieces: Vec::new(),
            reached: Vec::new(),
            storage: None,
            others: Vec::new(),
            sqe: Sqe::default(),
            left: Left::Nothing,
            ranges: Vec::new(),
            result: Ok(()),
            inbox: Arc::clone(inbox),
        })
    }

    /// From here on nobody takes the mappings of its pieces away.
    pub(crate) fn hold(&mut self, map: &Map) {
        let mut last = None;
        for piece in &mut self.pieces {
            if last != Some(piece.mapping) {
                last = Some(piece.mapping);
                self.reached.extend(map.reach(piece.mapping));
            }
            piece.mapping = u32::try_from(self.reached.len()).unwrap_or(0).wrapping_sub(1);
        }
    }

    /// Nothing touches its memory any more.
    pub(crate) fn release(&mut self) {
        self.reached.drain(..).for_each(Reached::release);
        self.pieces.clear();
    }

    /// As [`release`](Self::release), and for good.
    pub(crate) fn clear(&mut self) {
        self.release();
        self.storage = None;
        self.others.clear();
    }
}

/// They move between threads and lists by their address alone.
pub(crate) type Boxes = Vec<Box<Inner>>;

/// One request of the controller to its storage.
pub struct Request(Option<Box<Inner>>);

impl Request {
    pub(crate) fn new(inner: Box<Inner>) -> Self {
        Self(Some(inner))
    }

    pub(crate) fn into_inner(mut self) -> Option<Box<Inner>> {
        self.0.take()
    }

    /// Hands it to its storage.
    pub(crate) fn begin(self) -> Begun {
        let storage = self.0.as_ref().and_then(|inner| inner.storage.clone());
        match storage {
            Some(storage) => storage.begin(self),
            None => Begun::Ended(self, Err(Failure::Io)),
        }
    }

    /// What is to be done.
    pub fn job(&self) -> Job {
        self.0.as_ref().and_then(|i| i.job).unwrap_or(Job::Flush)
    }

    /// The command's identifier, for messages.
    pub fn command(&self) -> u16 {
        self.0.as_ref().map_or(0, |i| i.sqe.cid.get())
    }

    /// The queue that it came by: the same number for all requests of one, as long as any is under way.
    pub fn queue(&self) -> usize {
        self.0.as_ref().map_or(0, |i| Arc::as_ptr(&i.inbox).addr())
    }

    /// Its memory, in order: window, offset and length of each piece.
    pub fn memory(&self) -> impl Iterator<Item = (&Window, usize, usize)> {
        self.0.iter().flat_map(|inner| {
            inner.pieces.iter().filter_map(|piece| {
                let reached = inner.reached.get(piece.mapping as usize)?;
                Some((&reached.window, piece.offset, piece.len))
            })
        })
    }

    /// Copies what is in its memory to `at` in a window. False: the memory vanished, or there is no room.
    pub fn gather(&self, to: &Window, at: usize) -> bool {
        let mut at = at;
        self.memory().all(|(window, offset, len)| {
            let copied = window.copy_to(offset, to, at, len).is_ok() && !window.failed();
            at += len;
            copied
        })
    }

    /// Copies from `at` in a window into its memory. False: the memory vanished, or there is not so much.
    pub fn scatter(&self, from: &Window, at: usize) -> bool {
        let mut at = at;
        self.memory().all(|(window, offset, len)| {
            let copied = from.copy_to(at, window, offset, len).is_ok() && !window.failed();
            at += len;
            copied
        })
    }

    /// Looks at each page of its memory, so that whatever vanished is known to have. The kernel says only that something
    /// did.
    pub fn touch(&self) {
        for (window, offset, len) in self.memory() {
            for at in (offset..offset + len).step_by(nvme_platform::PAGE) {
                let _ = window.read_value::<u8>(at);
            }
        }
    }

    /// It has ended. Nobody touches its memory any more.
    pub fn end(mut self, result: Result<(), Failure>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<(), Failure>) {
        if let Some(mut inner) = self.0.take() {
            inner.result = result;
            if !matches!(inner.left, Left::Read(_)) {
                inner.release();
            }
            let inbox = Arc::clone(&inner.inbox);
            inbox.put(inner);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish(Err(Failure::Io));
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?})", self.job())
    }
}

/// Whoever is told that something came back to a queue that nobody runs any more.
pub(crate) trait Told: Send + Sync {
    /// Something did.
    fn came_back(&self);
}

/// Where requests of one queue come back to.
pub(crate) struct Inbox {
    ended: Mutex<Boxes>,
    /// Whether there is anything. Only a hint: the lock decides.
    any: AtomicBool,
    /// Nobody runs the queue any more: control is to be told.
    orphan: AtomicBool,
    control: Weak<dyn Told>,
}

impl Inbox {
    pub(crate) fn new(control: &Weak<dyn Told>, room: usize) -> Arc<Self> {
        Arc::new(Self {
            ended: Mutex::new(Vec::with_capacity(room)),
            any: AtomicBool::new(false),
            orphan: AtomicBool::new(false),
            control: Weak::clone(control),
        })
    }

    fn put(&self, inner: Box<Inner>) {
        let mut ended = self.ended.lock();
        ended.push(inner);
        self.any.store(true, Ordering::Release);
        drop(ended);
        // After the entry, which control looks for after it has set this: one of the two sees the other.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.orphan.load(Ordering::Relaxed)
            && let Some(control) = self.control.upgrade()
        {
            control.came_back();
        }
    }

    /// Takes what came back, into an empty vector that has room.
    pub(crate) fn take(&self, into: &mut Boxes) {
        if into.is_empty() && self.any.load(Ordering::Acquire) {
            let mut ended = self.ended.lock();
            self.any.store(false, Ordering::Relaxed);
            mem::swap(&mut *ended, into);
        }
    }

    /// From now on control is told.
    pub(crate) fn abandon(&self) {
        self.orphan.store(true, Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}
