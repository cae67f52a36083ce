//! What is asked of the lines.

use super::lines::{ADDRESS, Bound, PIN};
use super::world::Bus;
use crate::bus::{BusHandle, Icu, IcuInfo, Line, Message, Pin, Unmask};
use crate::kernel::{Cap, L4Error, Label};

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
