//! Types and constants of L4Re's C interface, by their names there.
#![expect(non_camel_case_types, reason = "as L4Re and l4-rust name them")]

/// A machine word.
pub type l4_umword_t = usize;
/// A signed machine word.
pub type l4_mword_t = isize;
/// An address.
pub type l4_addr_t = usize;
/// A capability selector: the index of a slot, shifted by [`L4_CAP_SHIFT`].
pub type l4_cap_idx_t = usize;
/// What most of the C functions answer: an error, or what is not negative. Sixteen bits, whatever the register holds.
pub type l4_ret_t = i16;
/// A device on a virtual bus.
pub type l4vbus_device_handle_t = l4_mword_t;

/// Capability selectors are indices shifted by this.
pub const L4_CAP_SHIFT: u32 = 12;
/// What is selector in a capability; the bits below are rights.
pub const L4_CAP_MASK: l4_cap_idx_t = !0 << L4_CAP_SHIFT;
/// No capability.
pub const L4_INVALID_CAP: l4_cap_idx_t = !0 << (L4_CAP_SHIFT - 1);
/// Set in every selector that is none.
pub const L4_INVALID_CAP_BIT: l4_cap_idx_t = 1 << (L4_CAP_SHIFT - 1);
/// This task.
pub const L4_BASE_TASK_CAP: l4_cap_idx_t = 1 << L4_CAP_SHIFT;

/// A capability can be written through.
pub const L4_CAP_FPAGE_W: l4_umword_t = 1;
/// Its special right.
pub const L4_CAP_FPAGE_S: l4_umword_t = 2;
/// It can be used.
pub const L4_CAP_FPAGE_R: l4_umword_t = 4;
/// Its object can be deleted.
pub const L4_CAP_FPAGE_D: l4_umword_t = 8;
/// Read and write.
pub const L4_CAP_FPAGE_RW: l4_umword_t = L4_CAP_FPAGE_R | L4_CAP_FPAGE_W;
/// Read, write, special.
pub const L4_CAP_FPAGE_RWS: l4_umword_t = L4_CAP_FPAGE_RW | L4_CAP_FPAGE_S;
/// All of them.
pub const L4_CAP_FPAGE_RWSD: l4_umword_t = L4_CAP_FPAGE_RWS | L4_CAP_FPAGE_D;

/// Flexpage of an object capability.
const L4_FPAGE_OBJ: l4_umword_t = 3 << 4;

/// A flexpage that is one capability.
pub const fn l4_obj_fpage(cap: l4_cap_idx_t, rights: l4_umword_t) -> l4_umword_t {
    cap & L4_CAP_MASK | L4_FPAGE_OBJ | rights
}

/// First word of an item that maps.
pub const L4_ITEM_MAP: l4_umword_t = 8;
/// A buffer for one capability; goes with the slot's selector.
pub const L4_RCV_ITEM_SINGLE_CAP: l4_umword_t = L4_ITEM_MAP | 2;
/// The bits of a received item that say what came of it, and what they are for a capability that was mapped.
pub const RECEIVED: (l4_umword_t, l4_umword_t) = (0x3e, 0x38);

/// `l4_task_unmap`: delete the object.
pub const L4_FP_DELETE_OBJ: l4_umword_t = 0xc000_0000;

/// Interrupts and interrupt controllers.
pub const L4_PROTO_IRQ: l4_mword_t = -1;
/// Any kernel object.
pub const L4_PROTO_KOBJECT: l4_mword_t = -10;
/// Tasks.
pub const L4_PROTO_TASK: l4_mword_t = -11;
/// Threads.
pub const L4_PROTO_THREAD: l4_mword_t = -12;
/// Factories.
pub const L4_PROTO_FACTORY: l4_mword_t = -15;
/// Factories: makes an interrupt.
pub const L4_PROTO_IRQ_SENDER: l4_mword_t = -18;
/// Factories: makes an `L4Re::Dma_space`.
pub const L4RE_PROTO_DMA_SPACE: l4_mword_t = 0x4008;

/// A message's tag: protocol (or error), flags, number of items, number of words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct l4_msgtag_t {
    /// As in the register.
    pub raw: l4_mword_t,
}

impl l4_msgtag_t {
    const ERROR: l4_mword_t = 0x8000;

