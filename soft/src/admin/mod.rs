//! Admin commands (NVM Express Base 1.4, 5), each from its entry to its answer.
//!
//! * `commands`: which opcode is which. `answer`: what a command comes to. `nature`: what the controller is, and stays.
//! * `identify`: Identify.
//! * `queues`: Create and Delete I/O queues.
//! * `features`: Set and Get Features.
//! * `log`: log pages.
//! * `events`: asynchronous events.

mod answer;
mod commands;
mod events;
mod features;
mod identify;
mod log;
mod nature;
mod queues;

pub(crate) use answer::Answer;
pub(crate) use events::Events;
pub(crate) use features::Features;
pub use log::Health;
pub(crate) use log::Logs;
pub(crate) use nature::Nature;
