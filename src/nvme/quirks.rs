//! Controllers that need something special.
//!
//! The tables hold what Linux 7.3.4 knows (`nvme_id_table` and what is decided beside it in `drivers/nvme/host/pci.c`; `core_quirks`
//! in `core.c`; the delay's amount in `nvme.h`): which devices they are is a fact that somebody found by losing data. Kinds that
//! matter to a driver of this sort are here; the others, and why they are left out, stand in [doc/quirks.md](../../../doc/quirks.md).

use core::time::Duration;

use super::options::PciId;

/// How long [`DELAY`] devices are left alone.
const DELAY_AMOUNT: Duration = Duration::from_millis(2300);
/// The entries, less one, of the queues of a device that says none (`CAP.MQES` = 0) and has 64.
const UNSAID_ENTRIES: u16 = 63;

/// Vendor and device.
type Id = (u16, u16);

/// They hang when CSTS is read too early after CC.EN was cleared.
const DELAY: &[Id] = &[
    (0x144d, 0xa821), // Samsung PM1725
    (0x144d, 0xa822), // Samsung PM1725a
    (0x1bb1, 0x0100), // Seagate Nytro Flash Storage
    (0x1c58, 0x0003), // HGST adapter
    (0x1c58, 0x0023), // WDC SN200
    (0x1c5f, 0x0540), // Memblaze Pblaze4
];

/// Write Zeroes is offered, and slow, broken, or writes something else.
const NO_WRITE_ZEROES: &[Id] = &[
    (0x144d, 0xa809), // Samsung MZALQ256HBJD
    (0x144d, 0xa80b), // Samsung PM9B1
    (0x144d, 0xa822), // Samsung PM1725a
    (0x15b7, 0x2001), // SanDisk Skyhawk
    (0x1987, 0x5019), // Phison E19
    (0x1987, 0x5021), // Phison E21
    (0x1c5c, 0x1504), // SK Hynix PC400
    (0x1c5c, 0x1d59), // SK Hynix BC901
    (0x1cc4, 0x6302), // UMIS RPJTJ256MGE1QDY
    (0x1cc4, 0x6303), // UMIS RPJTJ512MGE1QDY
    (0x1d97, 0x2263), // SPCC
    (0x2646, 0x5016), // Kingston OM3PGP4xxxxP
    (0x2646, 0x5018), // Kingston OM8SFP4xxxxP
    (0x2646, 0x501a), // Kingston OM8PGP4xxxxP
    (0x2646, 0x501b), // Kingston OM8PGP4xxxxQ
    (0x2646, 0x501e), // Kingston OM3PGP4xxxxQ
    (0x2646, 0x502f), // Kingston OM3SGP4xxxxK
    (0x8086, 0x5845), // QEMU before it had an identity of its own
    (0x8086, 0xf1a5), // Intel 600P, P3100
];

/// All of their kind say one name of their subsystem (NQN).
const ONE_SUBSYSTEM: &[Id] = &[
    (0x10ec, 0x5762), // ADATA SX6000LNP
    (0x126f, 0x1001), // Silicon Motion
    (0x1344, 0x5407), // Micron
    (0x144d, 0xa822), // Samsung PM1725a
    (0x1987, 0x5016), // Phison E16
    (0x1b4b, 0x1092), // Lexar 256 GB
    (0x1cc1, 0x8201), // ADATA SX8200PNP
    (0x1d97, 0x2269), // Lexar NM760
    (0x8086, 0x0a54), // Intel P4500, P4600
    (0x8086, 0xf1a6), // Intel 760p, Pro 7600p
];

