//! What a namespace is, whichever controller shows it.

use alloc::string::String;

/// What tells an NVM subsystem from others. It has one serial number and one model number, whichever of its controllers is
/// asked (NVM Express Base 2.0, 5.17.2.1): names that are not as unique as they should be (many drives say one NQN for
/// all of their kind) are told apart by them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subsystem {
    /// Its name (NQN); empty: not said, and nothing is known to be shared.
    pub name: String,
    /// Its serial number.
    pub serial: String,
    /// Its model number.
    pub model: String,
}

/// The globally unique identifiers of a namespace; zeroes: not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identifiers {
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI-64.
    pub eui64: [u8; 8],
    /// UUID.
    pub uuid: [u8; 16],
}

impl Identifiers {
    /// Whether none says that these are two.
    fn agree(&self, other: &Self) -> bool {
        fn may_be<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
            a == b || *a == [0; N] || *b == [0; N]
        }
        may_be(&self.nguid, &other.nguid)
            && may_be(&self.eui64, &other.eui64)
            && may_be(&self.uuid, &other.uuid)
    }
}

/// What tells a namespace from others, as far as its controller says. Two controllers of one NVM subsystem may share a
/// namespace: it is one disk then, with two ways to it, and who writes on one way is in the way of who reads on the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskIdentity {
    /// The subsystem that it is of.
    pub subsystem: Subsystem,
    /// The number in its subsystem of the controller that shows it (CNTLID).
    pub controller: u16,
    /// Whether other controllers of the subsystem may have it, too: the subsystem may have several, and the namespace may
    /// be shared.
    pub shared: bool,
    /// Its identifier in the subsystem.
    pub nsid: u32,
    /// What it is known by everywhere.
    pub unique: Identifiers,
}

impl DiskIdentity {
    /// Whether another controller's namespace is this one. A shared namespace has one identifier in all of its subsystem
    /// (NVM Express Base 2.0, 3.2.1.5), and the subsystem no two controllers of one number: whatever says otherwise says that
    /// these are two.
    pub fn is(&self, other: &Self) -> bool {
        self.shared
            && !self.subsystem.name.is_empty()
            && self.controller != other.controller
            && self.nsid == other.nsid
            && self.may_be(other)
    }

    /// Whether what one controller shows now under a number may be what it showed there before: nothing that does not
    /// change says otherwise.
    pub fn may_be(&self, other: &Self) -> bool {
        (self.shared, &self.subsystem) == (other.shared, &other.subsystem) && self.unique.agree(&other.unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subsystem(name: &str, serial: &str, model: &str) -> Subsystem {
        Subsystem { name: name.into(), serial: serial.into(), model: model.into() }
    }

    fn unique(nguid: u8, eui: u8, uuid: u8) -> Identifiers {
        Identifiers { nguid: [nguid; 16], eui64: [eui; 8], uuid: [uuid; 16] }
    }

    /// As the second controller of a subsystem has it.
    fn disk_identity(unique: Identifiers) -> DiskIdentity {
        let subsystem = subsystem("nqn.a", "S", "M");
        DiskIdentity { subsystem, controller: 2, shared: true, nsid: 1, unique }
    }

    /// As the first one has it.
    fn first(unique: Identifiers) -> DiskIdentity {
        DiskIdentity { controller: 1, ..disk_identity(unique) }
    }

    #[test]
    fn one_disk_is_known_by_its_subsystem_and_identifier_there() {
        let all = unique(1, 2, 3);
        for (a, b) in [
            (all, all),
            (unique(0, 0, 0), unique(0, 0, 0)),
            (unique(1, 0, 0), unique(0, 2, 3)),
            (unique(1, 0, 3), unique(1, 2, 0)),
        ] {
            assert!(
                first(a).is(&disk_identity(b)) && disk_identity(b).is(&first(a)),
                "nothing says otherwise: {a:?} {b:?}"
            );
        }
        let nameless = subsystem("", "S", "M");
        for other in [
            DiskIdentity { shared: false, ..disk_identity(all) },
            DiskIdentity { nsid: 2, ..disk_identity(all) },
            DiskIdentity { controller: 1, ..disk_identity(all) },
            DiskIdentity { subsystem: subsystem("nqn.b", "S", "M"), ..disk_identity(all) },
            DiskIdentity { subsystem: subsystem("nqn.a", "T", "M"), ..disk_identity(all) },
            DiskIdentity { subsystem: subsystem("nqn.a", "S", "N"), ..disk_identity(all) },
            DiskIdentity { subsystem: nameless.clone(), ..disk_identity(all) },
            disk_identity(unique(9, 2, 3)),
            disk_identity(unique(1, 9, 3)),
            disk_identity(unique(1, 2, 9)),
        ] {
            assert!(!first(all).is(&other) && !other.is(&first(all)), "{other:?}");
        }
        let of = |disk_identity| DiskIdentity { subsystem: nameless.clone(), ..disk_identity };
        assert!(!of(first(all)).is(&of(disk_identity(all))));
    }
}
