//! The judges. None of them knows anything of `policy` or `session`: they are told in plain numbers what clients asked for, what they were
//! granted and told, and they see what goes over the bus.
//!
//! * [`colour`](court): whose memory a command may touch, and which blocks; `bus` is the controllers' side of its books.
//! * [`model`]: what a block may be read as.
//! * [`rate`]: how much somebody may have been answered.
//! * [`register`]: which memory a session may have.
//! * [`titles`]: what may be had of disks, and by which names.
//! * `life` and `authority` are questions that the world asks at certain moments; what they are about is in [`Finding`].

mod bus;
pub(crate) mod court;
pub(crate) mod model;
pub(crate) mod rate;
pub(crate) mod register;
pub(crate) mod titles;
mod walk;

use std::fmt;

/// Who found something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Judge {
    /// A transfer went where its session has no business.
    Colour,
    /// A block was read as something that it cannot be, or a request was answered wrongly.
    Model,
    /// Something does not end, or is held after its end.
    Life,
    /// Somebody has more than it was given.
    Authority,
    /// The server itself says that something cannot happen, or panics.
    Itself,
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Who says so.
    pub judge: Judge,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.judge, self.what)
    }
}
