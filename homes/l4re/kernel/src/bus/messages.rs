//! Message-signalled interrupts of a function: the MSI-X table, or the MSI capability (PCI Local Bus 3.0, 6.8).

use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::PAGE;

use super::pci::{CAP_MSI, CAP_MSIX, Function, PciError};
use super::traits::{Message, Mmio, Vbus, Width};

/// Message Control, behind the capability's header.
const CONTROL: u32 = 2;

const MSIX_TABLE: u32 = 4;
const MSIX_ENTRIES: u32 = 0x7ff;
const MSIX_ALL_MASKED: u32 = 1 << 14;
const MSIX_ENABLE: u32 = 1 << 15;
const ENTRY: usize = 16;
const ENTRY_MASKED: u32 = 1;

const MSI_ENABLE: u32 = 1;
/// How many messages are allowed, as a power of two: one.
const MSI_ALLOWED: u32 = 0b111 << 4;
const MSI_64BIT: u32 = 1 << 7;
const MSI_MASKABLE: u32 = 1 << 8;

/// A function's MSI-X capability.
pub(super) struct Msix {
    at: u32,
    table: Arc<dyn Mmio>,
    /// Where the table begins in what is mapped.
    offset: usize,
    entries: u16,
}

impl Msix {
    /// The capability, if there is one, with its table mapped.
    pub(super) fn find<P: Vbus>(platform: &P, function: &Function<P>) -> Result<Option<Self>, PciError> {
        let Some(at) = function.capability(CAP_MSIX)? else { return Ok(None) };
        let entries = (function.read(at + CONTROL, Width::Word)? & MSIX_ENTRIES) as u16 + 1;
        let place = function.read(at + MSIX_TABLE, Width::Dword)?;
        let bar = function.bar(place & 7)?;
        let first =
            bar.checked_add(u64::from(place & !7)).ok_or(PciError::Lacks("place for its MSI-X table"))?;
        let page = first & !(PAGE as u64 - 1);
        let offset = (first - page) as usize;
        let len = (offset + usize::from(entries) * ENTRY).next_multiple_of(PAGE);
        let table = platform.registers(page, len)?;
        Ok(Some(Self { at, table, offset, entries }))
    }

    /// How many vectors it has.
    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Turns it on with these vectors, and no other. To be done before CC.EN is set: some controllers (QEMU's) look at it
    /// only then.
    pub(super) fn enable<P: Vbus>(
        &self,
        function: &Function<P>,
        messages: &[Message],
    ) -> Result<(), PciError> {
        let control = function.read(self.at + CONTROL, Width::Word)?;
        function.write(self.at + CONTROL, Width::Word, control | MSIX_ENABLE | MSIX_ALL_MASKED)?;
        for entry in 0..usize::from(self.entries) {
            let at = self.offset + entry * ENTRY;
            // Whoever was here before may have left them open.
            self.table.write32(at + 12, ENTRY_MASKED);
            if let Some(message) = messages.get(entry) {
                self.table.write32(at, message.address as u32);
                self.table.write32(at + 4, (message.address >> 32) as u32);
                self.table.write32(at + 8, message.data);
                self.table.write32(at + 12, 0);
            }
        }
        // Read back: what was written to the table has arrived.
        if self.table.read32(self.offset + 12) & ENTRY_MASKED != 0 {
            return Err(PciError::Lacks("MSI-X table"));
        }
        let open = (control | MSIX_ENABLE) & !MSIX_ALL_MASKED;
        Ok(function.write(self.at + CONTROL, Width::Word, open)?)
    }
}

/// A function's MSI capability, with one message.
pub(super) struct Msi {
    at: u32,
}

impl Msi {
    pub(super) fn find<P: Vbus>(function: &Function<P>) -> Result<Option<Self>, PciError> {
        Ok(function.capability(CAP_MSI)?.map(|at| Self { at }))
    }

    pub(super) fn enable<P: Vbus>(&self, function: &Function<P>, message: Message) -> Result<(), PciError> {
        let control = function.read(self.at + CONTROL, Width::Word)? & !(MSI_ENABLE | MSI_ALLOWED);
        function.write(self.at + CONTROL, Width::Word, control)?;
        function.write(self.at + 4, Width::Dword, message.address as u32)?;
        let high = (message.address >> 32) as u32;
        let data = if control & MSI_64BIT != 0 {
            function.write(self.at + 8, Width::Dword, high)?;
            self.at + 12
        } else if high == 0 {
            self.at + 8
        } else {
            return Err(PciError::Lacks("MSI above 4 GiB"));
        };
        function.write(data, Width::Word, message.data)?;
        if control & MSI_MASKABLE != 0 {
            function.write(data + 4, Width::Dword, 0)?;
        }
        Ok(function.write(self.at + CONTROL, Width::Word, control | MSI_ENABLE)?)
    }
}

/// Turns MSI and MSI-X off, where they are.
pub(super) fn disable<P: Vbus>(function: &Function<P>) -> Result<(), PciError> {
    for (kind, enabled) in [(CAP_MSI, MSI_ENABLE), (CAP_MSIX, MSIX_ENABLE)] {
        if let Some(at) = function.capability(kind)? {
            let control = function.read(at + CONTROL, Width::Word)?;
            function.write(at + CONTROL, Width::Word, control & !enabled)?;
        }
    }
    Ok(())
}

/// What was turned on, to be turned on again after a reset of the function.
pub(super) enum Enabled {
    Msix(Msix, Vec<Message>),
    Msi(Msi, Message),
    Pin,
}

impl Enabled {
    pub(super) fn enable<P: Vbus>(&self, function: &Function<P>) -> Result<(), PciError> {
        match self {
            Self::Msix(msix, messages) => msix.enable(function, messages),
            Self::Msi(msi, message) => msi.enable(function, *message),
            Self::Pin => disable(function),
        }
    }
}
