//! Sockets: listening ones, and the factory's wire format.

mod factory;
mod listening;
