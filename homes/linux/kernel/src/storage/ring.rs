//! io_uring: one ring for each worker, made before the sandbox closes, and restricted by the kernel to reading, writing, syncing
//! and allocating in the images that were registered with it.
#![expect(unsafe_code, reason = "gives the kernel addresses that it uses later")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, register::Restriction, squeue};
use nvme_platform::Time;
use nvme_soft::{Begun, Failure, Job, Request};
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};

use super::durable::{Flush, Joined};
use super::entries::{entry, is_apart};
use super::image::Image;
use super::letting_go::LettingGo;
use super::pinned::{Pinned, UPDATE};
use super::rest::{Counted, Crowd, Rest};
use super::task::{Next, Task, errno};
use crate::events::Doorbell;

/// What one image may have under way on one ring. All of it may block: one that is stuck takes no more than this.
pub(super) const CAP: u32 = 64;
/// Kernel threads beyond those that images can block.
const WORKERS_SPARE: u32 = 16;
/// Entries of the submission queue: more of them go out in more calls.
const ENTRIES: u32 = 128;
/// So many small requests are not kept waiting for more: the device begins with them meanwhile.
const EAGER: u32 = 8;
/// What is small: bytes. With larger ones a device has enough to do, and does more of them in one go.
const SMALL: u64 = 16 << 10;
/// Most requests under way on one ring.
const SLOTS_MAX: u32 = 4096;
/// IORING_ENTER_GETEVENTS of io_uring(7).
const GETEVENTS: u32 = 1;
/// IOSQE_FIXED_FILE.
const FIXED_FILE: u8 = 1;
/// IOSQE_ASYNC.
const ASYNC: u8 = 1 << 4;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingsError {
    /// The kernel has none, or does not let us.
    #[error("{0}")]
    Setup(io::Error),
    /// It cannot do one of the operations.
    #[error("this kernel's io_uring cannot do all that is needed")]
    Operations,
    /// It has no room for fixed buffers.
    #[error("pin: this kernel's io_uring keeps no fixed buffers: {0}")]
    Buffers(io::Error),
    /// Its threads cannot be counted (before Linux 5.15): a frozen image would take those of all others.
    #[error("this kernel's io_uring does not let its threads be counted: {0}")]
    Workers(io::Error),
    /// It can be made, and not used.
    #[error("io_uring_enter: {0}")]
    Enter(io::Error),
    /// It cannot be restricted.
    #[error("this kernel's io_uring cannot be restricted: {0}")]
    Restrictions(io::Error),
}

/// A ring that was made and is not enabled yet.
#[derive(Debug)]
pub struct Seed(Vec<OneSeed>);

/// One ring of those.
#[derive(Debug)]
struct OneSeed {
    ring: RingOf,
    event: Arc<OwnedFd>,
    images: usize,
    slots: u32,
    pins: bool,
}

struct RingOf(IoUring);

impl std::fmt::Debug for RingOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IoUring")
    }
}

/// Makes rings.
#[derive(Debug)]
pub struct Rings(());

impl Rings {
    /// Whether there can be rings at all: makes one as they are made, and enters it. Of fixed buffers nothing is asked.
    pub fn probe() -> Result<(), RingsError> {
        let event = Arc::new(bell()?);
        let mut ring =
            seed(&[event.as_raw_fd()], 1, CAP, false, &event)?.enable().map_err(RingsError::Setup)?;
        ring.try_enter().map_err(RingsError::Enter)
    }