    /// A tag without flags.
    pub const fn new(label: l4_mword_t, words: usize, items: usize) -> Self {
        Self { raw: label << 16 | ((items & 0x3f) << 6 | words & 0x3f) as l4_mword_t }
    }

    /// Protocol, or what the call answered.
    pub const fn label(self) -> l4_mword_t {
        self.raw >> 16
    }

    /// Untyped words; at most 63.
    pub const fn words(self) -> usize {
        (self.raw & 0x3f) as usize
    }

    /// Typed items.
    pub const fn items(self) -> usize {
        (self.raw >> 6 & 0x3f) as usize
    }

    /// Whether the message was not delivered; the UTCB says why.
    pub const fn has_error(self) -> bool {
        self.raw & Self::ERROR != 0
    }
}

/// Send time-out in the upper half, receive time-out in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct l4_timeout_t {
    /// As in the register.
    pub raw: u32,
}

/// Half of a time-out: at once, or not at all.
const NOW: u32 = 0x400;

/// For ever.
pub const L4_IPC_NEVER: l4_timeout_t = l4_timeout_t { raw: 0 };
/// Both at once, or not at all.
pub const L4_IPC_BOTH_TIMEOUT_0: l4_timeout_t = l4_timeout_t { raw: NOW << 16 | NOW };

impl l4_timeout_t {
    /// Sends at once or not at all, and receives for about this many microseconds: never less. `None`: for ever.
    pub fn receive(micros: Option<u64>) -> Self {
        let half = match micros {
            None => 0,
            Some(0) => NOW,
            // Ten bits of mantissa, five of exponent.
            Some(micros) => {
                let mut exponent = (u64::BITS - micros.leading_zeros()).saturating_sub(10);
                let mut mantissa = micros.div_ceil(1_u64.checked_shl(exponent).unwrap_or(u64::MAX));
                if mantissa > 0x3ff {
                    exponent += 1;
                    mantissa = mantissa.div_ceil(2);
                }
                // More than the field can say is as good as for ever.
                if exponent > 31 { 0 } else { exponent << 10 | mantissa as u32 }
            }
        };
        Self { raw: NOW << 16 | half }
    }
}

/// A device, as `l4vbus_get_next_device` describes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct l4vbus_device_t {
    /// Bits of the interfaces it has.
    pub kind: u32,
    /// Name.
    pub name: [u8; 64],
    /// How many resources it has.
    pub num_resources: u32,
    /// Flags.
    pub flags: u32,
}

/// A resource of a device.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct l4vbus_resource_t {
    /// What it is.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// First address or number.
    pub start: l4_addr_t,
    /// Last one.
    pub end: l4_addr_t,
    /// Who provides it.
    pub provider: l4vbus_device_handle_t,
    /// Name.
    pub id: u32,
}

/// Size and flags of a dataspace.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct l4re_ds_stats_t {
    /// Bytes.
    pub size: u64,
    /// Rights and caching.
    pub flags: usize,
}

/// An entry of the table of initial capabilities.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct l4re_env_cap_entry_t {
    /// The capability.
    pub cap: l4_cap_idx_t,
    /// All ones in the entry behind the last.
    pub flags: l4_umword_t,
    /// Its name, ended by NUL unless it is 16 bytes long.
    pub name: [u8; 16],
}

/// What a program starts with.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct l4re_env_t {
    /// The parent.
    pub parent: l4_cap_idx_t,
    /// The region map.
    pub rm: l4_cap_idx_t,
    /// Allocator of memory; user factory.
    pub mem_alloc: l4_cap_idx_t,
    /// The log.
    pub log: l4_cap_idx_t,
    /// The first thread.
    pub main_thread: l4_cap_idx_t,
    /// The kernel's factory.
    pub factory: l4_cap_idx_t,
    /// The scheduler.
    pub scheduler: l4_cap_idx_t,
    /// Services of the L4Re kernel.
    pub itas: l4_cap_idx_t,
    /// Events for debugging.
    pub dbg_events: l4_cap_idx_t,
    /// First free capability slot, before anything was allocated.
    pub first_free_cap: l4_cap_idx_t,
    /// First free slot for reply capabilities.
    pub first_free_reply_cap: l4_umword_t,
    /// Where UTCBs lie.
    pub utcb_area: l4_umword_t,
    /// The first free one.
    pub first_free_utcb: l4_addr_t,
    /// Initial capabilities.
    pub caps: *const l4re_env_cap_entry_t,
}
