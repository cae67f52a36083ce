//! What a thread of the server sleeps on, and how it is woken.
//!
//! A thread owns one [`Epoll`] and one [`Doorbell`]. Others put a message into a [`channel`] that ends at this
//! thread and ring the bell; that is a system call only when the thread sleeps. The loop is always the same:
//!
//! ```text
//! loop {
//!     if bell.take() { receive everything from every channel }
//!     work, and stay here while there is any
//!     if bell.arm() { epoll.wait(timeout); bell.disarm() }
//! }
//! ```
//!
//! [`EventFd`] is for kicks and for descriptors of our own, [`CallNotify`] for those that a client gave us;
//! [`guard_calls`] keeps clients from making a write into those wait.
//! [`Signals`] makes SIGTERM and SIGINT an event like any other; [`settle_signals`] says what the others do.

mod account;
mod call;
mod channel;
mod clock;
mod doorbell;
mod epoll;
mod eventfd;
mod guard;
mod signals;
mod slowly;
mod submission;
mod sync;

pub use account::Account;
pub use call::{CallError, CallNotify, is_eventfd};
pub use channel::{Closed, Receiver, SendError, Sender, channel};
pub(crate) use clock::bringing;
pub use clock::{ThreadClock, now};
pub use doorbell::Doorbell;
pub use epoll::{Epoll, Events, Interest, Ready, any_readable};
pub use eventfd::EventFd;
pub use guard::{bounded, guard_this_thread};
pub use signals::{Signals, Stop, settle_signals};
pub use slowly::{guard_calls, ring_for_ends, some_ended};
