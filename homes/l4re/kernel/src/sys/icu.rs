//! The bus's interrupt controller.
#![expect(unsafe_code, reason = "makes system calls")]

use super::arch::MSI;
use super::ipc::{l4_ipc_call, l4_ipc_send};
use super::types::{L4_CAP_FPAGE_RWS, L4_ITEM_MAP, L4_PROTO_IRQ, l4_msgtag_t, l4_obj_fpage, l4_umword_t};
use super::utcb::l4_utcb;
use super::vbus::Hardware;
use super::{c, objects};
use crate::bus::{BusHandle, Icu, IcuInfo, Line, Message, Pin, Unmask};
use crate::kernel::{Cap, L4Error, Label};

const BIND: l4_umword_t = 0;
const INFO: l4_umword_t = 2;
const MSI_INFO: l4_umword_t = 3;
const UNMASK: l4_umword_t = 4;

/// In the source of a message: the rest is a device's handle.
const SOURCE_IS_HANDLE: u64 = 1 << 63;

fn number(line: Line) -> l4_umword_t {
    match line {
        Line::Msi(number) => number as l4_umword_t | MSI,
        Line::Pin(number) => number as l4_umword_t,
    }
}

impl Hardware {
    fn icu_call(&self, words: &[l4_umword_t], irq: Option<Cap>) -> Result<l4_msgtag_t, L4Error> {
        let utcb = l4_utcb();
        utcb.set_mrs(words);
        if let Some(irq) = irq {
            utcb.set_mr(words.len(), L4_ITEM_MAP);
            utcb.set_mr(words.len() + 1, l4_obj_fpage(irq.0, L4_CAP_FPAGE_RWS));
        }
        let tag = l4_msgtag_t::new(L4_PROTO_IRQ, words.len(), usize::from(irq.is_some()));
        // SAFETY: io answers, which serves the bus that this program was started with; nothing of it touches memory.
        unsafe { l4_ipc_call(self.icu.0, tag, None) }
    }
}

impl Icu for Hardware {
    fn info(&self) -> Result<IcuInfo, L4Error> {
        self.icu_call(&[INFO], None)?;
        let utcb = l4_utcb();
        let messages = if utcb.mr(0) & MSI != 0 { utcb.mr(2) as u32 } else { 0 };
        Ok(IcuInfo { messages })
    }

    fn bind(&self, line: Line, label: Label) -> Result<(Cap, Unmask), L4Error> {
        let irq = objects::create_irq()?;
        let bound =
            objects::bind(irq, label.0).and_then(|()| self.icu_call(&[BIND, number(line)], Some(irq)));
        match bound {
            Ok(tag) => Ok((irq, if tag.label() == 1 { Unmask::Icu } else { Unmask::Irq })),
            Err(why) => {
                objects::delete(irq);
                Err(why)
            }
        }
    }

    fn message(&self, line: Line, device: BusHandle) -> Result<Message, L4Error> {
        let source = SOURCE_IS_HANDLE | device.0 as u64;
        let tag = self.icu_call(&[MSI_INFO, number(line), source as l4_umword_t], None)?;
        if tag.words() < 2 {
            return Err(L4Error::MSGTOOSHORT);
        }
        let utcb = l4_utcb();
        Ok(Message { address: utcb.mr(0) as u64, data: utcb.mr(1) as u32 })
    }

    fn unmask(&self, line: Line, irq: Cap, by: Unmask) -> Result<(), L4Error> {
        match by {
            Unmask::Irq => objects::unmask(irq),
            Unmask::Icu => {
                let utcb = l4_utcb();
                utcb.set_mrs(&[UNMASK, number(line)]);
                // SAFETY: as in `icu_call`; there is no answer.
                unsafe { l4_ipc_send(self.icu.0, l4_msgtag_t::new(L4_PROTO_IRQ, 2, 0)) }
            }
        }
    }

    fn pin(&self, device: BusHandle) -> Result<Pin, L4Error> {
        let (mut trigger, mut polarity) = (0, 0);
        let handle = device.0 as isize;
        // SAFETY: both bytes are ours.
        let number =
            unsafe { c::l4vbus_pcidev_irq_enable(self.vbus.0, handle, &raw mut trigger, &raw mut polarity) };
        let number = c::check(number)?;
        Ok(Pin { number: number as u32, level: trigger == 0 })
    }
}
