//! What the program found on its vbus, and hands over.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use nvme_core::nvme::PciId;
use nvme_l4re::kernel::Label;
use nvme_platform::Device;

use crate::label::Source;

/// The controllers and their interrupts.
#[derive(Default)]
pub struct Hardware {
    /// The controllers. The first is controller 0.
    pub controllers: Vec<Controller>,
    /// All interrupts, of whatever controllers. The one at place `i` reports under [`interrupt_label(i)`](interrupt_label).
    pub interrupts: Vec<Interrupt>,
}

/// One NVMe controller.
pub struct Controller {
    /// What to call it in messages: its place on the vbus.
    pub name: String,
    /// It.
    pub device: Box<dyn Device>,
    /// What it says it is in its configuration space.
    pub pci: Option<PciId>,
}

/// An interrupt object of ours that a controller raises. A line that several controllers share is one interrupt: whatever
/// controller it is, everything that waits for an interrupt is looked at.
pub struct Interrupt {
    /// Whether it is (also) raised for an admin queue: vector 0, and whatever shares it.
    pub admin: bool,
    /// Where the interrupt is masked when it was delivered (INTx): called after the controllers' completions were taken and
    /// their doorbells written, so that the line is low again.
    pub unmask: Option<Box<dyn FnMut()>>,
}

/// The label that the interrupt at place `index` of [`Hardware::interrupts`] is bound with.
pub fn interrupt_label(index: usize) -> Label {
    Source::Interrupt(index).label()
}
