//! Where windows are, and how many there may be.

/// Windows that may be mapped at once, in the whole process.
pub const WINDOWS_MAX: usize = 1 << 16;

/// A mapping: `len` bytes at `base` in pages of `block` bytes.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) base: usize,
    pub(super) len: usize,
    pub(super) block: usize,
    pub(super) writable: bool,
}
