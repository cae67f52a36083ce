//! What a namespace's blocks are kept in.

use alloc::sync::Arc;
use core::fmt;

use nvme_platform::Window;

use crate::storage::{Begun, Failure, Job, Request, Storage};

/// A medium did not do what it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediumFailed;

impl fmt::Display for MediumFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the medium failed")
    }
}

impl core::error::Error for MediumFailed {}

/// A whole image, as a window that is read and written directly. Offsets and lengths are in bytes, multiples of the
/// namespace's block size, and inside the window. Several workers may call at the same time.
///
/// An image that fails ([`Owner::fail`](nvme_platform::Owner::fail)) makes reads and writes fail.
pub trait Medium: Send + Sync {
    /// The image. Always the same window.
    fn window(&self) -> &Window;
    /// Called after bytes of the window were written, before the command completes.
    fn wrote(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Makes durable what was written to this range before.
    fn flush(&self, offset: u64, len: u64) -> Result<(), MediumFailed>;
    /// Says that the contents of this range do not matter any more.
    fn discard(&self, offset: u64, len: u64) -> Result<(), MediumFailed>;
    /// Makes this range read as zeroes.
    fn zero(&self, offset: u64, len: u64) -> Result<(), MediumFailed>;
}

impl<M: Medium + ?Sized> Medium for Arc<M> {
    fn window(&self) -> &Window {
        (**self).window()
    }
    fn wrote(&self, offset: u64, len: u64) {
        (**self).wrote(offset, len);
    }
    fn flush(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        (**self).flush(offset, len)
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        (**self).discard(offset, len)
    }
    fn zero(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        (**self).zero(offset, len)
    }
}

/// A medium that is a piece of memory. Nothing is ever durable; a discard reads back as zeroes.
pub struct MemoryMedium {
    window: Window,
}

impl MemoryMedium {
    /// `len` zeroed bytes from the heap. `None` when there is no memory.
    pub fn new(len: usize) -> Option<Self> {
        Some(Self { window: nvme_mem::heap(len)? })
    }

    /// Over memory that the home made.
    pub fn over(window: Window) -> Self {
        Self { window }
    }
}

impl Medium for MemoryMedium {
    fn window(&self) -> &Window {
        &self.window
    }

    fn flush(&self, _offset: u64, _len: u64) -> Result<(), MediumFailed> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        self.zero(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        zero_window(&self.window, offset, len)
    }
}

/// A medium as storage that copies: where commands are begun outside of a queue's gate.
pub(crate) struct Copied(pub(crate) Arc<dyn Medium>);

impl Storage for Copied {
    fn size(&self) -> u64 {
        self.0.window().len() as u64
    }

    fn begin(&self, request: Request) -> Begun {
        let Self(medium) = self;
        let window = medium.window();
        let copied = |done: bool| if done { Ok(()) } else { Err(Failure::Memory) };
        let stored = |done: Result<(), MediumFailed>| done.map_err(|MediumFailed| Failure::Io);
        let result = match request.job() {
            Job::Read { offset, .. } => copied(request.scatter(window, offset as usize)),
            Job::Write { offset, len } => {
                let gathered = request.gather(window, offset as usize);
                medium.wrote(offset, len);
                copied(gathered)
            }
            Job::Flush => stored(medium.flush(0, window.len() as u64)),
            Job::Discard { offset, len } => stored(medium.discard(offset, len)),
            Job::Zero { offset, len, .. } => stored(medium.zero(offset, len)),
        };
        // After the copy: it is then that a page turns out to be gone.
        Begun::Ended(request, if window.failed() { Err(Failure::Io) } else { result })
    }

    fn copies_in_begin(&self) -> bool {
        true
    }
}

/// Fills a range of a window with zeroes.
pub(crate) fn zero_window(window: &Window, offset: u64, len: u64) -> Result<(), MediumFailed> {
    let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else {
        return Err(MediumFailed);
    };
    window.fill(offset, len, 0).map_err(|_| MediumFailed)
}
