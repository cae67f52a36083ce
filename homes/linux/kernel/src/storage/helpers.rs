//! Threads that make the calls: where there is no io_uring, and for whoever has no ring.
#![expect(unsafe_code, reason = "reads and writes memory that clients share")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;

use super::image::{BLKDISCARD, Image};
use super::task::{Call, Next, Task, errno};
use crate::events::Doorbell;

/// What is to be done, and the bell of the thread that waits for it.
struct Order {
    what: What,
    bell: Arc<Doorbell>,
}

enum What {
    /// Calls that a request takes, or the flushes of an image.
    Task(Box<Task>),
    /// A look how large it is.
    Size(Arc<Image>),
}

struct Orders {
    waiting: VecDeque<Order>,
    /// Orders that did not end yet.
    under_way: usize,
    most: usize,
}

/// The helpers of one image. What blocks there blocks nobody else's.
pub(super) struct Helpers {
    orders: Mutex<Orders>,
    news: Condvar,
}

impl Helpers {
    /// Without threads yet. At most `most` orders are taken at a time.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let orders = Orders { waiting: VecDeque::with_capacity(most), under_way: 0, most };
        Arc::new(Self { orders: Mutex::new(orders), news: Condvar::new() })
    }

    /// Starts so many threads.
    pub(super) fn start(self: &Arc<Self>, name: &str, threads: usize) -> io::Result<()> {
        for _ in 0..threads {
            let helpers = Arc::clone(self);
            thread::Builder::new().name(name.into()).spawn(move || helpers.serve())?;
        }
        Ok(())
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.under_way < orders.most
    }

    /// Hands a task over.
    pub(super) fn put(&self, task: Task, bell: Arc<Doorbell>) {
        self.add(Order { what: What::Task(Box::new(task)), bell });
    }

    /// Has its storage asked how large the image is, if that is not being done.
    pub(super) fn ask(&self, image: &Arc<Image>, bell: &Arc<Doorbell>) {
        if image.question().begin() {
            self.add(Order { what: What::Size(Arc::clone(image)), bell: Arc::clone(bell) });
        }
    }

    fn add(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.under_way += 1;
        orders.waiting.push_back(order);
        drop(orders);
        self.news.notify_one();
    }

    fn take(&self) -> Order {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(order) = orders.waiting.pop_front() {
                return order;
            }
            orders = self.news.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve(&self) {
        loop {
            let Order { what, bell } = self.take();
            let image = match what {
                What::Task(task) => Self::work(*task),
                What::Size(image) => {
                    image.ask();
                    image
                }
            };
            bell.ring();
            self.orders.lock().unwrap_or_else(PoisonError::into_inner).under_way -= 1;
            image.room().is_made();
        }
    }

    fn work(mut task: Task) -> Arc<Image> {
        let result = run(&mut task);
        let sync = task.request.is_none();
        let (request, _, image) = task.into_parts();
        match request {
            Some(request) => request.end(result),
            None if sync => Self::synced(&image),
            None => {}
        }
        image
    }

    /// Makes the calls of all flushes that wait.
    fn synced(image: &Arc<Image>) {
        // Each call answers those that came during the one before.
        let mut task = Task::sync(image);
        loop {
            let again = match errno(call(image.file(), &task)) {
                Err(why) if task.again(why) => true,
                result => image.synced(result),
            };
            if !again {
                return;
            }
        }
    }
}

/// Makes a task's calls. A flush is left to the caller.
pub(super) fn run(task: &mut Task) -> Result<(), nvme_soft::Failure> {
    if task.request.is_none() {
        return Ok(());
    }
    loop {
        let result = call(task.image.file(), task);
        if let Next::Ended(result) = task.answer(result) {
            return result;
        }
    }
}

/// Makes one call; its count, or its error's number less than zero.
fn call(file: BorrowedFd<'_>, task: &Task) -> i32 {
    let fd = file.as_fd().as_raw_fd();
    let result = match task.call() {
        Call::Read { offset, pieces } => {
            // SAFETY: the pieces are memory that the task keeps alive; nothing refers to it.
            unsafe { libc::preadv(fd, task.pieces.as_ptr(), pieces.cast_signed(), offset.cast_signed()) }
        }
        Call::Write { offset, pieces } => {
            // SAFETY: as above; it is only read.
            unsafe { libc::pwritev(fd, task.pieces.as_ptr(), pieces.cast_signed(), offset.cast_signed()) }
        }
        Call::Discard { offset, len } => {
            let range = [offset, len];
            let device = task.image.device().as_raw_fd();
            // SAFETY: the request takes a pointer to two numbers.
            let done = unsafe { libc::ioctl(device, BLKDISCARD.into(), range.as_ptr()) };
            done as isize
        }
        Call::Sync => return answer(rustix::fs::fdatasync(file)),
        Call::Allocate { mode, offset, len } => {
            return answer(rustix::fs::fallocate(file, mode, offset, len));
        }
    };
    if result >= 0 {
        return i32::try_from(result).unwrap_or(i32::MAX);
    }
    -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn answer(result: Result<(), Errno>) -> i32 {
    result.map_or_else(|why| -why.raw_os_error(), |()| 0)
}
