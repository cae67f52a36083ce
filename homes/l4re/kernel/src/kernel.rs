//! What the home asks of the kernel and of L4Re's basic services, as small traits. System calls and L4Re's C functions stand
//! behind them in the real program, a model in the tests.
//!
//! One thread uses all of it. Nothing here waits for a client: what is sent goes with a send time-out of zero, and a client's
//! capability is never called.

use core::fmt;

use heapless::Vec;
use nvme_platform::{Time, Window};

/// A capability slot of this task, as a selector: the slot's index shifted by 12 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cap(pub usize);

/// An L4 error: a negative number (`L4_EINVAL` is 22, so -22).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L4Error(pub i64);

impl L4Error {
    /// No permission.
    pub const PERM: Self = Self(-1);
    /// No such thing.
    pub const NOENT: Self = Self(-2);
    /// Input/output error: not in this state.
    pub const IO: Self = Self(-5);
    /// Try again.
    pub const AGAIN: Self = Self(-11);
    /// No memory, or no room.
    pub const NOMEM: Self = Self(-12);
    /// In use.
    pub const BUSY: Self = Self(-16);
    /// No such device.
    pub const NODEV: Self = Self(-19);
    /// Not a valid argument.
    pub const INVAL: Self = Self(-22);
    /// Out of range.
    pub const RANGE: Self = Self(-34);
    /// No such operation.
    pub const NOSYS: Self = Self(-38);
    /// No such protocol.
    pub const BADPROTO: Self = Self(-39);
    /// The message lacks a word or a capability.
    pub const MSGTOOSHORT: Self = Self(-1001);
}

impl fmt::Display for L4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L4 error {}", self.0)
    }
}

impl core::error::Error for L4Error {}

/// Most untyped words of a message.
pub const WORDS_MAX: usize = 63;

/// The label under which an object (gate or interrupt) of this task reports: a multiple of four.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Label(pub u64);

/// What something arrived for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// At which of our objects.
    pub object: Label,
    /// Whether the sender's capability has the S (special) right. Its W right is of no use to us.
    pub special: bool,
}

/// A message of somebody else's, copied out of the buffer that it came in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// The protocol in its tag.
    pub protocol: i64,
    /// Its words.
    pub words: Vec<u64, WORDS_MAX>,
    /// The capability that came with it, mapped into a slot that is ours now: it is to be kept or released.
    pub cap: Option<Cap>,
}

/// The rights with which a capability is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandOut {
    /// Read: it can be used, and no more.
    Ro,
    /// Read and write.
    Rw,
    /// All: read, write, special, delete.
    Rwsd,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// The label of its tag: an error, or zero, or a number.
    pub label: i64,
    /// Its words.
    pub words: Vec<u64, WORDS_MAX>,
    /// The capability that goes with it.
    pub cap: Option<(Cap, HandOut)>,
}

/// A caller that is kept while its call is worked on. It may be gone by now: who is answered then is nobody.
#[derive(PartialEq, Eq, Debug)]
pub struct Caller(pub usize);

/// Messages.
pub trait Ipc {
    /// Answers the caller of the last message, if there is an answer, and takes the next message. With `until` in the past
    /// it looks whether there is one. `None`: none came by then. A caller that is not waiting any more gets no answer, and nobody
    /// waits for it.
    ///
    /// What was said comes into `message`, in place of what is there; with an interrupt, nothing. (Returned, it would be moved, and that
    /// is longer than all else that an interrupt takes.)
    fn receive(
        &mut self,
        reply: Option<&Reply>,
        until: Option<Time>,
        message: &mut Message,
    ) -> Option<Incoming>;
    /// Whether the answer of the last [`receive`](Ipc::receive) reached its caller (true if there was none): a capability that did
    /// not has no user, and nothing reports its end.
    fn delivered(&self) -> bool;
    /// Keeps the caller of the last message, which is not answered yet, so that further messages can be taken meanwhile. `None`: this
    /// kernel cannot, or has no room for it: then the next receive forgets the caller, so nothing is received before it is answered.
    fn keep(&mut self) -> Option<Caller>;
    /// Answers a caller that was kept. False: it did not wait any more.
    fn answer(&mut self, caller: Caller, reply: &Reply) -> bool;
    /// The time.
    fn now(&self) -> Time;
}

/// Capability slots.
pub trait Capabilities {
    /// The capability that the program was started with under this name.
    fn named(&self, name: &str) -> Option<Cap>;
    /// Whether both are the same object; what is gone is the same as nothing. It asks the kernel, not the object.
    fn same(&self, a: Cap, b: Cap) -> bool;
    /// Whether there is still an object in the slot: of a gate that nobody else has any more there is none.
    fn valid(&self, cap: Cap) -> bool;
    /// Empties the slot and gives it back.
    fn release(&mut self, cap: Cap);
}

/// Objects that report to this thread.
pub trait Objects {
    /// A new gate. It is gone when nobody else has a capability to it any more (at the earliest after it was sent once).
    fn gate(&mut self, label: Label) -> Result<Cap, L4Error>;
    /// Lets a gate that we were given (with the right to serve it) report here.
    fn serve(&mut self, gate: Cap, label: Label) -> Result<(), L4Error>;
    /// A new interrupt.
    fn irq(&mut self, label: Label) -> Result<Cap, L4Error>;
    /// Has the interrupt raised whenever a gate of ours lost its last user.
    fn raise_on_deletion(&mut self, irq: Cap) -> Result<(), L4Error>;
    /// Deletes an object of ours, and gives its slot back.
    fn delete(&mut self, object: Cap);
    /// Raises an interrupt: anybody's. Does not block, whatever the capability is.
    fn trigger(&self, irq: Cap);
}

/// What a dataspace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataspaceInfo {
    /// Bytes.
    pub size: u64,
    /// Whether it may be written to, by the rights of the capability too.
    pub writable: bool,
}

/// Dataspaces.
pub trait Dataspaces {
    /// Whether L4Re's own memory server stands behind it, so that nothing of a client's answers its page faults. Asks that
    /// server, never the capability.
    fn is_memory(&mut self, dataspace: Cap) -> bool;
    /// What it is. Asks whoever stands behind it: only for one that is memory, trusted, or our own.
    fn info(&mut self, dataspace: Cap) -> Result<DataspaceInfo, L4Error>;
    /// Attaches the part of `len` bytes at `offset`, both multiples of a page, with all of its pages there from the start.
    /// It is detached when the last clone of the window's owner goes; the capability must stay until then.
    fn attach(&mut self, dataspace: Cap, offset: u64, len: usize, writable: bool) -> Result<Window, L4Error>;
    /// A new, zeroed dataspace of our own.
    fn allocate(&mut self, len: usize) -> Result<Cap, L4Error>;
    /// Whether there is memory left for what is not worth a question each time, as the heap. What a client asks for is refused
    /// without.
    fn has_reserve(&mut self) -> bool;
    /// Whether memory that was attached vanished since the last call. Windows onto it are marked as failed, and read as zeroes.
    fn vanished(&mut self) -> bool;
}
