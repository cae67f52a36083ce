//! Fuzz targets, each a function from bytes that panics when a promise is broken.
//!
//! `cargo +nightly fuzz run TARGET` runs one for as long as one likes (README.md); each bug that it finds is mended together with a
//! file in `corpus/TARGET`. `tests/fuzz_corpus.rs` of the project runs all files there with the stable compiler.
#![forbid(unsafe_code)]

mod disk;
mod l4re;
mod linux;
mod policy;
mod sim;
mod vhost;
mod virtqueue;

pub use disk::gpt;
pub use l4re::l4re;
pub use linux::{cap_word, factory, handover};
pub use policy::{command_line, device_name, extent, factory_words, policy_words};
pub use sim::simulator;
pub use vhost::vhost;
pub use virtqueue::virtqueue;
