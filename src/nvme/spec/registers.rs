//! Controller registers (Base 3.1.3).

use bitfield_struct::bitfield;

/// Offset of CAP.
pub const CAP: u32 = 0x00;
/// Offset of VS.
pub const VS: u32 = 0x08;
/// Offset of INTMS.
pub const INTMS: u32 = 0x0c;
/// Offset of INTMC.
pub const INTMC: u32 = 0x10;
/// Offset of CC.
pub const CC: u32 = 0x14;
/// Offset of CSTS.
pub const CSTS: u32 = 0x1c;
/// Offset of AQA.
pub const AQA: u32 = 0x24;
/// Offset of ASQ.
pub const ASQ: u32 = 0x28;
/// Offset of ACQ.
pub const ACQ: u32 = 0x30;
/// Offset of CRTO (Base 3.1.3.17); there when CAP.CRMS is not zero.
pub const CRTO: u32 = 0x68;
/// Offset of the first doorbell.
pub const DOORBELLS: u32 = 0x1000;

/// CAP.CSS: there may be other command sets than NVM, and the controller says which namespace is of which (IOCSS).
pub const CSS_SEVERAL: u8 = 1 << 6;

/// Controller Capabilities (Base 3.1.3.1).
#[bitfield(u64)]
pub struct Capabilities {
    /// Maximum Queue Entries Supported, less one.
    pub mqes: u16,
    pub cqr: bool,
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Worst-case time for CSTS.RDY to follow CC.EN, in units of 500 ms.
    pub to: u8,
    /// Doorbell stride: 4 << DSTRD bytes.
    #[bits(4)]
    pub dstrd: u8,
    pub nssrs: bool,
    /// Command sets; bit 0: NVM, bit 6: [`CSS_SEVERAL`].
    pub css: u8,
    pub bps: bool,
    #[bits(2)]
    pub cps: u8,
    /// Smallest page: 4 KiB << MPSMIN.
    #[bits(4)]
    pub mpsmin: u8,
    #[bits(4)]
    pub mpsmax: u8,
    pub pmrs: bool,
    pub cmbs: bool,
    pub nsss: bool,
    /// Controller Ready Modes Supported; bit 0: with media.
    #[bits(2)]
    pub crms: u8,
    #[bits(3)]
    __: u8,
}

/// Version (Base 3.1.3.2).
#[bitfield(u32)]
pub struct Version {
    pub tertiary: u8,
    pub minor: u8,
    pub major: u16,
}

/// Controller Configuration (Base 3.1.3.5).
#[bitfield(u32)]
pub struct Configuration {
    pub en: bool,
    #[bits(3)]
    __: u8,
    #[bits(3)]
    pub css: u8,
    #[bits(4)]
    pub mps: u8,
    #[bits(3)]
    pub ams: u8,
    /// Shutdown Notification; 1: normal.
    #[bits(2)]
    pub shn: u8,
    /// Size of a submission queue entry: 1 << IOSQES bytes.
    #[bits(4)]
    pub iosqes: u8,
    /// Size of a completion queue entry.
    #[bits(4)]
    pub iocqes: u8,
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

/// Controller Status (Base 3.1.3.6).
#[bitfield(u32)]
pub struct Status {
    pub rdy: bool,
    /// Controller Fatal Status.
    pub cfs: bool,
    /// Shutdown Status; 2: complete.
    #[bits(2)]
    pub shst: u8,
    pub nssro: bool,
    pub pp: bool,
    #[bits(26)]
    __: u32,
}

/// Admin Queue Attributes (Base 3.1.3.8). Sizes less one.
#[bitfield(u32)]
pub struct AdminQueueAttributes {
    #[bits(12)]
    pub asqs: u16,
    #[bits(4)]
    __: u8,
    #[bits(12)]
    pub acqs: u16,
    #[bits(4)]
    __: u8,
}

/// Controller Ready Timeouts (Base 3.1.3.17), in units of 500 ms.
#[bitfield(u32)]
pub struct ReadyTimeouts {
    /// With media.
    pub crwmt: u16,
    /// Independent of media.
    pub crimt: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let cap = Capabilities::from_bits(0x0000_0020_1401_03ff | 5 << 32 | 3 << 48 | 1 << 59);
        assert_eq!((cap.mqes(), cap.cqr(), cap.to()), (0x3ff, true, 0x14));
        assert_eq!((cap.dstrd(), cap.css() & 1, cap.mpsmin(), cap.crms()), (5, 1, 3, 1));
        let cc = Configuration::new().with_en(true).with_iosqes(6).with_iocqes(4).with_shn(1);
        assert_eq!(cc.into_bits(), 0x0046_4001);
        assert_eq!(Status::from_bits(0b1011).shst(), 2);
        assert_eq!(AdminQueueAttributes::new().with_asqs(31).with_acqs(63).into_bits(), 0x003f_001f);
        assert_eq!(Version::from_bits(0x0001_0400).minor(), 4);
    }
}
