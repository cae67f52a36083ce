//! What a client may do.
//!
//! * [`extent`]: places on disk. An [`Extent`] is what a session was given; only it makes an [`LbaRange`], the proof
//!   that a command stays inside.
//! * [`grant`]: an extent with the right to read it, or to read and write it. Only it makes a [`WritePermit`], the
//!   proof that a command may change the disk.
#![no_std]
#![forbid(unsafe_code)]

pub mod extent;
pub mod grant;

pub use extent::{BlockSize, Extent, LbaRange, Namespace, NotConfined};
pub use grant::{Access, Grant, ReadOnly, WritePermit};
