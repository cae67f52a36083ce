//! `nvme-ctl ls`.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use nvme_linux::inventory::{Inventory, LENGTH_MAX};
use nvme_linux::standard::print;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;

use crate::failure::Failure;
use crate::server::{Place, connect, factory};
use crate::tree;

/// How long the server may take to go on with its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what a factory holds, and what was minted through it.
pub(crate) fn held(place: &Place, json: bool) -> Result<(), Failure> {
    let listing = factory(place)?.list().map_err(|refusal| Failure::refused("list", &refusal))?;
    let text = if json { listing.to_json() + "\n" } else { tree::held(&listing) };
    print(text.as_bytes()).map_err(|error| error.to_string().into())
}

/// Prints what the server tells about itself.
pub(crate) fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let socket = connect(place, SocketType::STREAM)?;
    let _ = rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE));
    let mut document = Vec::new();
    let received = File::from(socket).take(LENGTH_MAX).read_to_end(&mut document);
    received.map_err(|error| match error.kind() {
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
    print(&text).map_err(|error| error.to_string().into())
}
