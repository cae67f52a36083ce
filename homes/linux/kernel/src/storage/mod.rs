//! Images as real storage: files and block devices behind the software controller, without anybody waiting for them.
//!
//! ```text
//! a descriptor ─ facts ─► Image ─► Stored ─┬─ window: memory (tmpfs), copied; a page that cannot be had costs its request
//!                                          ├─ ring: io_uring, one for each worker, made at start and restricted
//!                                          └─ threads: helpers with preadv and pwritev
//! ```
//!
//! * [`facts`]: what the kernel says of a file or a device: size, block size, alignment. [`holder`]: who else has it.
//! * [`image`]: an [`Image`], with what is known of it. `stored`: which engine a request goes to; the software controller sees that as
//!   [`Storage`](nvme_soft::Storage).
//! * `task`: one request as the calls it takes, with what follows from each answer. The same for both engines.
//! * `ring` with its `entries`, `helpers`: who makes the calls. `window`: who needs none.
//! * `question`: how large an image is, where somebody has to be asked. `room`: who waits for something of it to end. `letting_go`: the end of rings.
//! * `rest`: when a thread sleeps on though something came back, since much is under way.
//! * `pinned`: client memory that a ring knows as fixed buffers, where the operator wants that.
//! * `durable`: flushes, one at a time for each image; one that fails is remembered.
//! * [`station`]: a thread's place in all this: its ring, and the bell that wakes it.

mod durable;
mod engine;
mod entries;
pub mod facts;
mod helpers;
pub mod holder;
mod image;
mod letting_go;
mod pinned;
mod question;
mod rest;
mod ring;
mod room;
pub mod station;
mod stored;
mod task;
mod window;

pub use engine::Engine;
pub use image::{Image, ImageOptions, OpenError};
pub use letting_go::LettingGo;
pub use question::Question;
pub use ring::{Rings, RingsError, Seed};
pub use stored::Stored;
