//! Bounded messages between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, TryRecvError};

use super::Doorbell;

/// Why a message was not sent; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// As many messages as the channel holds are waiting.
    Full(T),
    /// The thread at the other end is gone.
    Closed(T),
}

/// What both ends know of a channel.
#[derive(Debug)]
struct Waiting {
    /// Messages that were sent and not received, and those that are just being sent.
    count: AtomicUsize,
    bound: usize,
    /// The receiver is gone.
    closed: AtomicBool,
}

/// The end that sends; any number of threads may have one. When the last is dropped, the receiver's bell rings.
#[derive(Debug)]
pub struct Sender<T> {
    // Declared before `bell`'s last ring in `drop`: see there.
    messages: Option<mpsc::Sender<T>>,
    waiting: Arc<Waiting>,
    bell: Arc<Doorbell>,
}

/// The end that receives.
#[derive(Debug)]
pub struct Receiver<T> {
    messages: mpsc::Receiver<T>,
    waiting: Arc<Waiting>,
}

/// A channel for at most `bound` waiting messages (at least one), whose receiver owns `bell`. Room is allocated as messages wait, not
/// at once: most channels never have more than a few. Many channels may share one bell: asking it is all that an empty pass costs.
pub fn channel<T>(bound: usize, bell: &Arc<Doorbell>) -> (Sender<T>, Receiver<T>) {
    let (sender, messages) = mpsc::channel();
    let (count, closed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let waiting = Arc::new(Waiting { count, bound: bound.max(1), closed });
    let receiver = Receiver { messages, waiting: Arc::clone(&waiting) };
    (Sender { messages: Some(sender), waiting, bell: bell.clone() }, receiver)
}

impl<T> Sender<T> {
    /// Puts a message in and rings the bell. Never waits.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let Some(messages) = &self.messages else { return Err(SendError::Closed(message)) };
        // Relaxed: it counts, and orders nothing; the channel itself does.
        if self.waiting.count.fetch_add(1, Ordering::Relaxed) >= self.waiting.bound {
            self.waiting.count.fetch_sub(1, Ordering::Relaxed);
            let closed = self.waiting.closed.load(Ordering::Relaxed);
            return Err(if closed { SendError::Closed(message) } else { SendError::Full(message) });
        }
        match messages.send(message) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(mpsc::SendError(message)) => Err(SendError::Closed(message)),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let (messages, waiting) = (self.messages.clone(), Arc::clone(&self.waiting));
        Self { messages, waiting, bell: self.bell.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // First gone, then told: whoever answers the bell must find the channel closed.
        self.messages = None;
        self.bell.ring();
    }
}

impl<T> Receiver<T> {
    /// The next message; `Ok(None)` when there is none now.
    ///
    /// # Errors
    /// Every sender is gone, and every message was received.
    pub fn receive(&self) -> Result<Option<T>, Closed> {
        match self.messages.try_recv() {
            Ok(message) => {
                self.waiting.count.fetch_sub(1, Ordering::Relaxed);
                Ok(Some(message))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.waiting.closed.store(true, Ordering::Relaxed);
    }
}

/// Nobody can send any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Closed, Doorbell, SendError, channel};

    #[test]
    fn messages_come_in_order_and_ring_the_bell() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let (sender, receiver) = channel(4, &bell);
        assert!(!bell.take());
        sender.send(1).unwrap();
        sender.clone().send(2).unwrap();
        assert!(bell.take());
        assert_eq!(receiver.receive(), Ok(Some(1)));
        assert_eq!(receiver.receive(), Ok(Some(2)));
        assert_eq!(receiver.receive(), Ok(None));
    }

    #[test]
    fn a_full_channel_hands_the_message_back() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let (sender, receiver) = channel(1, &bell);
        sender.send("a").unwrap();
        assert_eq!(sender.send("b"), Err(SendError::Full("b")));
        drop(receiver);
        assert_eq!(sender.send("c"), Err(SendError::Closed("c")));
    }

    #[test]
    fn the_last_sender_that_goes_is_noticed_after_the_last_message() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let (sender, receiver) = channel(2, &bell);
        sender.send(9).unwrap();
        assert!(bell.take());
        drop(sender);
        assert!(bell.take());
        assert_eq!(receiver.receive(), Ok(Some(9)));
        assert_eq!(receiver.receive(), Err(Closed));
    }
}
