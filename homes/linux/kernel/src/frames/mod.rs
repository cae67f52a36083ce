//! defmt's frames: the core's trace points, formatted by somebody else, later.
//!
//! A thread that calls [`register`] gets a ring of its own. A trace point on it encodes a frame of a few
//! bytes into the ring: no lock, no system call, no formatting. What does not fit is dropped whole and counted. On a
//! thread without a ring, trace points do nothing.
//!
//! The control role calls [`Tap::drain`] now and then, which moves what the rings hold to a descriptor that was opened before
//! the sandbox. The stream is a sequence of records: thread (`u16`, from 0 in the order of registration), length
//! (`u16`), both little-endian, and so many bytes of rzCOBS-encoded frames of this thread. The program `nvme-decode`
//! turns it into text with the strings of the server's ELF file.
//!
//! The program is to be linked with `frames.x` (in this package's folder): the strings live in a section that only
//! a linker script can make. `DEFMT_LOG=trace` while it is compiled chooses the levels; without it, only errors are
//! compiled in.
#![expect(unsafe_code, reason = "is the global logger of defmt")]

mod ring;
mod sync;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nvme_platform::frame::{Ended, Frame};
use ring::Ring;

/// Bytes of frames that a thread holds until they are drained.
const CAPACITY: usize = 256 * 1024;

/// Every thread's ring, in the order of registration.
static RINGS: Mutex<Vec<Arc<Ring>>> = Mutex::new(Vec::new());

thread_local! {
    static THREAD: RefCell<Option<Thread>> = const { RefCell::new(None) };
}

/// What a thread has: the frame that it is making, and where frames go.
struct Thread {
    ring: Arc<Ring>,
    frame: Frame,
}

impl Thread {
    fn end(&mut self) {
        match self.frame.end() {
            Ended::Whole(frame) => self.ring.push(frame),
            Ended::TooLong => self.ring.lose(),
            Ended::Inner => {}
        }
    }
}

/// Gives the calling thread a ring, once. Allocates it.
pub fn register() {
    THREAD.with_borrow_mut(|thread| {
        if thread.is_some() {
            return;
        }
        let ring = Arc::new(Ring::new(CAPACITY));
        RINGS.lock().unwrap_or_else(PoisonError::into_inner).push(ring.clone());
        *thread = Some(Thread { ring, frame: Frame::new() });
    });
}

/// Where the frames go.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// A file, pipe or socket, opened before the sandbox is entered. Draining waits for whoever reads it, so it is
    /// for a file, or a reader that the operator trusts to read.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Moves everything that the rings hold now. Returns how many frames were dropped since the last time.
    pub fn drain(&self) -> std::io::Result<u64> {
        let rings: Vec<Arc<Ring>> = RINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lost = 0u64;
        for (thread, ring) in (0u16..).zip(&rings) {
            lost = lost.saturating_add(ring.take_lost());
            let mut held = ring.held();
            let mut record = [0; 4 + 4096];
            while held > 0 {
                let Some((head, body)) = record.split_at_mut_checked(4) else { break };
                let length = ring.pop(body);
                held = held.saturating_sub(length);
                let bytes = u16::try_from(length).unwrap_or(0);
                head.copy_from_slice(&[thread.to_le_bytes(), bytes.to_le_bytes()].concat());
                self.write_all(record.get(..4 + length).unwrap_or_default())?;
            }
        }
        Ok(lost)
    }

    fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let written = rustix::io::write(&self.0, bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What defmt's macros call. All of it stays on the calling thread.
#[defmt::global_logger]
struct Frames;

/// Does something with the calling thread's frame, if it has a ring and is not ending.
fn with_thread(act: impl FnOnce(&mut Thread)) {
    let _ = THREAD.try_with(|thread| {
        if let Ok(mut thread) = thread.try_borrow_mut()
            && let Some(thread) = thread.as_mut()
        {
            act(thread);
        }
    });
}

// SAFETY: defmt asks that frames are not mixed up and that nothing panics. Each thread has an encoder and a buffer of
// its own, and no signal handler of ours logs.
unsafe impl defmt::Logger for Frames {
    fn acquire() {
        with_thread(|thread| thread.frame.begin());
    }

    unsafe fn flush() {}

    unsafe fn release() {
        with_thread(Thread::end);
    }

    unsafe fn write(bytes: &[u8]) {
        with_thread(|thread| thread.frame.write(bytes));
    }
}
