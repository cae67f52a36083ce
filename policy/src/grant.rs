//! What a session holds: an extent, and what it may do there.

use core::fmt;

use crate::extent::{Cover, Extent, LbaRange, Namespace, NotConfined};

/// What a session may do with its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It may read.
    ReadOnly,
    /// It may read and write.
    ReadWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}

/// The refusal of a permit: the session is read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOnly;

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session is read-only")
    }
}

impl core::error::Error for ReadOnly {}

/// An extent with the access that a session has to it. The factory makes it; a session's queues each hold one.
#[derive(Clone, Debug)]
pub struct Grant {
    extent: Extent,
    access: Access,
}

impl Grant {
    /// Grants `access` to `extent`. For the factory, which has checked that nobody is in the way, and for the scan
    /// of partition tables, which asks for [`Access::ReadOnly`].
    pub fn new(extent: Extent, access: Access) -> Self {
        Self { extent, access }
    }

    /// A part of it, for less or for the same: what a factory gives on. `None` unless all of `extent` lies inside, and `access` is no
    /// more than its own.
    pub fn narrow(&self, extent: Extent, access: Access) -> Option<Self> {
        let allowed = access == Access::ReadOnly || self.access == Access::ReadWrite;
        (allowed && self.extent.contains(&extent)).then_some(Self { extent, access })
    }

    /// What it covers.
    #[inline]
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// What it allows.
    pub fn access(&self) -> Access {
        self.access
    }

    /// See [`Extent::confine`].
    #[inline(always)]
    pub fn confine(&self, sector: u64, bytes: u64) -> Result<LbaRange, NotConfined> {
        self.extent.confine(sector, bytes)
    }

    /// See [`Extent::cover`].
    pub fn cover(&self, sector: u64, bytes: u64) -> Result<Cover, NotConfined> {
        self.extent.cover(sector, bytes)
    }

    /// The one place where a [`WritePermit`] is made: one for each request that changes the disk.
    #[inline]
    pub fn write_permit(&self) -> Result<WritePermit, ReadOnly> {
        match self.access {
            Access::ReadWrite => Ok(WritePermit { namespace: self.extent.namespace() }),
            Access::ReadOnly => Err(ReadOnly),
        }
    }
}

/// Proof of the right to write. Having this value tells you that the policy lets one request change that namespace. It does not tell you
/// where: an [`LbaRange`] does.
///
/// Only [`Grant::write_permit`] makes it. Neither copied nor kept: one request uses it up.
#[derive(Debug)]
pub struct WritePermit {
    namespace: Namespace,
}

impl WritePermit {
    /// The namespace that may be changed.
    #[inline]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Divides it, for a request that becomes several commands.
    #[inline]
    pub fn split(self) -> (WritePermit, WritePermit) {
        let Self { namespace } = self;
        (Self { namespace }, Self { namespace })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
mod tests {
    use super::*;
    use crate::extent::BlockSize;

    #[test]
    fn a_read_only_grant_makes_no_permit() {
        let extent = Extent::whole(Namespace { controller: 0, nsid: 1 }, 8, BlockSize::B512).unwrap();
        assert!(Grant::new(extent, Access::ReadOnly).write_permit().is_err());
        assert!(Grant::new(extent, Access::ReadWrite).write_permit().is_ok());
    }

    #[test]
    fn a_grant_becomes_narrower_and_never_wider() {
        let whole = Extent::whole(Namespace { controller: 0, nsid: 1 }, 8, BlockSize::B512).unwrap();
        let part = |first, blocks| whole.part(first, blocks).unwrap();
        let held = Grant::new(part(2, 4), Access::ReadWrite);
        for inside in [part(2, 4), part(2, 1), part(5, 1)] {
            let narrow = held.narrow(inside, Access::ReadOnly).unwrap();
            assert_eq!((*narrow.extent(), narrow.access()), (inside, Access::ReadOnly));
            assert!(held.narrow(inside, Access::ReadWrite).unwrap().write_permit().is_ok());
            assert!(narrow.narrow(inside, Access::ReadWrite).is_none());
        }
        for outside in [part(1, 4), part(3, 4), part(0, 8), part(6, 1), part(0, 2)] {
            assert!(held.narrow(outside, Access::ReadOnly).is_none(), "{outside:?}");
        }
        for other in [
            Extent::whole(Namespace { controller: 1, nsid: 1 }, 8, BlockSize::B512),
            Extent::whole(Namespace { controller: 0, nsid: 2 }, 8, BlockSize::B512),
            Extent::whole(Namespace { controller: 0, nsid: 1 }, 8, BlockSize::B4096),
        ] {
            let other = other.unwrap().part(2, 4).unwrap();
            assert!(held.narrow(other, Access::ReadOnly).is_none(), "{other:?}");
        }
    }
}
