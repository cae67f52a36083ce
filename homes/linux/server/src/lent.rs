//! What a client of a session is served with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme_core::server::control::Control;
use nvme_linux::memory::Trusted;
use nvme_linux::socket::Cookie;
use nvme_platform::Time;

use crate::capability::Capability;
use crate::regions::Found;
use crate::worker;

/// What the server lends to a client while it works.
pub(crate) struct Lent<'a> {
    pub(crate) control: &'a mut Control,
    pub(crate) workers: &'a [worker::Handle],
    pub(crate) trusted: &'a Arc<Trusted>,
    /// Where lanes say what they found.
    pub(crate) found: &'a Sender<Found>,
    /// Which seat is served.
    pub(crate) seat: u32,
    /// The sockets that are capabilities of the server's.
    pub(crate) capabilities: &'a BTreeMap<Cookie, Capability>,
    /// Whether the files of clients' memory are kept, since another server may take over.
    pub(crate) keeps: bool,
    /// Whether what is in flight is kept, in case that the server is killed.
    pub(crate) stores: bool,
    pub(crate) now: Time,
}
