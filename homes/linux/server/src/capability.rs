//! What the server's own sockets stand for.

use nvme_session::factory::FactoryId;

/// Of what one of the server's own sockets, whose other end somebody has, is the capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Capability {
    /// Of the session at that seat.
    Session(u32),
    /// Of a factory: its connection, or its lifetime.
    Factory(FactoryId),
}
