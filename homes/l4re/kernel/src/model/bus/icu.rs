//! Lines, and the interrupts bound to them.

use alloc::vec::Vec;

use super::Bus;
use crate::bus::{BusHandle, Icu, IcuInfo, Line, Message, Pin, Unmask};
use crate::kernel::{Cap, L4Error, Label};

/// All functions have this wire.
const PIN: u32 = 11;
/// What a message goes to, with its number.
const ADDRESS: u64 = 0xfee0_0000_0001_2000;

struct Bound {
    line: Line,
    label: Label,
    irq: Cap,
    /// For which device its message was asked.
    device: Option<BusHandle>,
    masked: bool,
    /// It came while it was masked.
    waits: bool,
}

pub(super) struct Lines {
    messages: u32,
    bound: Vec<Bound>,
    raised: Vec<Label>,
}

impl Lines {
    pub(super) fn new(messages: u32) -> Self {
        Self { messages, bound: Vec::new(), raised: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Vec<Label> {
        core::mem::take(&mut self.raised)
    }

    fn raise(&mut self, line: Line) {
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

impl Icu for Bus {
    fn info(&self) -> Result<IcuInfo, L4Error> {
        Ok(IcuInfo { messages: self.world().lines.messages })
    }

    fn bind(&self, line: Line, label: Label) -> Result<(Cap, Unmask), L4Error> {
        let mut world = self.world();
        let lines = &mut world.lines;
        if lines.bound.iter().any(|b| b.line == line) {
            return Err(L4Error::PERM);
        }
        match line {
            Line::Msi(number) if number >= lines.messages => return Err(L4Error::NOENT),
            Line::Pin(number) if number != PIN => return Err(L4Error::NOENT),
            _ => {}
        }
        let irq = Cap((0x9000 + lines.bound.len()) << 12);
        lines.bound.push(Bound { line, label, irq, device: None, masked: true, waits: false });
        let by = if matches!(line, Line::Pin(_)) { Unmask::Icu } else { Unmask::Irq };
        Ok((irq, by))
    }

    fn message(&self, line: Line, device: BusHandle) -> Result<Message, L4Error> {
        let mut world = self.world();
        let (Line::Msi(number), Some(bound)) = (line, world.lines.bound.iter_mut().find(|b| b.line == line))
        else {
            return Err(L4Error::INVAL);
        };
        bound.device = Some(device);
        Ok(Message { address: ADDRESS, data: number })
    }

    fn unmask(&self, line: Line, irq: Cap, by: Unmask) -> Result<(), L4Error> {
        let mut world = self.world();
        let lines = &mut world.lines;
        let bound = lines.bound.iter_mut().find(|b| b.line == line && b.irq == irq).ok_or(L4Error::INVAL)?;
        assert_eq!(by == Unmask::Icu, matches!(line, Line::Pin(_)), "unmasked by the wrong one");
        // The message must be known before it can come.
        assert!(
            bound.device.is_some() || matches!(line, Line::Pin(_)),
            "unmasked before its message was asked for"
        );
        bound.masked = false;
        if core::mem::take(&mut bound.waits) {
            lines.raise(line);
        }
        Ok(())
    }

    fn pin(&self, device: BusHandle) -> Result<Pin, L4Error> {
        self.world().function(device)?;
        Ok(Pin { number: PIN, level: true })
    }
}
