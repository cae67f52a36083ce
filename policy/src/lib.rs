//! What a client may do. No allocation; nothing here reads twice or waits.
//!
//! * [`words`]: the words of `create()` become a request, or a [`Refusal`] that names the word. [`ceiling`]: what a factory may give at
//!   most. Only a [`Ceiling`] makes a [`Policy`] of a request.
//! * [`limits`]: rates, counts, sets of trusted dataspaces, names for listings. [`bucket`], [`mod@line`]: how much may be done a second, and
//!   whose turn it is.
//! * [`command_line`]: options, among them those of static clients, which become policies by the same rules.
//! * [`device`]: a [`DeviceName`] is what a word calls a device; it is held against an [`Identity`].
//! * [`partition`]: what a device is known by: serial number, partition identifier, label. [`place`]: where its controller is.
//! * [`errno`]: the numbers that refusals have on the wire.
//! * [`number`], [`shown`]: numbers in words; words of others made fit for a message.
//! * [`extent`]: places on disk. An [`Extent`] is what a session was given; only it makes an [`LbaRange`], the proof
//!   that a command stays inside.
//! * [`grant`]: an extent with the right to read it, or to read and write it. Only it makes a [`WritePermit`], the
//!   proof that a command may change the disk.
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
#![cfg_attr(not(test), forbid(clippy::disallowed_methods))]
#![no_std]
#![forbid(unsafe_code)]

pub mod bucket;
pub mod ceiling;
pub mod command_line;
pub mod device;
pub mod errno;
pub mod extent;
pub mod grant;
pub mod limits;
pub mod line;
pub mod number;
pub mod partition;
pub mod place;
pub mod shown;
pub mod words;

pub use bucket::Bucket;
pub use ceiling::Ceiling;
pub use command_line::{CommandLine, Dialect, OptionError};
pub use device::{DeviceName, NoName};
pub use errno::Errno;
pub use extent::{BlockSize, Extent, LbaRange, Namespace, NotConfined};
pub use grant::{Access, Grant, ReadOnly, WritePermit};
pub use limits::{DATASPACES_MAX, DEVICES_MAX, Dataspaces, DsMax, Rate, Tag};
pub use partition::{Identity, Label, NoLabel, PartitionId, PartitionIdentity, Serial};
pub use place::PciPlace;
pub use shown::Shown;
pub use words::{FactoryRequest, Policy, Refusal, SessionRequest, Trusted, Why};
