//! Which kind of interrupt a controller gets: MSI-X, else MSI, else its pin.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use super::messages::{Enabled, Msi, Msix};
use super::pci::{COMMAND_NO_PIN, Function, PciError};
use super::traits::{Line, Message, Platform};
use crate::kernel::{L4Error, Label};

/// Vectors of one controller: the admin queue's, and one for all pairs. A single thread serves them, which gains nothing from
/// more, and the bus has few.
const VECTORS: u32 = 2;

/// What the operator chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Do not use MSI.
    pub nomsi: bool,
    /// Do not use MSI-X.
    pub nomsix: bool,
    /// Devices (vendor and device) whose MSI never fires.
    pub broken_msi: &'static [(u16, u16)],
}

impl Options {
    /// For a function of that vendor and device.
    pub(super) fn of(self, id: (u16, u16)) -> Self {
        Self { nomsi: self.nomsi || self.broken_msi.contains(&id), ..self }
    }
}

/// How a controller interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// MSI-X.
    MsiX,
    /// MSI.
    Msi,
    /// Its pin.
    Pin,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MsiX => "MSI-X",
            Self::Msi => "MSI",
            Self::Pin => "INTx",
        })
    }
}

/// The interrupts of one controller, which report to the server thread.
pub struct Interrupts {
    mode: Mode,
    labels: Vec<Label>,
    /// Lets a pin come again.
    unmask: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Interrupts {
    /// How it interrupts.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many vectors there are; at least 1.
    pub fn count(&self) -> u16 {
        self.labels.len() as u16
    }

    /// The label of each vector.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// For a pin that is masked each time that it interrupts: what lets it come again. To be called when all queues of the
    /// controllers on that pin were looked at. `None` for all others, and for a pin that an earlier controller has.
    pub fn take_unmask(&mut self) -> Option<Box<dyn Fn() + Send + Sync>> {
        self.unmask.take()
    }
}

/// The pins that were bound, with the labels they report under: controllers may share one.
pub(super) type Pins = BTreeMap<u32, Label>;

/// The message-signalled interrupts of the bus, as they are given out.
pub(super) struct Messages {
    next: u32,
    end: u32,
}

impl Messages {
    pub(super) fn new(count: u32) -> Self {
        Self { next: 0, end: count }
    }

    /// What one of `controllers` that are still to come may have.
    fn share(&self, controllers: u32) -> u32 {
        let left = self.end - self.next;
        (left / controllers.max(1)).clamp(left.min(1), VECTORS)
    }
}

/// What was given out so far, and labels for more.
pub(super) struct Given<'l> {
    pub(super) messages: Messages,
    pub(super) pins: Pins,
    pub(super) label: &'l mut dyn FnMut() -> Label,
}

/// An interrupt that was bound: its line, its label, and what the device writes.
type Bound = (Label, Message);

/// Binds a message-signalled interrupt and opens it. The device is told afterwards, so that none is lost.
fn bind_message<P: Platform>(
    platform: &P,
    function: &Function<P>,
    given: &mut Given<'_>,
) -> Result<Bound, L4Error> {
    if given.messages.next >= given.messages.end {
        return Err(L4Error::NOMEM);
    }
    let (line, label) = (Line::Msi(given.messages.next), (given.label)());
    // Not tried again by another, whatever comes.
    given.messages.next += 1;
    let (irq, by) = platform.bind(line, label)?;
    let message = platform.message(line, function.handle)?;
    platform.unmask(line, irq, by)?;
    Ok((label, message))
}

/// Turns interrupts on, the best kind that device, bus and operator allow.
pub(super) fn enable<P: Platform>(
    platform: &P,
    function: &Function<P>,
    options: Options,
    given: &mut Given<'_>,
    controllers: u32,
) -> Result<(Interrupts, Enabled), PciError> {
    let share = given.messages.share(controllers);
    if share > 0
        && !options.nomsix
        && let Some(msix) = Msix::find(platform, function)?
    {
        let mut bound: Vec<Bound> = Vec::new();
        for _ in 0..share.min(msix.entries().into()) {
            match bind_message(platform, function, given) {
                Ok(one) => bound.push(one),
                Err(why) if bound.is_empty() => return Err(why.into()),
                // With fewer it works too.
                Err(_) => break,
            }
        }
        let (labels, told): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
        msix.enable(function, &told)?;
        return Ok((Interrupts { mode: Mode::MsiX, labels, unmask: None }, Enabled::Msix(msix, told)));
    }
    if share > 0
        && !options.nomsi
        && let Some(msi) = Msi::find(function)?
    {
        let (label, message) = bind_message(platform, function, given)?;
        msi.enable(function, message)?;
        let labels = [label].to_vec();
        return Ok((Interrupts { mode: Mode::Msi, labels, unmask: None }, Enabled::Msi(msi, message)));
    }
    let enabled = Enabled::Pin;
    enabled.enable(function)?;
    function.command(0, COMMAND_NO_PIN)?;
    let pin = platform.pin(function.handle)?;
    if let Some(label) = given.pins.get(&pin.number) {
        return Ok((Interrupts { mode: Mode::Pin, labels: [*label].to_vec(), unmask: None }, enabled));
    }
    let (line, label) = (Line::Pin(pin.number), (given.label)());
    let (irq, by) = platform.bind(line, label)?;
    platform.unmask(line, irq, by)?;
    given.pins.insert(pin.number, label);
    let again = platform.clone();
    let unmask: Option<Box<dyn Fn() + Send + Sync>> = pin.level.then(|| {
        let unmask = move || {
            // It fails when the device is gone, which is noticed elsewhere.
            let _ = again.unmask(line, irq, by);
        };
        Box::new(unmask) as Box<dyn Fn() + Send + Sync>
    });
    Ok((Interrupts { mode: Mode::Pin, labels: [label].to_vec(), unmask }, enabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_are_shared_out_until_there_is_none() {
        let share = |messages: u32, controllers| Messages::new(messages).share(controllers);
        assert_eq!((share(16, 1), share(16, 8), share(16, 9), share(1, 2), share(0, 1)), (2, 2, 1, 1, 0));
    }
}
