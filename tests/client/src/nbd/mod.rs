//! A device of a vhost-user-blk server as a network block device, for programs that speak NBD and no vhost-user, as fio.
//!
//! | module | what |
//! | --- | --- |
//! | `handshake` | what a connection begins with: options, size, flags |
//! | `serve` | requests, as many at a time as there are buffers |
//!
//! Numbers are those of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md).

mod handshake;
mod serve;

use std::os::unix::net::UnixListener;

use crate::{Client, Result};

/// The longest read or write, in bytes.
pub const LEN_MAX: u32 = 256 << 10;
/// Requests at a time.
pub const DEPTH: u16 = 32;

/// Serves connections one after the other, until the device's server is gone.
pub fn serve(client: &mut Client, listener: &UnixListener) -> Result<()> {
    let mut buffers = Vec::new();
    for _ in 0..DEPTH {
        buffers.push(client.memory.alloc(LEN_MAX.into(), 4096)?);
    }
    loop {
        let (connection, _) = listener.accept()?;
        let connection = connection.into();
        if handshake::shake(&connection, client)? {
            serve::requests(client, &connection, &buffers)?;
        }
    }
}
