//! Sockets: listening ones, and the factory's wire format.

mod channel;
mod factory;
mod listening;
