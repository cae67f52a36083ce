//! From the arguments to the server.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use nvme_core::nvme::PciId;
use nvme_core::nvme::quirks::BROKEN_MSI;
use nvme_l4re::bus::{self, Skipped};
use nvme_l4re::kernel::{Capabilities, L4Error};
use nvme_l4re::sys::{self, Kernel};
use nvme_l4re_server::{
    Controller, Hardware, Interrupt, Level, Output, Server, StartError, Tuning, interrupt_label,
};
use nvme_policy::command_line::{CommandLine, Dialect, OptionError};

use crate::output::Lines;

/// Why there is nothing to serve.
enum Failure {
    Options(OptionError),
    NoBus,
    Bus(L4Error),
    Start(StartError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(why) => why.fmt(f),
            Self::NoBus => f.write_str("there is no capability vbus; give it in the caps"),
            Self::Bus(why) => write!(f, "vbus: {why}"),
            Self::Start(why) => why.fmt(f),
        }
    }
}

/// Serves, for ever. Comes back only with what kept it from that.
pub(crate) fn run(arguments: Vec<&str>) -> i32 {
    let started = start(&arguments);
    // Nothing is kept that starting alone needed.
    drop(arguments);
    match started {
        Ok(mut server) => loop {
            server.turn();
            #[cfg(feature = "defmt")]
            crate::frames::flush();
        },
        Err(why) => {
            sys::line(format_args!("nvme-drv: {why}"));
            1
        }
    }
}

fn start(arguments: &[&str]) -> Result<Server<Kernel, Lines>, Failure> {
    let line = CommandLine::parse(arguments.iter().copied(), Dialect::COMMON).map_err(Failure::Options)?;
    let mut lines = Lines::start(line.verbosity);
    let kernel = Kernel::new();
    let vbus = kernel.named("vbus").ok_or(Failure::NoBus)?;
    let platform = kernel.bus(vbus).map_err(Failure::Bus)?;
    let options = bus::Options { nomsi: line.nomsi, nomsix: line.nomsix, broken_msi: BROKEN_MSI };
    let hardware = hardware(&platform, options, &mut lines).map_err(Failure::Bus)?;
    Server::new(kernel, lines, &line, hardware, &Tuning::default()).map_err(Failure::Start)
}

/// Takes what is on the bus.
fn hardware(platform: &sys::Hardware, options: bus::Options, lines: &mut Lines) -> Result<Hardware, L4Error> {
    let mut hardware = Hardware::default();
    let interrupts = &mut hardware.interrupts;
    let mut label = || {
        interrupts.push(Interrupt { admin: false, unmask: None });
        interrupt_label(interrupts.len() - 1)
    };
    let found = bus::find(platform, options, &mut label)?;
    for controller in found {
        let mut found = match controller {
            Ok(found) => found,
            Err(Skipped { handle, why }) => {
                lines.line(Level::Error, format_args!("device {:#x}: {why}; it is left alone", handle.0));
                continue;
            }
        };
        let name = format!("device {:#x}", found.handle.0);
        let (mode, count) = (found.interrupts.mode(), found.interrupts.count());
        lines.line(Level::Info, format_args!("{name}: {mode}, {count} vectors"));
        let unmask = found.interrupts.take_unmask();
        let first = found.interrupts.labels().first().copied();
        let all = hardware.interrupts.iter_mut().enumerate();
        let own = all.into_iter().find(|(at, _)| Some(interrupt_label(*at)) == first);
        if let Some((_, interrupt)) = own {
            interrupt.admin = true;
            if let Some(unmask) = unmask {
                interrupt.unmask = Some(Box::new(unmask));
            }
        }
        let (vendor, device) = found.id;
        let pci = Some(PciId { vendor, device });
        hardware.controllers.push(Controller { name, device: Box::new(found.device), pci });
    }
    if hardware.controllers.is_empty() {
        lines.line(Level::Warn, format_args!("there is no NVMe controller on the vbus"));
    }
    Ok(hardware)
}
