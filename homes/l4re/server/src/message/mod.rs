//! What clients say, and what they are answered: the protocols' words as types that can hold only what is valid.
//!
//! A message is 63 words at most, copied out of the buffer that it came in; the capability that came with it is not looked at
//! here. `meta`: what an object is. `words`: the arguments of `create`. `session`: L4virtio and its interrupts.

mod meta;
mod session;
mod words;

use heapless::Vec;
use nvme_l4re::kernel::{Cap, HandOut, L4Error, Message, Reply};
use nvme_policy::Errno;

pub use meta::{Interface, Meta};
pub use session::{Register, SessionCall};
pub use words::Words;

/// The protocol that every object speaks: which others it does (`L4::Meta`).
pub(crate) const META: i64 = -21;
/// `L4::Factory`.
pub(crate) const FACTORY: i64 = -15;
/// `L4virtio::Device`.
pub(crate) const VIRTIO: i64 = 0;
/// `L4::Icu`, and other interrupts.
pub(crate) const IRQ: i64 = -1;

/// What is asked of a factory: the server's own, or one that holds less.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FactoryCall {
    /// What it is.
    Meta(Meta),
    /// A session, by these words.
    Create(Words),
    /// A factory that holds less, by these words.
    Delegate(Words),
}

impl FactoryCall {
    /// What a factory's gate speaks, in the order in which it says so.
    pub const INTERFACES: &[Interface] = &[Interface { protocol: FACTORY, name: "N2L47FactoryE" }];

    /// Reads a message. Whoever has no S right is told what the object is, and no more.
    pub fn parse(message: &Message, special: bool) -> Result<Self, L4Error> {
        match message.protocol {
            META => Meta::parse(&message.words).map(Self::Meta),
            FACTORY if !special => Err(L4Error::PERM),
            FACTORY => match Words::parse(&message.words)? {
                (FACTORY, words) => Ok(Self::Delegate(words)),
                // The C++ original makes a session whatever the number is, and so do we.
                (_, words) => Ok(Self::Create(words)),
            },
            _ => Err(L4Error::BADPROTO),
        }
    }
}

/// An answer: a number, or an error.
pub(crate) fn number(label: i64) -> Reply {
    Reply { label, ..Reply::default() }
}

/// An error.
pub(crate) fn refusal(why: L4Error) -> Reply {
    number(why.0)
}

/// What the core's error numbers are to a client.
pub(crate) fn code(why: Errno) -> L4Error {
    L4Error((-why.number()).into())
}

/// Success, with words.
pub(crate) fn answer<const N: usize>(words: [u64; N]) -> Reply {
    Reply { label: 0, words: Vec::from_iter(words), cap: None }
}

/// Success, with a capability.
pub(crate) fn hand_out(mut reply: Reply, cap: Cap, rights: HandOut) -> Reply {
    reply.cap = Some((cap, rights));
    reply
}
