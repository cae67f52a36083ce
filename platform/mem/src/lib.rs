//! Windows onto memory that somebody else can change at any time.
//!
//! A [`Window`] is a range of bytes that a client, a controller or another thread may read and write while we
//! do. It never becomes a Rust reference: everything goes through bounds-checked copies, 16- and 32-bit atomics
//! and values that are read exactly once. The home makes windows (that is the `unsafe` part); everybody else
//! narrows them with [`Window::sub`].
//!
//! What is read from a window is only a claim of whoever can write it. Parse it into a type that can hold
//! nothing invalid, and never read it a second time.
//!
//! # Why this is sound
//!
//! Each `unsafe` block here rests on some of the following statements, and says on which. The first three are ordinary. The fourth is about
//! accesses that race, for which Rust has no rule yet that fits.
//!
//! **M1, mapped.** The `len` bytes at `base` stay mapped, with the access that the window's maker promised to [`Window::new`], until the last
//! clone of the owner is gone. Each window has such a clone, a part of a window too; what is shorter-lived ([`Entries`], the references to
//! atomics) borrows the window; a [`Table`] has its own. Where the memory behind a mapping can vanish, its home puts other memory in the same place and marks the
//! owner ([`Owner::fail`]): the addresses stay valid, and what is read there is any bytes, which is M4's case.
//!
//! **M2, inside.** Every pointer comes from `Window::at`, which checks that offset and length do not wrap and end inside the window, or is
//! stepped on from such a pointer inside the length that was checked with it (a [`Table`] keeps both). Where an address has to be aligned, it is checked as an address:
//! windows may begin anywhere.
//!
//! **M3, no reference.** No Rust reference to a window's bytes exists: its maker promised that there is none, and nothing here makes one, but
//! for references to atomics, which stay inside one call and exclude no other writer. So a slice that a caller hands us lies in no window,
//! and a copy between the two cannot overlap; and the compiler knows of no exclusive owner on whose behalf it could move or repeat an access.
//!
//! **M4, races.** Others write while we read, and the other way round. Who they are decides what that means:
//!
//! * *A guest, a controller, another process* are no part of the program that Rust's memory model speaks of. To the compiler they are what a
//!   device is to a driver: memory that changes at times it cannot see. All windows are mappings or allocations whose address is known
//!   outside of this program (to the kernel, an IOMMU, a client), so it has to allow for that.
//! * *Another thread of this process* (a software controller's, or one that serves another queue of the same client) does race by the model's
//!   letter where either of us copies without atomics. A client can bring that about, by two requests for the same bytes. We accept it for
//!   bytes alone, as everyone does who shares memory with a guest, and make sure of what follows from it:
//!   1. *Any bytes are a valid result.* Copies have the type `u8`, or a type that is [`FromBytes`](zerocopy::FromBytes). A torn copy is some
//!      mixture of what was there, never an invalid value, and never uninitialised: mappings begin as zeroes or as a file.
//!   2. *What was copied is read once.* Values are read with volatile accesses, each byte once; the compiler may neither leave one out
//!      nor do it again. [`Window::read`] is an ordinary copy, which the compiler could in principle take back and read the source in its
//!      place when the copy is looked at; a fence behind it forbids that: as far as the compiler knows, the source is another's from there on.
//!   3. *Nothing is decided by a copy that races.* Order between us and others is made by the atomics alone: `load16`, `store16` and their
//!      kind carry Acquire and Release, and the bytes that an index publishes are read after it. What a hostile writer changes in spite of that
//!      is its own data.
//! * *Atomics of several widths* lie on the same bytes (an entry is two words of 64 bits to us, and whatever it likes to the other side). Each is
//!   an aligned, single access on every machine that this runs on. The model leaves such mixtures open; hardware, and compilers that serve
//!   it, do not.
//!
//! When Rust gains a copy that is atomic by the byte, `read`, `write`, `fill` and `copy_to` become that, and the second point goes.
// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![forbid(clippy::disallowed_methods)]
#![no_std]

extern crate alloc;

mod entry;
mod heap;
mod owner;
mod table;
mod window;

pub use entry::Entries;
pub use heap::heap;
pub use owner::Owner;
pub use table::Table;
pub use window::{OutOfBounds, Window};
