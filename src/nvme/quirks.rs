//! Controllers that need something special, each with the source that says so.

use core::time::Duration;

use super::options::PciId;

/// What a controller needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quirks {
    /// How long to leave CSTS alone after CC.EN was cleared: too early a read makes these devices hang.
    pub delay_after_disable: Duration,
    /// Write Zeroes is offered, but slow or broken.
    pub no_write_zeroes: bool,
}

struct Entry {
    id: PciId,
    quirks: Quirks,
}

const fn entry(vendor: u16, device: u16, delay_ms: u64, no_write_zeroes: bool) -> Entry {
    let delay_after_disable = Duration::from_millis(delay_ms);
    Entry { id: PciId { vendor, device }, quirks: Quirks { delay_after_disable, no_write_zeroes } }
}

/// Source of all: Linux 6.1, `drivers/nvme/host/pci.c` (`nvme_id_table`), and for the amount of the delay
/// `drivers/nvme/host/nvme.h` (`NVME_QUIRK_DELAY_AMOUNT`).
const TABLE: &[Entry] = &[
    // Seagate Nytro Flash Storage.
    entry(0x1bb1, 0x0100, 2300, false),
    // HGST adapter, and WDC SN200.
    entry(0x1c58, 0x0003, 2300, false),
    entry(0x1c58, 0x0023, 2300, false),
    // Memblaze Pblaze4.
    entry(0x1c5f, 0x0540, 2300, false),
    // Samsung PM1725, PM1725a (its Write Zeroes fails now and then) and X5.
    entry(0x144d, 0xa821, 2300, false),
    entry(0x144d, 0xa822, 2300, true),
    entry(0x144d, 0xa808, 2300, false),
    // Intel 600P / P3100.
    entry(0x8086, 0xf1a5, 0, true),
    // SanDisk Skyhawk.
    entry(0x15b7, 0x2001, 0, true),
    // QEMU before it had an identity of its own.
    entry(0x8086, 0x5845, 0, true),
];

impl Quirks {
    /// What this device needs.
    pub fn of(id: Option<PciId>) -> Self {
        TABLE.iter().find(|e| Some(e.id) == id).map(|e| e.quirks).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_both_halves_of_its_identity() {
        let of = |vendor, device| Quirks::of(Some(PciId { vendor, device }));
        assert_eq!(of(0x144d, 0xa822).delay_after_disable, Duration::from_millis(2300));
        assert!(of(0x8086, 0xf1a5).no_write_zeroes);
        assert_eq!(of(0x144d, 0xf1a5), Quirks::default());
        assert_eq!(Quirks::of(None), Quirks::default());
    }
}
