//! The server: both roles and the kernel, on one thread.
//!
//! * `turn`: what is done between two messages, and how long the next one is waited for.
//! * `calls`: what clients ask, and what they are answered; `pending`: those that take time, `patience`: how long. `create`: sessions come, and go. `factories`: likewise.
//! * `device`: a session as an L4virtio device: status and queue. `memory`: what it registers. `taken`: what is taken from it.
//! * `events`: what control says became of it. `lines`: what there is, for the operator. `stats`: what sessions did.
//!
//! A call that takes time is *pending*: its caller is kept, and it is asked again whenever something happened, until there is an answer.
//! Everything else goes on; only further calls of the same session wait for it, and each has a deadline. (A kernel that was built
//! without places for callers remembers one, and forgets it at the next receive. There a pending call is *held*: nothing is received
//! meanwhile, and rings and controllers are polled without kicks and interrupts.)

mod calls;
mod create;
mod device;
mod events;
mod factories;
mod lines;
mod memory;
mod patience;
mod pending;
mod stats;
mod taken;
mod turn;

use alloc::string::String;
use alloc::sync::Weak;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::time::Duration;

use nvme_core::server::Polling;
use nvme_core::server::control::Control;
use nvme_core::server::worker::Worker;
use nvme_l4re::kernel::{Cap, Message, Reply};
use nvme_platform::{Owner, Time};
use nvme_policy::{CommandLine, Policy};
use nvme_session::factory::FactoryId;
use slab::Slab;

use self::calls::Fresh;
use self::factories::Posts;
use self::lines::Seen;
use self::pending::{Kept, Pending};
use self::stats::Stats;
use crate::label::{SLOTS, Source};
use crate::news::News;
use crate::output::Lines;
use crate::session::Session;
use crate::{Controller, Hardware, Interrupt, Kernel, Output, StartError, Tuning};

/// How long calls to the factory wait for the scan before they are refused.
const SCAN_WAIT: Duration = Duration::from_secs(30);

/// The server. [`run`](Self::run) it, or take it [turn](Self::turn) by turn.
pub struct Server<K, O> {
    kernel: K,
    lines: Lines<O>,
    control: Control,
    worker: Worker,
    interrupts: Vec<Interrupt>,
    /// Interrupts that were delivered and are masked.
    masked: Vec<usize>,
    /// When control wants to be called though nothing happens.
    control_at: Option<Time>,
    polling: Polling,
    last_work: Time,
    last_look: Time,
    /// When dataspaces were last asked for, and the session that is next.
    last_asked: Time,
    next_asked: usize,
    /// Those of static clients come first, and stay.
    sessions: Slab<Session>,
    serial: u32,
    news: News,
    /// Sessions whose drivers choose the cache mode while their queues run.
    modes: Vec<usize>,
    /// Sessions whose memory changes though no call waits for it.
    restoring: Vec<usize>,
    /// Dataspaces that nobody registers any more, until nothing of them is attached.
    leaving: Vec<(Cap, Vec<Weak<Owner>>)>,
    /// The names of dataspaces are not used again.
    next_dataspace: u64,
    /// Calls that wait, and when one of them is to be asked again though nothing happens; when they were asked last.
    kept: Vec<Kept>,
    kept_at: Option<Time>,
    asked_at: Time,
    /// Whether something happened that they may have waited for.
    stirred: bool,
    /// The one call that waits where callers are not kept.
    held: Option<Pending>,
    /// What was said last. What a call brought is taken from it at once.
    message: Message,
    /// To be given with the next receive.
    reply: Option<Reply>,
    /// What is new, and goes with it.
    minted: Option<Fresh>,
    trusted: Vec<Cap>,
    /// Their names, in the same order.
    trusted_names: Vec<String>,
    /// Attenuated factories.
    posts: Posts,
    slots_max: usize,
    factory: Option<Cap>,
    /// When factories are served though the scan is not over; none when they are served.
    factory_at: Option<Time>,
    seen: Seen,
    stats: Stats,
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// Checks what the server was started with, and reserves the static clients' devices.
    pub fn new(
        mut kernel: K,
        output: O,
        line: &CommandLine<'_>,
        hardware: Hardware,
        tuning: &Tuning,
    ) -> Result<Self, StartError> {
        let factory = kernel.named("svr");
        let has_factories = line.factories().next().is_some();
        if factory.is_none() && line.clients.is_empty() && !has_factories {
            return Err(StartError::Nobody);
        }
        let trusted_names = line.trusted.iter().map(|name| (*name).into()).collect();
        let named = |name: &str| kernel.named(name).ok_or_else(|| StartError::NoDataspace(name.into()));
        let trusted = line.trusted.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?;
        let mut control = Control::new(tuning.config(line));
        let mut clients: Vec<(String, Cap, Policy)> = Vec::new();
        for client in &line.clients {
            let name: String = client.cap.into();
            let Some(gate) = kernel.named(client.cap) else { return Err(StartError::NoClient(name)) };
            match control.catalogue_mut().reserve(&client.policy) {
                Ok(_) => clients.push((name, gate, client.policy.clone())),
                Err(why) => return Err(StartError::NotReserved(name, why)),
            }
        }
        let nothing = hardware.controllers.is_empty();
        for Controller { name, device, pci } in hardware.controllers {
            control.add_pci_device(&name, device, pci, None);
        }
        let deletion = kernel.irq(Source::Deletion.label());
        let deletion = deletion.and_then(|irq| kernel.raise_on_deletion(irq));
        deletion.map_err(|why| StartError::Kernel("the interrupt of the deletion of gates", why))?;
        let now = kernel.now();
        let masked = Vec::with_capacity(hardware.interrupts.len());
        let mut server = Self {
            kernel,
            lines: Lines::new(output),
            control,
            worker: Worker::new(tuning.poll),
            interrupts: hardware.interrupts,
            masked,
            control_at: Some(now),
            polling: Polling::new(tuning.poll),
            last_work: now,
            last_look: now,
            last_asked: now,
            next_asked: 0,
            sessions: Slab::new(),
            serial: 0,
            news: News::new(SLOTS),
            modes: Vec::with_capacity(SLOTS),
            restoring: Vec::new(),
            leaving: Vec::new(),
            next_dataspace: 0,
            kept: Vec::new(),
            kept_at: None,
            asked_at: now,
            stirred: false,
            held: None,
            message: Message::default(),
            reply: None,
            minted: None,
            trusted,
            trusted_names,
            posts: Posts::new(),
            slots_max: tuning.slots_max,
            factory,
            factory_at: (factory.is_some() || has_factories).then(|| now + SCAN_WAIT),
            seen: Seen::default(),
            stats: Stats::new(now),
        };
        for (name, gate, policy) in clients {
            let session = server.new_session(Some((name.clone(), gate)), policy, FactoryId::SERVER);
            session.map_err(|why| StartError::Kernel("the objects of a static client", why))?;
        }
        for (cap, asked) in line.factories() {
            server.fixed_factory(cap, &asked)?;
        }
        if nothing {
            // There is nothing to wait for.
            server.control.catalogue_mut().set_scanned();
            server.scan_over();
        }
        Ok(server)
    }

    /// Serves, for ever.
    pub fn run(mut self) -> Infallible {
        loop {
            self.turn();
        }
    }
}
