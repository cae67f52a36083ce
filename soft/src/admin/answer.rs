//! What an admin command comes to.

/// What an admin command comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It completes, with this in dword 0.
    Done(u32),
    /// It completes when something happens.
    Later,
    /// It is to be executed again when something has ended.
    Again,
}
