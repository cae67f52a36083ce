//! One request as the calls that it takes, and what follows from each answer.
#![expect(unsafe_code, reason = "moves addresses of shared memory between threads")]

use std::ptr;
use std::sync::Arc;

use nvme_mem::Window;
use nvme_soft::{Failure, Job, Request};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::image::Image;

/// The next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// Into or from the first so many of [`Task::pieces`].
    Read {
        offset: u64,
        pieces: u32,
    },
    Write {
        offset: u64,
        pieces: u32,
    },
    /// fdatasync(2).
    Sync,
    /// BLKDISCARD, which no ring has: a helper's.
    Discard {
        offset: u64,
        len: u64,
    },
    /// fallocate(2).
    Allocate {
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    },
}

/// What follows from an answer.
pub(super) enum Next {
    /// The next call.
    Call,
    /// The task has ended.
    Ended(Result<(), Failure>),
}

/// How zeroes are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Zeroing {
    Punch,
    Range,
    ByHand,
}

/// A request under way.
pub(super) struct Task {
    pub(super) image: Arc<Image>,
    /// None: a flush, whose requests are with the image.
    pub(super) request: Option<Request>,
    /// What the next call reads into or writes from. The memory is the request's, or `bounce`, or the image's zeroes.
    pub(super) pieces: Vec<libc::iovec>,
    bounce: Option<Window>,
    /// The only piece lies in this fixed buffer of the ring's.
    pub(super) fixed: Option<u16>,
    /// Bytes that are done.
    done: u64,
    /// Ways to make zeroes that are left, the next one first.
    zeroing: &'static [Zeroing],
    call: Call,
    /// Errors that come and go may do so only so often.
    tries: u32,
}

// SAFETY: the pointers are into windows that the request and the bounce memory keep alive, wherever they go.
unsafe impl Send for Task {}

/// How often a call is made again that says EINTR or EAGAIN.
const TRIES: u32 = 1000;

