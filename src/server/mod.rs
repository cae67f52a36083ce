//! The server: two roles that own everything, and the messages between them.
//!
//! * [`control::Control`] owns controllers, the catalogue of devices, and sessions. The home tells it what clients
//!   ask for; it answers with [`control::Event`]s, and sends [`message::ToWorker`]s.
//! * [`worker::Worker`] owns virtqueues and queue pairs, and moves requests.
//!
//! [`Limits`] bound what a session may do a second. [`Polling`] tells a home how long to poll before it sleeps.
//!
//! Both are plain state machines: the home calls them, gives them the time, and carries their messages. Whether they run on one
//! thread or on several is the home's choice.

pub mod control;
mod limits;
pub mod message;
mod polling;
pub mod worker;

pub use limits::{Limits, Pool};
pub use polling::Polling;
