//! The service manager, if there is one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nvme_linux::standard::complain;

/// Tells the service manager, if there is one, that clients may come (sd_notify(3)).
pub(crate) fn tell_ready() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let tell = || -> std::io::Result<usize> {
        let socket = UnixDatagram::unbound()?;
        match place.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&place)?,
        }
        socket.send(b"READY=1")
    };
    if let Err(error) = tell() {
        complain(format_args!("nvme-ctl: NOTIFY_SOCKET={}: {error}", place.display()));
    }
}
