//! What a namespace is, whichever controller shows it.

use alloc::string::String;

/// What tells a namespace from others, as far as its controller says. Two controllers of one NVM subsystem may share a
/// namespace: it is one disk then, with two ways to it, and who writes on one way is in the way of who reads on the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Medium {
    /// The subsystem's name (NQN); empty: not said, and nothing is known to be shared.
    pub subsystem: String,
    /// Whether other controllers of the subsystem may have it, too.
    pub shared: bool,
    /// Its identifier in the subsystem.
    pub nsid: u32,
    /// Its globally unique identifiers, NGUID and EUI-64; zeroes: not said.
    pub unique: ([u8; 16], [u8; 8]),
}

impl Medium {
    /// Whether another controller's namespace is this one. A shared namespace has one identifier in all of its subsystem
    /// (NVM Express Base 2.0, 3.2.1.5); names of subsystems that are not as unique as they should be are told apart by
    /// the globally unique identifiers.
    pub fn is(&self, other: &Self) -> bool {
        self.shared && !self.subsystem.is_empty() && self.nsid == other.nsid && self.may_be(other)
    }

    /// Whether what one controller shows now under a number may be what it showed there before: nothing that does not
    /// change says otherwise.
    pub fn may_be(&self, other: &Self) -> bool {
        fn agree<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
            a == b || *a == [0; N] || *b == [0; N]
        }
        (self.shared, &self.subsystem) == (other.shared, &other.subsystem)
            && agree(&self.unique.0, &other.unique.0)
            && agree(&self.unique.1, &other.unique.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn medium(nguid: u8, eui: u8) -> Medium {
        Medium { subsystem: "nqn.a".into(), shared: true, nsid: 1, unique: ([nguid; 16], [eui; 8]) }
    }

    #[test]
    fn one_disk_is_known_by_its_subsystem_and_identifier_there() {
        assert!(medium(1, 2).is(&medium(1, 2)) && medium(0, 0).is(&medium(0, 0)));
        assert!(medium(1, 0).is(&medium(0, 2)), "nothing says otherwise");
        for other in [
            Medium { shared: false, ..medium(1, 2) },
            Medium { nsid: 2, ..medium(1, 2) },
            Medium { subsystem: "nqn.b".into(), ..medium(1, 2) },
            medium(3, 2),
            medium(1, 3),
        ] {
            assert!(!medium(1, 2).is(&other) && !other.is(&medium(1, 2)), "{other:?}");
        }
        let nameless = Medium { subsystem: String::new(), ..medium(0, 0) };
        assert!(!nameless.is(&nameless));
    }
}