/// The identifiers of their namespaces (EUI-64, NGUID, UUID) are garbage.
const BOGUS_IDENTIFIERS: &[Id] = &[
    (0x10ec, 0x5762), // ADATA SX6000LNP
    (0x10ec, 0x5763), // ADATA SX6000PNP, TEAMGROUP T-FORCE CARDEA ZERO Z330
    (0x10ec, 0x5765), // TEAMGROUP MP33
    (0x126f, 0x2262), // Silicon Motion
    (0x126f, 0x2263), // Silicon Motion
    (0x1344, 0x6001), // Micron Nitro
    (0x144d, 0xa802), // Samsung SM953
    (0x144d, 0xa80b), // Samsung PM9B1
    (0x1987, 0x5012), // Phison E12
    (0x1987, 0x5016), // Phison E16
    (0x1b36, 0x0010), // QEMU
    (0x1c5c, 0x174a), // SK Hynix P31
    (0x1cc1, 0x33f8), // ADATA IM2P33F8ABR1
    (0x1cc1, 0x5350), // ADATA XPG GAMMIX S50
    (0x1d97, 0x1d97), // Lexar NM620
    (0x1d97, 0x2263), // Lexar NM610
    (0x1d97, 0x2269), // Lexar NM760
    (0x1dbe, 0x5216), // Acer FA100
    (0x1dbe, 0x5236), // ADATA XPG GAMMIX S70
    (0x1e4b, 0x1001), // MAXIO MAP1001
    (0x1e4b, 0x1002), // MAXIO MAP1002
    (0x1e4b, 0x1202), // MAXIO MAP1202
    (0x1e4b, 0x1602), // MAXIO MAP1602
    (0x1f40, 0x1202), // Netac NV3000
    (0x1f40, 0x5236), // Netac NV7000
    (0x8086, 0x0a54), // Intel P4500, P4600
    (0x8086, 0x5845), // QEMU before it had an identity of its own
    (0xc0a9, 0x540a), // Crucial P2
];

/// They say that they are of version 1.3, and do not bear to be asked for the list of descriptors.
const NO_DESCRIPTORS: &[Id] = &[
    (0x126f, 0x2263), // Silicon Motion
    (0x1b4b, 0x1092), // Lexar 256 GB
    (0x1bb1, 0x0100), // Seagate Nytro Flash Storage
    (0x1c5f, 0x0555), // Memblaze Pblaze5
];

/// They know no other Identify than that of the controller and of one namespace.
const FIRST_IDENTIFY_ONLY: &[Id] = &[
    (0x106b, 0x2005), // Apple
    (0x8086, 0x5845), // QEMU before it had an identity of its own
];

/// More than one command at a time makes them reset themselves, or lose data.
const ONE_AT_A_TIME: &[Id] = &[
    (0x106b, 0x2001), // Apple, in the MacBook8,1
];

/// One interrupt vector does for all queues, or none does.
const ONE_VECTOR: &[Id] = &[
    (0x106b, 0x2001), // Apple, in the MacBook8,1
    (0x106b, 0x2005), // Apple
];

/// Their submission queues want to be of medium priority.
const MEDIUM_PRIORITY: &[Id] = &[
    (0x8086, 0xf1a5), // Intel 600P, P3100
];

/// Some of them say that a queue has no entries (`CAP.MQES`), and have 64.
const UNSAID_DEPTH: &[Id] = &[
    (0x144d, 0xa821), // Samsung PM1725
    (0x144d, 0xa822), // Samsung PM1725a
];

/// Their submission queue entries have 128 bytes, whatever they are told, and their queues share command identifiers: another
/// interface, which this driver does not speak.
const LONG_ENTRIES: &[Id] = &[
    (0x106b, 0x2005), // Apple
];

/// Their MSI (not MSI-X) never fires. For a home, which chooses the kind of interrupt.
pub const BROKEN_MSI: &[(u16, u16)] = &[
    (0x15b7, 0x5008), // SanDisk SN530
    (0x15b7, 0x5009), // SanDisk SN550
];

/// An external drive with the device number of another that needs nothing: it is told by its model number.
const SAMSUNG_X5: (u16, &str) = (0x144d, "Samsung Portable SSD X5");

/// What a controller needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quirks {
    /// How long to leave CSTS alone after CC.EN was cleared.
    pub delay_after_disable: Duration,
    /// Write Zeroes is not used.
    pub no_write_zeroes: bool,
    /// The name of its subsystem is not believed.
    pub ignore_subsystem: bool,
    /// The identifiers of its namespaces are not believed.
    pub bogus_identifiers: bool,
    /// It is not asked for descriptors.
    pub no_descriptors: bool,
    /// It is asked for Identify Controller and Identify Namespace, and for no other Identify data.
    pub first_identify_only: bool,
    /// It gets one command at a time.
    pub one_at_a_time: bool,
    /// Its queues share vector 0.
    pub one_vector: bool,
    /// Its submission queues are of medium priority.
    pub medium_priority: bool,
    /// What to take for `CAP.MQES` where that says none.
    pub unsaid_mqes: Option<u16>,
    /// It cannot be served.
    pub long_entries: bool,
}