    /// One ring for each worker, over these images, in the order of their index. `ends`: one end of a pipe for each image, whose other end
    /// hangs up once nothing of what was begun can land there any more; each has rings of its own then. None: nobody asks.
    pub fn make(
        workers: usize,
        images: &[Arc<Image>],
        ends: &[OwnedFd],
    ) -> Result<(Vec<Seed>, LettingGo), RingsError> {
        let (gone, all) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| RingsError::Setup(e.into()))?;
        let all = &all;
        let file = |image: &Arc<Image>| image.file().as_raw_fd();
        // Behind the files what holds their locks: a write of a ring's may land after the process was killed and reaped, and nobody else
        // may have the image before the last of them has. The kernel keeps all these files open until then.
        let lock = |image: &Arc<Image>| image.held().map(AsRawFd::as_raw_fd);
        let apart = |(at, image): (usize, &Arc<Image>)| {
            image.has_own_rings();
            let own = images.iter().map(|other| if Arc::ptr_eq(other, image) { file(other) } else { -1 });
            let end = ends.get(at).map(AsRawFd::as_raw_fd);
            (around(all, own.chain(lock(image)).chain(end)), image.pins())
        };
        let sets: Vec<(Vec<RawFd>, bool)> = if ends.is_empty() {
            let files = images.iter().map(file).chain(images.iter().filter_map(lock));
            vec![(around(all, files), images.iter().any(|image| image.pins()))]
        } else {
            images.iter().enumerate().map(apart).collect()
        };
        let count = if ends.is_empty() { images.len() } else { 1 };
        // The kernel's threads are the calling thread's, for all its rings: what was said last holds.
        let blocked = slots(count).saturating_mul(u32::try_from(sets.len()).unwrap_or(u32::MAX));
        let one = |_| {
            let event = Arc::new(bell()?);
            let seeds = sets.iter().map(|(files, pins)| {
                Ok(OneSeed { images: images.len(), ..seed(files, count, blocked, *pins, &event)? })
            });
            seeds.collect::<Result<_, _>>().map(Seed)
        };
        Ok(((0..workers).map(one).collect::<Result<_, _>>()?, LettingGo::of(gone)))
    }
}

/// The place of the first image among a ring's files.
pub(super) const FIRST: usize = 1;

/// A ring's files. The end of the pipe is before and behind them: in whatever order the kernel lets go of them, its last use is the last.
fn around(end: &OwnedFd, files: impl Iterator<Item = RawFd>) -> Vec<RawFd> {
    let end = end.as_raw_fd();
    [end].into_iter().chain(files).chain([end]).collect()
}

/// What becomes readable when something came back.
fn bell() -> Result<OwnedFd, RingsError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| RingsError::Setup(e.into()))
}

fn build(entries: u32, completions: u32, pins: bool) -> Result<IoUring, RingsError> {
    // The best that the kernel has: completions are worked off when the worker asks, and nowhere else.
    let best = IoUring::builder()
        .setup_r_disabled()
        .setup_cqsize(completions)
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .dontfork()
        .build(entries);
    let ring = match best {
        Err(why) if why.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
            .setup_r_disabled()
            .setup_cqsize(completions)
            .setup_clamp()
            .dontfork()
            .build(entries),
        other => other,
    }
    .map_err(RingsError::Setup)?;
    let mut probe = Probe::new();
    let operations = [opcode::Read::CODE, opcode::Readv::CODE, opcode::Write::CODE, opcode::Writev::CODE];
    let others = [opcode::Fsync::CODE, opcode::Fallocate::CODE];
    let fixed = [opcode::ReadFixed::CODE, opcode::WriteFixed::CODE];
    let fixed = if pins { &fixed[..] } else { &[] };
    ring.submitter().register_probe(&mut probe).map_err(RingsError::Setup)?;
    if !operations.iter().chain(&others).chain(fixed).all(|code| probe.is_supported(*code)) {
        return Err(RingsError::Operations);
    }
    let mut restrictions: Vec<Restriction> =
        operations.iter().chain(&others).chain(fixed).map(|code| Restriction::sqe_op(*code)).collect();
    restrictions.push(Restriction::sqe_flags_allowed(FIXED_FILE | ASYNC));
    restrictions.push(Restriction::sqe_flags_required(FIXED_FILE));
    if pins {
        restrictions.push(Restriction::register_op(UPDATE));
    }
    ring.submitter().register_restrictions(&mut restrictions).map_err(RingsError::Restrictions)?;
    Ok(ring)
}

/// What a ring over so many images may have under way.
fn slots(images: usize) -> u32 {
    u32::try_from(images).unwrap_or(u32::MAX).saturating_mul(CAP).clamp(1, SLOTS_MAX)
}

/// A ring over so many images. `blocked`: what its thread may have under way on all its rings.
fn seed(
    files: &[RawFd],
    images: usize,
    blocked: u32,
    pins: bool,
    event: &Arc<OwnedFd>,
) -> Result<OneSeed, RingsError> {
    let slots = slots(images);
    let ring = build(ENTRIES, slots * 2, pins)?;
    let submitter = ring.submitter();
    submitter.register_files(files).map_err(RingsError::Setup)?;
    if pins {
        Pinned::make_room(&submitter).map_err(RingsError::Buffers)?;
    }
    submitter.register_eventfd(event.as_raw_fd()).map_err(RingsError::Setup)?;
    // An image whose file system is frozen takes as many as it may, and there are some for the others still.
    let workers = blocked.saturating_add(WORKERS_SPARE);
    submitter.register_iowq_max_workers(&mut [workers, workers]).map_err(RingsError::Workers)?;
    Ok(OneSeed { ring: RingOf(ring), event: Arc::clone(event), images, slots, pins })
}

