//! Lines, and the interrupts bound to them.

use alloc::vec::Vec;

use crate::bus::{BusHandle, Line, Message};
use crate::kernel::{Cap, Label};

/// All functions have this wire.
pub(super) const PIN: u32 = 11;
/// What a message goes to, with its number.
pub(super) const ADDRESS: u64 = 0xfee0_0000_0001_2000;

pub(super) struct Bound {
    pub(super) line: Line,
    pub(super) label: Label,
    pub(super) irq: Cap,
    /// For which device its message was asked.
    pub(super) device: Option<BusHandle>,
    pub(super) masked: bool,
    /// It came while it was masked.
    pub(super) waits: bool,
}

pub(super) struct Lines {
    pub(super) messages: u32,
    pub(super) bound: Vec<Bound>,
    pub(super) raised: Vec<Label>,
}

impl Lines {
    pub(super) fn new(messages: u32) -> Self {
        Self { messages, bound: Vec::new(), raised: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Vec<Label> {
        core::mem::take(&mut self.raised)
    }

    pub(super) fn raise(&mut self, line: Line) {
        let Some(bound) = self.bound.iter_mut().find(|b| b.line == line) else {
            panic!("an interrupt on a line that nobody bound: {line:?}");
        };
        if bound.masked {
            bound.waits = true;
        } else {
            self.raised.push(bound.label);
            // A level stays until it is served.
            bound.masked = matches!(line, Line::Pin(_));
        }
    }

    /// A device wrote a message.
    pub(super) fn message(&mut self, message: Message, from: BusHandle) {
        let number = message.data;
        assert_eq!(message.address, ADDRESS, "a message to nowhere");
        let of = self.bound.iter().find(|b| b.line == Line::Msi(number)).and_then(|b| b.device);
        assert_eq!(of, Some(from), "a message of another device");
        self.raise(Line::Msi(number));
    }

    pub(super) fn raise_pin(&mut self, _: BusHandle) {
        self.raise(Line::Pin(PIN));
    }
}