impl Quirks {
    /// What this device needs.
    pub fn of(id: Option<PciId>) -> Self {
        let Some(PciId { vendor, device }) = id else { return Self::default() };
        let is = |list: &[Id]| list.contains(&(vendor, device));
        Self {
            delay_after_disable: if is(DELAY) { DELAY_AMOUNT } else { Duration::ZERO },
            no_write_zeroes: is(NO_WRITE_ZEROES),
            ignore_subsystem: is(ONE_SUBSYSTEM),
            bogus_identifiers: is(BOGUS_IDENTIFIERS),
            no_descriptors: is(NO_DESCRIPTORS),
            first_identify_only: is(FIRST_IDENTIFY_ONLY),
            one_at_a_time: is(ONE_AT_A_TIME),
            one_vector: is(ONE_VECTOR),
            medium_priority: is(MEDIUM_PRIORITY),
            unsaid_mqes: is(UNSAID_DEPTH).then_some(UNSAID_ENTRIES),
            long_entries: is(LONG_ENTRIES),
        }
    }

    /// And what it needs by what it says itself: vendor and model number.
    #[must_use]
    pub(super) fn and_of_model(self, vendor: u16, model: &str) -> Self {
        if (vendor, model) == SAMSUNG_X5 {
            return Self { delay_after_disable: DELAY_AMOUNT, ignore_subsystem: true, ..self };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vendor: u16, device: u16) -> Quirks {
        Quirks::of(Some(PciId { vendor, device }))
    }

    #[test]
    fn the_tables_are_those_of_linux_7_3_4() {
        let lists: [(&str, &[Id], usize); 12] = [
            ("DELAY_BEFORE_CHK_RDY", DELAY, 6),
            ("DISABLE_WRITE_ZEROES", NO_WRITE_ZEROES, 19),
            ("IGNORE_DEV_SUBNQN", ONE_SUBSYSTEM, 10),
            ("BOGUS_NID", BOGUS_IDENTIFIERS, 28),
            ("NO_NS_DESC_LIST", NO_DESCRIPTORS, 4),
            ("IDENTIFY_CNS", FIRST_IDENTIFY_ONLY, 2),
            ("QDEPTH_ONE", ONE_AT_A_TIME, 1),
            ("SINGLE_VECTOR", ONE_VECTOR, 2),
            ("MEDIUM_PRIO_SQ", MEDIUM_PRIORITY, 1),
            ("128_BYTES_SQES", LONG_ENTRIES, 1),
            ("BROKEN_MSI", BROKEN_MSI, 2),
            ("PM1725 with MQES 0", UNSAID_DEPTH, 2),
        ];
        for (name, list, count) in lists {
            assert_eq!(list.len(), count, "{name}");
            assert!(list.is_sorted_by(|a, b| a < b), "{name} is in order, and names each once");
        }
    }

    #[test]
    fn a_device_is_found_by_both_halves_of_its_identity() {
        let pm1725a = Quirks {
            delay_after_disable: Duration::from_millis(2300),
            no_write_zeroes: true,
            ignore_subsystem: true,
            unsaid_mqes: Some(63),
            ..Quirks::default()
        };
        assert_eq!(of(0x144d, 0xa822), pm1725a);
        let six_hundred = Quirks { no_write_zeroes: true, medium_priority: true, ..Quirks::default() };
        assert_eq!(of(0x8086, 0xf1a5), six_hundred);
        // Two devices of one number: what either needs.
        let both = Quirks { no_write_zeroes: true, bogus_identifiers: true, ..Quirks::default() };
        assert_eq!(of(0x1d97, 0x2263), both);
        assert_eq!(of(0x144d, 0xf1a5), Quirks::default());
        assert_eq!(Quirks::of(None), Quirks::default());
    }

    #[test]
    fn an_external_drive_is_told_from_its_namesake_by_its_model() {
        let evo = of(0x144d, 0xa808);
        assert_eq!(evo, Quirks::default());
        assert_eq!(evo.and_of_model(0x144d, "Samsung SSD 970 EVO Plus 1TB"), evo);
        assert_eq!(evo.and_of_model(0x8086, SAMSUNG_X5.1), evo);
        let x5 = evo.and_of_model(0x144d, "Samsung Portable SSD X5");
        assert!(x5.ignore_subsystem && x5.delay_after_disable == DELAY_AMOUNT);
    }
}