impl Seed {
    /// Enables the rings: from here on they are restricted, and the calling thread's.
    pub(super) fn enable(self) -> io::Result<Vec<Ring>> {
        self.0.into_iter().map(OneSeed::enable).collect()
    }
}

impl OneSeed {
    fn enable(self) -> io::Result<Ring> {
        let Self { ring: RingOf(mut ring), event, images, slots, pins } = self;
        ring.submitter().register_enable_rings()?;
        ring.completion().disable_eventfd();
        let free = (0..slots).rev().collect();
        Ok(Ring {
            ring,
            event,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free,
            counts: vec![0; images],
            pinned: pins.then(Pinned::default),
            pending: 0,
            small: 0,
            crowd: Crowd::default(),
            rest: Rest::default(),
            came: Vec::with_capacity(slots as usize * 2),
        })
    }
}

#[derive(Default)]
struct Slot {
    task: Option<Task>,
    counted: Option<Counted>,
    /// Kept for the next task.
    pieces: Vec<libc::iovec>,
}

/// A ring, and the tasks that are under way on it.
pub(super) struct Ring {
    ring: IoUring,
    event: Arc<OwnedFd>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Tasks of each image.
    counts: Vec<u32>,
    /// Client memory that the ring knows, where some image wants that.
    pinned: Option<Pinned>,
    /// Entries that the kernel was not told of, and how many of these are small.
    pending: u32,
    small: u32,
    crowd: Crowd,
    rest: Rest,
    came: Vec<(u64, i32)>,
}

