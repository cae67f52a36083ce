//! `nvme-ctl ls`.

use std::fs::File;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nvme_linux::inventory::{Inventory, LENGTH_MAX};
use nvme_linux::standard::print;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;

use crate::failure::Failure;
use crate::server::{LOOK_EVERY, Place, connect, factory};
use crate::tree;

/// How long the server may take to go on with its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what a factory holds, and what was minted through it.
pub(crate) fn held(place: &Place, json: bool) -> Result<(), Failure> {
    let listing = factory(place)?.list().map_err(|refusal| Failure::refused("list", &refusal))?;
    let text = if json { listing.to_json() + "\n" } else { tree::held(&listing) };
    print(text.as_bytes()).map_err(|error| error.to_string().into())
}

/// What the server tells about itself.
pub(crate) fn fetch(place: &Place) -> Result<Inventory, Failure> {
    inventory(&document(place)?)
}

fn inventory(document: &[u8]) -> Result<Inventory, Failure> {
    Inventory::from_json(document).map_err(|error| format!("the server's answer: {error}").into())
}

/// The same, as it came.
fn document(place: &Place) -> Result<Vec<u8>, Failure> {
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
    Ok(document)
}

/// Prints what the server tells about itself; after the scan, if there is time to wait for it.
pub(crate) fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let until = Instant::now() + place.wait;
    let document = loop {
        let document = document(place)?;
        let scanning = inventory(&document).is_ok_and(|inventory| inventory.scanning);
        if !scanning || Instant::now() >= until {
            break document;
        }
        thread::sleep(LOOK_EVERY);
    };
    let text =
        if json { document } else { tree::text(&inventory(&document)?, SystemTime::now()).into_bytes() };
    print(&text).map_err(|error| error.to_string().into())
}
