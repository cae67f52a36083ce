//! The software controller, driven by hand: registers written, entries built, completions read.

mod admin;
mod bring_up;
mod data;
mod driver;
mod faults;
mod features;
mod identify;
mod io;
mod queues;
mod resident;
mod stored;
mod threads;
