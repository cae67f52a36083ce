//! Telling a client.

/// The client's end of one virtqueue.
pub trait Notify: Send {
    /// Says that the used ring has news. Never blocks; telling twice is as good as once.
    fn used(&self);
    /// Says that the queue is broken and serves nothing until it is set up again.
    fn broken(&self);
}
