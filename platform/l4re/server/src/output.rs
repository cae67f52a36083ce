//! What the operator reads.

use core::fmt;

/// What kind of line it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be, or was refused.
    Warn,
    /// What an integrator looks for: what there is. Printed unless the server is told to be quiet, without anything in front.
    Plain,
    /// What happens (`-v`).
    Info,
}

/// Where lines go. Which levels are printed is its own affair. Nothing on the data path says anything.
pub trait Output {
    /// Prints one line.
    fn line(&mut self, level: Level, line: fmt::Arguments<'_>);
}
