//! The thread that talks with the service manager, which may take its time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nvme_linux::events::{Doorbell, now};
use nvme_linux::keep::{Manager, NotKept};
use nvme_linux::logger::SERVER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the manager may take to say that it keeps something; and to hear anything at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

enum Order {
    Keep(u64, String, [OwnedFd; 2]),
    LetGo(String),
    /// What comes behind waits until something is said there, or nobody is there any more.
    Behind(OwnedFd),
    /// Everything before it is done.
    Last(Sender<()>),
}

/// Its end that control has.
pub(crate) struct Keeper {
    orders: Sender<Order>,
    answers: Receiver<(u64, Result<(), NotKept>)>,
    tickets: u64,
}

impl Keeper {
    /// Starts the thread. Its answers ring `bell`.
    pub(crate) fn start(manager: Manager, bell: &Arc<Doorbell>) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let (outbox, answers) = channel();
        let bell = Arc::clone(bell);
        let thread = std::thread::Builder::new().name("keeper".into()).stack_size(64 << 10);
        thread.spawn(move || work(&manager, &inbox, &outbox, &bell))?;
        Ok(Self { orders, answers, tickets: 0 })
    }

    /// Has something kept under a name; the answer comes with this number.
    pub(crate) fn keep(&mut self, name: String, ends: [OwnedFd; 2]) -> u64 {
        self.tickets += 1;
        // A thread that is gone answers nothing, and what is not kept in time is not granted.
        let _ = self.orders.send(Order::Keep(self.tickets, name, ends));
        self.tickets
    }

    /// Has it let go of what is kept under a name.
    pub(crate) fn let_go(&self, name: String) {
        let _ = self.orders.send(Order::LetGo(name));
    }

    /// What was kept since, or not.
    pub(crate) fn answer(&self) -> Option<(u64, Result<(), NotKept>)> {
        self.answers.try_recv().ok()
    }

    /// The manager does not listen to this process before somebody has told it to, and says so there.
    pub(crate) fn wait_behind(&self, link: OwnedFd) {
        let _ = self.orders.send(Order::Behind(link));
    }

    /// Something comes there once all is said.
    pub(crate) fn last(&self) -> Receiver<()> {
        let (done, is_done) = channel();
        let _ = self.orders.send(Order::Last(done));
        is_done
    }

    /// Waits until all is said, at start or at the end, when there is nothing else to do.
    pub(crate) fn wait(&self) {
        let _ = self.last().recv_timeout(PATIENCE * 2);
    }
}

fn work(
    manager: &Manager,
    inbox: &Receiver<Order>,
    outbox: &Sender<(u64, Result<(), NotKept>)>,
    bell: &Doorbell,
) {
    for order in inbox {
        let until = now() + PATIENCE;
        match order {
            Order::Keep(ticket, name, ends) => {
                let files = [ends[0].as_fd(), ends[1].as_fd()];
                let kept = manager.keep(Some((&name, &files)), until);
                if kept.is_err() {
                    // Some of it may be there.
                    let _ = manager.let_go(&name, now() + PATIENCE);
                }
                let _ = outbox.send((ticket, kept));
                bell.ring();
            }
            Order::LetGo(name) => {
                if let Err(why) = manager.let_go(&name, until) {
                    log::warn!(target: SERVER, "{name}: {why}");
                }
            }
            Order::Behind(link) => {
                let left = Timespec::try_from(PATIENCE).unwrap_or_default();
                let _ = poll(&mut [PollFd::new(&link, PollFlags::IN)], Some(&left));
            }
            Order::Last(done) => drop(done.send(())),
        }
    }
}