impl Task {
    /// For a request. `Err`: its memory cannot be used as it is, and there is no memory to copy it to now.
    pub(super) fn new(
        image: &Arc<Image>,
        request: Request,
        pieces: Vec<libc::iovec>,
    ) -> Result<Self, Request> {
        let job = request.job();
        let mut task = Self {
            image: Arc::clone(image),
            request: None,
            pieces,
            bounce: None,
            fixed: None,
            done: 0,
            zeroing: &[],
            call: Call::Sync,
            tries: 0,
        };
        task.pieces.clear();
        match job {
            Job::Read { .. } | Job::Write { .. } => {
                let align = image.alignment();
                let mut direct = true;
                for (window, offset, len) in request.memory() {
                    let address = window.address() + offset;
                    direct &= address.is_multiple_of(align.memory) && len.is_multiple_of(align.offset);
                    let base = ptr::with_exposed_provenance_mut(address);
                    task.pieces.push(libc::iovec { iov_base: base, iov_len: len });
                }
                if !direct && !task.copy_aside(&request, job) {
                    return Err(request);
                }
                task.call = task.transfer(job);
            }
            Job::Flush => {}
            Job::Discard { offset, len } if image.is_device() => task.call = Call::Discard { offset, len },
            Job::Discard { offset, len } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                task.call = Call::Allocate { mode, offset, len };
            }
            Job::Zero { unmap, .. } => {
                use Zeroing::{ByHand, Punch, Range};
                let ways: &[Zeroing] = if unmap { &[Punch, Range, ByHand] } else { &[Range, Punch, ByHand] };
                task.zeroing = ways;
                task.call = task.zeroes(job);
            }
        }
        task.request = Some(request);
        Ok(task)
    }

    /// For the flushes of an image.
    pub(super) fn sync(image: &Arc<Image>) -> Self {
        Self {
            image: Arc::clone(image),
            request: None,
            pieces: Vec::new(),
            bounce: None,
            fixed: None,
            done: 0,
            zeroing: &[],
            call: Call::Sync,
            tries: 0,
        }
    }

    /// The call to make.
    pub(super) fn call(&self) -> Call {
        self.call
    }

    fn job(&self) -> Job {
        self.request.as_ref().map_or(Job::Flush, Request::job)
    }

    /// From here on the calls use memory of our own.
    fn copy_aside(&mut self, request: &Request, job: Job) -> bool {
        let Some(bounce) = self.image.take_bounce() else { return false };
        let (Job::Read { len, .. } | Job::Write { len, .. }) = job else { return false };
        if matches!(job, Job::Write { .. }) {
            // What vanished reads as zeroes; the end says that it vanished.
            request.gather(&bounce, 0);
        }
        self.pieces.clear();
        let base = ptr::with_exposed_provenance_mut(bounce.address());
        self.pieces.push(libc::iovec { iov_base: base, iov_len: len as usize });
        self.bounce = Some(bounce);
        self.fixed = None;
        true
    }

    fn transfer(&self, job: Job) -> Call {
        let pieces = self.pieces.len() as u32;
        match job {
            Job::Read { offset, .. } => Call::Read { offset: offset + self.done, pieces },
            Job::Write { offset, .. } | Job::Zero { offset, .. } => {
                Call::Write { offset: offset + self.done, pieces }
            }
            Job::Flush | Job::Discard { .. } => Call::Sync,
        }
    }

    /// The next way to make zeroes.
    fn zeroes(&mut self, job: Job) -> Call {
        let Job::Zero { offset, len, .. } = job else { return Call::Sync };
        let mode = match self.zeroing.first() {
            Some(Zeroing::Punch) => FallocateFlags::PUNCH_HOLE,
            Some(Zeroing::Range) => FallocateFlags::ZERO_RANGE,
            Some(Zeroing::ByHand) | None => {
                let zeroes = self.image.zeroes();
                let part = (len - self.done).min(zeroes.len() as u64) as usize;
                self.pieces.clear();
                let base = ptr::with_exposed_provenance_mut(zeroes.address());
                self.pieces.push(libc::iovec { iov_base: base, iov_len: part });
                return self.transfer(job);
            }
        };
        Call::Allocate { mode: mode | FallocateFlags::KEEP_SIZE, offset, len }
    }

    /// Takes the answer to a call: a count, or an error's number less than zero.
    pub(super) fn answer(&mut self, result: i32) -> Next {
        let job = self.job();
        match usize::try_from(result) {
            Ok(count) => self.went(job, count),
            Err(_) => self.failed(job, Errno::from_raw_os_error(-result)),
        }
    }

    fn went(&mut self, job: Job, count: usize) -> Next {
        match (self.call, job) {
            (Call::Sync | Call::Discard { .. } | Call::Allocate { .. }, _) => return Next::Ended(Ok(())),
            (_, Job::Read { .. }) if count == 0 => return self.fails(job, Failure::Gone, None),
            (_, _) if count == 0 => return self.fails(job, Failure::Io, None),
            _ => {}
        }
        let whole = match job {
            Job::Read { len, .. } | Job::Write { len, .. } | Job::Zero { len, .. } => len,
            Job::Flush | Job::Discard { .. } => 0,
        };
        // What is not a whole block was not done: the next call goes on at one.
        let count = if self.done + count as u64 == whole {
            count
        } else {
            count - count % self.image.alignment().offset
        };
        if count == 0 {
            return self.fails(job, Failure::Io, None);
        }
        self.done += count as u64;
        if self.done >= whole {
            return Next::Ended(self.finish(job));
        }
        self.call = if matches!(job, Job::Zero { .. }) {
            self.zeroes(job)
        } else {
            self.skip(count);
            self.transfer(job)
        };
        Next::Call
    }

    /// How much memory its call reads or writes.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.iov_len as u64).sum()
    }

    /// Takes bytes that are done off the pieces.
    fn skip(&mut self, count: usize) {
        let mut count = count;
        while let Some(first) = self.pieces.first_mut() {
            if count < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(count);
                first.iov_len -= count;
                return;
            }
            count -= first.iov_len;
            self.pieces.remove(0);
        }
    }

    fn finish(&mut self, job: Job) -> Result<(), Failure> {
        let request = self.request.as_ref().ok_or(Failure::Io)?;
        let moved = match (&self.bounce, job) {
            (Some(bounce), Job::Read { .. }) => request.scatter(bounce, 0),
            _ => request.memory().all(|(window, ..)| !window.failed()),
        };
        if moved { Ok(()) } else { Err(Failure::Memory) }
    }

    /// Whether a call is made again that was only in the way of something.
    pub(super) fn again(&mut self, why: Errno) -> bool {
        self.tries += 1;
        matches!(why, Errno::INTR | Errno::AGAIN) && self.tries <= TRIES
    }

    fn failed(&mut self, job: Job, why: Errno) -> Next {
        if self.again(why) {
            return Next::Call;
        }
        let unsupported = matches!(why, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV);
        match (self.call, job) {
            // A discard is a hint.
            (Call::Allocate { .. } | Call::Discard { .. }, Job::Discard { .. }) if unsupported => {
                return Next::Ended(Ok(()));
            }
            // A hole needs no space; and what cannot be told to the file system is written.
            (Call::Allocate { .. }, Job::Zero { .. })
                if unsupported
                    || matches!(why, Errno::NOSPC | Errno::DQUOT)
                        && self.zeroing.first() == Some(&Zeroing::Range) =>
            {
                self.zeroing = self.zeroing.get(1..).unwrap_or_default();
                self.call = self.zeroes(job);
                return Next::Call;
            }
            // The device wants more alignment than it said.
            (Call::Read { .. } | Call::Write { .. }, Job::Read { .. } | Job::Write { .. })
                if why == Errno::INVAL && self.bounce.is_none() =>
            {
                if let Some(request) = self.request.take() {
                    self.done = 0;
                    let aside = self.copy_aside(&request, job);
                    self.request = Some(request);
                    if aside {
                        self.call = self.transfer(job);
                        return Next::Call;
                    }
                }
            }
            _ => {}
        }
        let failure = match why {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Failure::NoSpace,
            Errno::FAULT => {
                if let Some(request) = &self.request {
                    request.touch();
                }
                Failure::Memory
            }
            Errno::ROFS | Errno::BADF | Errno::PERM | Errno::ACCESS => Failure::ReadOnly,
            _ => Failure::Io,
        };
        self.fails(job, failure, Some(why))
    }

    fn fails(&mut self, job: Job, failure: Failure, why: Option<Errno>) -> Next {
        if job != Job::Flush && failure != Failure::Memory {
            self.image.report(job, failure, why);
        }
        Next::Ended(Err(failure))
    }

    /// The task has ended: the request, to be ended, and what can be used again.
    pub(super) fn into_parts(self) -> (Option<Request>, Vec<libc::iovec>, Arc<Image>) {
        if let Some(bounce) = self.bounce {
            self.image.put_bounce(bounce);
        }
        (self.request, self.pieces, self.image)
    }
}

/// A sync's answer as the image wants it.
pub(super) fn errno(result: i32) -> Result<(), Errno> {
    if result < 0 { Err(Errno::from_raw_os_error(-result)) } else { Ok(()) }
}