impl Ring {
    pub(super) fn event(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.event)
    }

    /// Begins a request. The kernel is told with the next turn.
    pub(super) fn begin(&mut self, image: &Arc<Image>, request: Request, bell: &Arc<Doorbell>) -> Begun {
        let room = self.counts.get(image.index()).is_some_and(|count| *count < CAP);
        let (true, Some(&at)) = (room, self.free.last()) else { return Begun::Full(request) };
        let queue = request.queue();
        let task = if request.job() == Job::Flush {
            match image.join(Flush { request, bell: Arc::clone(bell) }) {
                Joined::Call => Task::sync(image),
                Joined::Waits => return Begun::UnderWay,
                Joined::Lost(request) => return Begun::Ended(request, Err(Failure::Lost)),
            }
        } else {
            let pieces =
                self.slots.get_mut(at as usize).map(|s| mem::take(&mut s.pieces)).unwrap_or_default();
            let task = Task::new(image, request, pieces).or_else(|request| {
                // Another worker may have the memory that it lacks. What ends on this ring wakes this thread anyway.
                image.room().wait(bell);
                Task::new(image, request, Vec::new())
            });
            match task {
                Ok(mut task) => {
                    if let Some(pinned) = self.pinned.as_mut().filter(|_| image.pins()) {
                        task.fixed = pinned.find(&self.ring.submitter(), &task);
                    }
                    task
                }
                Err(request) => return Begun::Full(request),
            }
        };
        self.free.pop();
        if let Some(count) = self.counts.get_mut(image.index()) {
            *count += 1;
        }
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.task = Some(task);
            slot.counted = Some(self.crowd.join(queue));
        }
        self.push(at);
        Begun::UnderWay
    }

    /// Puts a task's call into the submission queue.
    fn push(&mut self, at: u32) {
        let Some(task) = self.slots.get(at as usize).and_then(|s| s.task.as_ref()) else { return };
        let entry = entry(task).user_data(at.into());
        let entry = if is_apart(task) { entry.flags(squeue::Flags::ASYNC) } else { entry };
        let small = task.bytes() <= SMALL;
        // SAFETY: what the entry points to belongs to the task, which stays in its slot until the call has ended; the list of pieces
        // is copied when it is submitted.
        if !unsafe { self.queue(&entry, small) } {
            // The kernel takes nothing now: it answers nothing either, so this one has not been tried.
            self.came.push((at.into(), -libc::EAGAIN));
        }
    }

    /// Puts an entry there, and tells the kernel when there are several. False: there is no room, and the kernel makes none.
    ///
    /// # Safety
    /// What the entry points to stays until its call has ended.
    unsafe fn queue(&mut self, entry: &squeue::Entry, small: bool) -> bool {
        loop {
            // SAFETY: what this asks for as well.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.pending += 1;
                self.small += u32::from(small);
                if self.small >= EAGER {
                    self.enter();
                }
                return true;
            }
            if self.enter() == 0 {
                return false;
            }
        }
    }

    /// Whether the kernel takes entries at all.
    fn try_enter(&mut self) -> io::Result<()> {
        let none: Option<&libc::sigset_t> = None;
        // SAFETY: no argument is passed, and there are no entries.
        unsafe { self.ring.submitter().enter(0, 0, GETEVENTS, none) }.map(drop)
    }

    /// Tells the kernel; how many entries it took.
    fn enter(&mut self) -> u32 {
        let none: Option<&libc::sigset_t> = None;
        // SAFETY: no argument is passed; the entries were pushed as they must be.
        let taken = unsafe { self.ring.submitter().enter(self.pending, 0, GETEVENTS, none) };
        let taken = u32::try_from(taken.unwrap_or(0)).unwrap_or(0).min(self.pending);
        self.pending -= taken;
        self.small = self.small.min(self.pending);
        taken
    }

    /// Submits what was begun, and ends what came back. True: something did.
    pub(super) fn turn(&mut self, now: Time) -> bool {
        if self.pending == 0 && self.under_way() == 0 {
            self.rest.begins(now);
            return false;
        }
        let submission = self.ring.submission();
        let work = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if self.pending > 0 || work {
            self.enter();
        }
        let mut came = mem::take(&mut self.came);
        came.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        let count = came.len();
        self.rest.came(count as u32, now);
        for (at, result) in came.drain(..) {
            self.answer(at as u32, result);
        }
        // What could not be submitted meanwhile is in the new list.
        if self.came.is_empty() {
            self.came = came;
        }
        count > 0
    }

    fn under_way(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }

    /// Whether what is under way takes long, and each queue that has any of it has much.
    pub(super) fn is_deep(&self, now: Time) -> bool {
        self.crowd.is_deep() && self.rest.is_slow(self.under_way(), now)
    }

    /// How many queues have something under way.
    pub(super) fn queues(&self) -> usize {
        self.crowd.queues()
    }

    /// For how long it can be left alone, with nobody woken by what comes back.
    pub(super) fn rest(&mut self, now: Time) -> Option<Duration> {
        let ready = self.pending > 0 || !self.came.is_empty();
        (!ready && self.is_deep(now)).then(|| self.rest.take(self.under_way(), now)).flatten()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way() == 0
    }

    fn answer(&mut self, at: u32, result: i32) {
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        let Some(task) = &mut slot.task else { return };
        if task.request.is_none() {
            let again = match errno(result) {
                Err(why) if task.again(why) => true,
                result => task.image.synced(result),
            };
            if again {
                return self.push(at);
            }
            return self.release(at, Ok(()));
        }
        match task.answer(result) {
            Next::Call => self.push(at),
            Next::Ended(result) => self.release(at, result),
        }
    }

    fn release(&mut self, at: u32, result: Result<(), Failure>) {
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        let Some(task) = slot.task.take() else { return };
        if let Some(counted) = slot.counted.take() {
            self.crowd.leave(counted);
        }
        let (request, pieces, image) = task.into_parts();
        slot.pieces = pieces;
        self.free.push(at);
        if let Some(count) = self.counts.get_mut(image.index()) {
            *count = count.saturating_sub(1);
        }
        if let Some(request) = request {
            request.end(result);
        }
        image.room().is_made();
    }

    /// Asks to be woken by the event. False: there is something to do first.
    pub(super) fn arm(&mut self) -> bool {
        if let Some(pinned) = &mut self.pinned {
            pinned.sweep(&self.ring.submitter());
        }
        if self.free.len() == self.slots.len() {
            return true;
        }
        self.ring.completion().enable_eventfd();
        // What the kernel adds from here on is signalled; what it added before is seen.
        fence(Ordering::SeqCst);
        let submission = self.ring.submission();
        let work = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if self.pending > 0 || work || !self.came.is_empty() || !self.ring.completion().is_empty() {
            self.disarm();
            return false;
        }
        true
    }

    pub(super) fn disarm(&mut self) {
        self.ring.completion().disable_eventfd();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use io_uring::types::{Fd, Fixed};
    use io_uring::{opcode, squeue};

    use super::{Arc, EAGER, GETEVENTS, Ring, Rings, Time, bell, seed};

    /// What the kernel answers to one entry.
    fn answer(ring: &mut Ring, entry: &squeue::Entry) -> i32 {
        // SAFETY: what the entries of this test point to outlives the wait below.
        unsafe { ring.ring.submission().push(entry) }.unwrap();
        let none: Option<&libc::sigset_t> = None;
        // SAFETY: no argument is passed.
        unsafe { ring.ring.submitter().enter(1, 1, GETEVENTS, none) }.unwrap();
        ring.ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_does_nothing_but_what_images_need_and_nothing_to_other_files() {
        // Where there is no io_uring there is nothing to restrict.
        if Rings::probe().is_err() {
            return;
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let fd = file.as_raw_fd();
        let mut ring = seed(&[fd], 1, 64, false, &Arc::new(bell().unwrap())).unwrap().enable().unwrap();
        let mut bytes = [1_u8; 512];
        let at = bytes.as_mut_ptr();
        assert_eq!(answer(&mut ring, &opcode::Read::new(Fixed(0), at, 512).build()), 512);
        assert_eq!(bytes, [0; 512]);
        for refused in [
            opcode::Nop::new().build(),
            opcode::Read::new(Fd(fd), at, 512).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
            opcode::Close::new(Fixed(0)).build(),
            opcode::Read::new(Fixed(0), at, 512).build().flags(squeue::Flags::IO_LINK),
        ] {
            assert_eq!(answer(&mut ring, &refused), -libc::EACCES, "{refused:?}");
        }
        assert_eq!(answer(&mut ring, &opcode::Read::new(Fixed(1), at, 512).build()), -libc::EBADF);
        let more = ring.ring.submitter().register_files_update(0, &[fd]);
        assert_eq!(more.unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(answer(&mut ring, &opcode::ReadFixed::new(Fixed(0), at, 512, 0).build()), -libc::EACCES);
        assert_eq!(update(&ring, at), Some(libc::EACCES), "it learns of no memory");
    }

    #[test]
    fn several_requests_are_begun_before_the_rest_of_a_batch_is_there() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let Ok(seed) = seed(&[file.as_raw_fd()], 1, 64, false, &Arc::new(bell().unwrap())) else { return };
        let mut ring = seed.enable().unwrap();
        let mut bytes = [1_u8; 512];
        let read = opcode::Read::new(Fixed(0), bytes.as_mut_ptr(), 512).build();
        for count in 1..=2 * EAGER + 3 {
            // SAFETY: the bytes outlive the ring.
            assert!(unsafe { ring.queue(&read, true) });
            assert_eq!(ring.pending, count % EAGER, "the kernel has the others");
        }
        ring.turn(Time::default());
        // SAFETY: as above.
        (0..2 * EAGER).for_each(|_| assert!(unsafe { ring.queue(&read, false) }));
        assert_eq!(ring.pending, 2 * EAGER, "large ones go out together");
    }

    /// Tells the ring of memory; the error's number.
    fn update(ring: &Ring, at: *mut u8) -> Option<i32> {
        let piece = [libc::iovec { iov_base: at.cast(), iov_len: 512 }];
        // SAFETY: the memory outlives the ring in these tests.
        let told = unsafe { ring.ring.submitter().register_buffers_update(0, &piece, None) };
        told.err().and_then(|why| why.raw_os_error())
    }

    #[test]
    fn a_ring_that_pins_learns_of_memory_and_of_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let fd = file.as_raw_fd();
        // Where there is no io_uring there is nothing to restrict.
        let Ok(seed) = seed(&[fd], 1, 64, true, &Arc::new(bell().unwrap())) else { return };
        let mut ring = seed.enable().unwrap();
        let mut bytes = [1_u8; 512];
        let at = bytes.as_mut_ptr();
        assert_eq!(answer(&mut ring, &opcode::ReadFixed::new(Fixed(0), at, 512, 0).build()), -libc::EFAULT);
        assert_eq!(update(&ring, at), None);
        assert_eq!(answer(&mut ring, &opcode::ReadFixed::new(Fixed(0), at, 512, 0).build()), 512);
        assert_eq!(bytes, [0; 512]);
        let submitter = ring.ring.submitter();
        let no = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(no(submitter.register_files_update(0, &[fd]).map(drop)), Some(libc::EACCES));
        assert_eq!(no(submitter.unregister_buffers()), Some(libc::EACCES));
        assert_eq!(no(submitter.register_iowq_max_workers(&mut [1, 1])), Some(libc::EACCES));
    }
}
