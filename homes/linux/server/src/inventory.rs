//! What the server tells about itself: one document to whoever connects to `ctl`.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::UNIX_EPOCH;

use nvme_core::server::control::{Control, ControllerState};
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::now;
use nvme_linux::inventory;
use nvme_linux::inventory::{
    Access, Client, Controller, Inventory, Limits, Namespace, Partition, Peer, Session, State, VERSION,
    Worker,
};
use nvme_linux::memory::Trusted;
use nvme_linux::socket;
use nvme_session::factory::TableKind;
use nvme_session::memory::REGIONS_MAX;
use rustix::net::{SocketAddrUnix, getsockname};

use crate::audit::Audit;
use crate::counters;
use crate::seat::{Phase, Seat, Source};
use crate::worker::Handle;

/// A connection that is being told.
pub(crate) struct Introspection {
    socket: ClientFd,
    document: Vec<u8>,
    sent: usize,
}

impl Introspection {
    pub(crate) fn new(socket: OwnedFd, inventory: &Inventory) -> Self {
        let document = inventory.to_json().unwrap_or_default();
        Self { socket: ClientFd::new(socket), document, sent: 0 }
    }

    /// Sends what the socket takes; true when the connection is over.
    pub(crate) fn send(&mut self) -> bool {
        while let Some(rest) = self.document.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match socket::send(&self.socket, rest, &[]) {
                Ok(n) => self.sent += n,
                Err(e) => return e != rustix::io::Errno::AGAIN && e != rustix::io::Errno::INTR,
            }
        }
        true
    }
}

impl AsFd for Introspection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn peer(peer: socket::Peer) -> Peer {
    Peer { pid: peer.pid, uid: peer.uid, gid: peer.gid }
}

/// Where a seat's clients connect.
fn path(seat: &Seat) -> Option<String> {
    let Source::Listener(listener) = &seat.source else { return None };
    let name = SocketAddrUnix::try_from(getsockname(listener).ok()?).ok()?;
    Some(String::from_utf8_lossy(name.path_bytes()?).into_owned())
}

fn access(access: nvme_policy::Access) -> Access {
    match access {
        nvme_policy::Access::ReadOnly => Access::ReadOnly,
        nvme_policy::Access::ReadWrite => Access::ReadWrite,
    }
}

fn table(kind: TableKind) -> Option<String> {
    match kind {
        TableKind::None => None,
        TableKind::Gpt => Some("gpt".into()),
        TableKind::Mbr => Some("mbr".into()),
    }
}

fn worker(index: u32, handle: &Handle) -> Worker {
    let (busy, asleep) = handle.times();
    Worker { worker: index, busy_seconds: busy.as_secs_f64(), asleep_seconds: asleep.as_secs_f64() }
}

/// How often something happened that cannot, in control and in all drivers.
fn anomalies(control: &Control) -> u64 {
    let drivers = control.controllers().map(|(_, controller, _)| controller.anomalies());
    drivers.fold(control.anomalies().count(), u64::saturating_add)
}

/// The document of a server.
pub(crate) fn of(
    control: &Control,
    seats: &BTreeMap<u32, Seat>,
    trusted: &Trusted,
    audit: Option<&Audit>,
    workers: &[Handle],
) -> Inventory {
    let controllers = control.controllers().enumerate().map(|(index, (name, controller, state))| {
        let info = controller.info();
        let namespaces =
            control.catalogue().devices().filter(|(n, _)| usize::from(n.namespace().controller) == index);
        Controller {
            name: name.into(),
            serial: info.serial.as_str().into(),
            model: info.model.as_str().into(),
            firmware: info.firmware.as_str().into(),
            state: match state {
                ControllerState::Starting | ControllerState::Scanning => State::Starting,
                ControllerState::Serving => State::Ready,
                ControllerState::Recovering => State::Resetting,
                ControllerState::Lost | ControllerState::Down => State::Failed,
            },
            namespaces: namespaces
                .map(|(namespace, partitions)| Namespace {
                    nsid: namespace.namespace().nsid,
                    blocks: namespace.extent().blocks(),
                    block_size: namespace.extent().block_size().bytes() as u32,
                    read_only: namespace.read_only(),
                    table: table(namespace.table()),
                    partitions: partitions
                        .map(|p| Partition {
                            number: p.number,
                            uuid: p.id.to_string(),
                            label: p.label.as_str().into(),
                            first: p.extent.first(),
                            blocks: p.extent.blocks(),
                            read_only: p.read_only.is_some(),
                        })
                        .collect(),
                })
                .collect(),
            counters: counters::of_controller(controller, state == ControllerState::Serving),
        }
    });
    let sessions = seats.values().filter_map(|seat| {
        let session = control.session(seat.key?)?;
        let registry = session.registry();
        Some(Session {
            id: seat.key?.0,
            device: session.minted().device().to_owned(),
            name: seat.policy.tag().map(ToString::to_string),
            factory: session.minted().factory().number(),
            path: path(seat),
            since: seat.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            held: session.is_held(),
            access: access(session.minted().grant().access()),
            ds_max: seat.policy.ds_max().get().into(),
            dataspaces: registry.dataspaces() as u32,
            regions: registry.regions() as u32,
            registered: registry.bytes(),
            queues: session.running() as u32,
            client: seat.cap.clone(),
            connected: seat.conn.is_some(),
            peer: seat.conn.as_ref().and_then(|c| c.peer).or(seat.owner).map(peer),
            iops: session.rate().iops.map(NonZeroU64::get),
            bytes: session.rate().bytes.map(NonZeroU64::get),
            counters: counters::of(&session.counted(), registry.bytes()),
            by_queue: session
                .counted_by_queue()
                .filter_map(|(queue, counted)| counters::of_queue(queue, &counted))
                .collect(),
        })
    });
    let statics = seats.values().filter_map(|seat| {
        Some(Client {
            name: seat.cap.clone()?,
            device: seat.policy.device().to_string(),
            access: access(seat.policy.access()),
            present: seat.phase != Phase::Absent,
            connected: seat.conn.is_some(),
        })
    });
    let config = control.config();
    Inventory {
        version: VERSION,
        server: concat!("nvme-drv ", env!("CARGO_PKG_VERSION")).into(),
        pid: std::process::id(),
        scanning: !control.scanned(),
        controllers: controllers.collect(),
        sessions: sessions.collect(),
        clients: statics.collect(),
        trusted: trusted.names().map(str::to_owned).collect(),
        workers: (0..).zip(workers).map(|(index, handle)| worker(index, handle)).collect(),
        clock: now().as_nanos(),
        limits: Limits {
            sessions: config.sessions_max as u32,
            memory: config.memory_max,
            regions: REGIONS_MAX as u32,
            queues: u32::from(config.queues),
            workers: config.workers as u32,
        },
        audit: audit.map(|audit| inventory::Audit {
            head: audit.head().to_string(),
            required: audit.is_required(),
            failed: audit.failed().map(|why| why.to_string()),
        }),
        anomalies: anomalies(control),
    }
}
