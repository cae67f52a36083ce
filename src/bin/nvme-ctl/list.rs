//! `nvme-ctl ls`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nvme_linux::inventory::{Inventory, LENGTH_MAX};
use rustix::net::sockopt::Timeout;
use rustix::net::{RecvFlags, SocketType};

use crate::Failure;
use crate::server::{Place, connect};
use crate::tree;

/// How long the server may take to go on with its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what the server tells about itself.
pub(crate) fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let (socket, kind) = connect(place, &[SocketType::STREAM, SocketType::SEQPACKET])?;
    let _ = rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE));
    let document = receive(socket, kind).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => "the server does not answer".to_owned(),
        _ => format!("the server's answer: {error}"),
    })?;
    if document.is_empty() {
        return Err("the server closed without an answer; its log says why".to_owned().into());
    }
    let text = if json {
        document
    } else {
        let inventory =
            Inventory::from_json(&document).map_err(|error| format!("the server's answer: {error}"))?;
        tree::text(&inventory).into_bytes()
    };
    match io::stdout().lock().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string().into()),
        _ => Ok(()),
    }
}

/// Everything until the server closes.
fn receive(socket: OwnedFd, kind: SocketType) -> io::Result<Vec<u8>> {
    let mut document = Vec::new();
    if kind == SocketType::STREAM {
        File::from(socket).take(LENGTH_MAX).read_to_end(&mut document)?;
        return Ok(document);
    }
    // A packet that does not fit would be cut: room for the largest.
    let mut packet = vec![0; 1 << 20];
    loop {
        let (length, whole) = rustix::net::recv(&socket, &mut packet, RecvFlags::TRUNC)?;
        let bytes = packet.get(..length).filter(|_| whole == length);
        let bytes = bytes.ok_or_else(|| io::Error::other("a packet is too long"))?;
        if bytes.is_empty() || document.len() as u64 + bytes.len() as u64 > LENGTH_MAX {
            return Ok(document);
        }
        document.extend_from_slice(bytes);
    }
}
