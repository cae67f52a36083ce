//! The server: both roles and the kernel, on one thread.
//!
//! * `turn`: what is done between two messages, and how long the next one is waited for.

mod turn;

use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;

use nvme_drv::server::control::Control;
use nvme_drv::server::worker::Worker;
use nvme_l4re::kernel::Cap;
use nvme_platform::Time;
use nvme_policy::{CommandLine, Policy};

use crate::polling::Polling;
use crate::{Controller, Hardware, Interrupt, Kernel, Output, StartError, Tuning};

/// A static client, as the command line names it.
struct StaticClient {
    name: String,
    gate: Cap,
    policy: Policy,
}

/// The server. [`run`](Self::run) it, or take it [turn](Self::turn) by turn.
pub struct Server<K, O> {
    kernel: K,
    output: O,
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
    clients: Vec<StaticClient>,
    trusted: Vec<Cap>,
    factory: Option<Cap>,
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// Checks what the server was started with, and reserves the static clients' devices.
    pub fn new(
        kernel: K,
        output: O,
        line: &CommandLine<'_>,
        hardware: Hardware,
        tuning: &Tuning,
    ) -> Result<Self, StartError> {
        let factory = kernel.named("svr");
        if factory.is_none() && line.clients.is_empty() {
            return Err(StartError::Nobody);
        }
        let named = |name: &str| kernel.named(name).ok_or_else(|| StartError::NoDataspace(name.into()));
        let trusted = line.trusted.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?;
        let mut control = Control::new(tuning.config(line));
        let mut clients = Vec::new();
        for client in &line.clients {
            let name: String = client.cap.into();
            let Some(gate) = kernel.named(client.cap) else { return Err(StartError::NoClient(name)) };
            match control.catalogue_mut().reserve(&client.policy) {
                Ok(_) => clients.push(StaticClient { name, gate, policy: client.policy.clone() }),
                Err(why) => return Err(StartError::NotReserved(name, why)),
            }
        }
        for Controller { name, device, pci } in hardware.controllers {
            control.add_pci_device(&name, device, pci);
        }
        let now = kernel.now();
        let masked = Vec::with_capacity(hardware.interrupts.len());
        Ok(Self {
            kernel,
            output,
            control,
            worker: Worker::new(tuning.poll),
            interrupts: hardware.interrupts,
            masked,
            control_at: Some(now),
            polling: Polling::new(tuning.poll),
            last_work: now,
            last_look: now,
            clients,
            trusted,
            factory,
        })
    }

    /// Serves, for ever.
    pub fn run(mut self) -> Infallible {
        loop {
            self.turn();
        }
    }
}
