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
use core::sync::atomic::{AtomicBool, Ordering};

use nvme_platform::Window;
use spin::Mutex;

use crate::wire::Sqe;
use crate::world::View;

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
    /// As much is under way as may be: to be begun again later.
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
    /// Whether bytes that were given back read as zeroes for certain (Identify Namespace, DLFEAT).
    fn unmaps_to_zeroes(&self) -> bool {
        false
    }
}

/// A piece of memory: the mapping's place in the view, and where in it.
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
    /// To read, after a flush.
    Read,
    /// The ranges from this one on.
    Ranges(usize),
    /// To flush the namespaces from this index on.
    Namespaces(usize),
}

/// What a command needs while it is under way. Used again for the next one.
pub(crate) struct Inner {
    pub(crate) job: Option<Job>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) view: Option<Arc<View>>,
    pub(crate) storage: Option<Arc<dyn Storage>>,
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
            view: None,
            storage: None,
            sqe: Sqe::default(),
            left: Left::Nothing,
            ranges: Vec::new(),
            result: Ok(()),
            inbox: Arc::clone(inbox),
        })
    }

    /// From here on nobody takes the mappings of its pieces away.
    pub(crate) fn hold(&mut self, view: &Arc<View>) {
        for piece in &self.pieces {
            if let Some(uses) = view.uses.get(piece.mapping as usize) {
                uses.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.view = Some(Arc::clone(view));
    }

    /// Nothing touches its memory any more.
    pub(crate) fn release(&mut self) {
        if let Some(view) = &self.view {
            for piece in self.pieces.drain(..) {
                if let Some(uses) = view.uses.get(piece.mapping as usize) {
                    // Release: whoever sees it unused also sees what was written there.
                    uses.fetch_sub(1, Ordering::Release);
                }
            }
        }
        self.pieces.clear();
    }

    /// As [`release`](Self::release), and for good.
    pub(crate) fn clear(&mut self) {
        self.release();
        self.view = None;
        self.storage = None;
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

    /// What is to be done.
    pub fn job(&self) -> Job {
        self.0.as_ref().and_then(|i| i.job).unwrap_or(Job::Flush)
    }

    /// The command's identifier, for messages.
    pub fn command(&self) -> u16 {
        self.0.as_ref().map_or(0, |i| i.sqe.cid.get())
    }

    /// Its memory, in order: window, offset and length of each piece.
    pub fn memory(&self) -> impl Iterator<Item = (&Window, usize, usize)> {
        self.0.iter().flat_map(|inner| {
            let view = inner.view.as_ref();
            inner.pieces.iter().filter_map(move |piece| {
                let mapping = view?.mappings.get(piece.mapping as usize)?;
                Some((&mapping.window, piece.offset, piece.len))
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
            if inner.left != Left::Read {
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
