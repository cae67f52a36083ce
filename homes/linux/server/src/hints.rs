//! What to do about a refusal. The core says which limit it was, what was asked for and what is allowed; which option or limit of this
//! home raises it is said here.

use std::fmt;

use nvme_core::server::control::SessionError;
use nvme_platform::DmaError;
use nvme_session::dataspace::RegistryError;
use nvme_session::factory::CreateError;

/// A refusal in this home's words.
pub(crate) struct Told<'a, E>(pub(crate) &'a E);

impl fmt::Display for Told<'_, SessionError> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.0 {
            SessionError::Dma(DmaError::LockLimit { need, allowed }) => {
                return write!(
                    f,
                    "RLIMIT_MEMLOCK is too small: {need} bytes are needed, and it is {allowed}; raise its hard limit"
                );
            }
            SessionError::Memory(RegistryError::TooMuchMemory { .. }) => "; raise --mem-max",
            SessionError::Memory(RegistryError::NoRoom { .. }) => "; raise vm.max_map_count",
            // QEMU's own words are about a table of memory that could not be set.
            SessionError::Memory(RegistryError::TooManyDataspaces { .. }) => {
                ": each NUMA node and each DIMM of a QEMU is one. It goes on without what was plugged in, and requests into that \
                 memory fail; what it has from the start, its disk does not start without"
            }
            SessionError::Memory(RegistryError::NotTrusted) => "; trust it with --register-ds",
            SessionError::Memory(RegistryError::NotMemory) => {
                "; use tmpfs, a memfd or hugetlbfs, or trust it with --register-ds"
            }
            _ => "",
        };
        write!(f, "{}{hint}", self.0)
    }
}

impl fmt::Display for Told<'_, CreateError> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.0 {
            CreateError::NoRoom { .. } => {
                "; raise --sessions-max, or the hard limit of RLIMIT_NOFILE if the line at start names it"
            }
            _ => "",
        };
        write!(f, "{}{hint}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_what_was_asked_what_is_allowed_and_what_raises_it() {
        let memory = |why| Told(&SessionError::Memory(why)).to_string();
        assert_eq!(
            memory(RegistryError::TooMuchMemory { asked: 70, allowed: 64 }),
            "too much memory (70 bytes, and 64 at most); raise --mem-max"
        );
        let files = memory(RegistryError::TooManyDataspaces { asked: 3, allowed: 2 });
        let told = "too many dataspaces (3, and 2 at most); raise ds-max: each NUMA node and each DIMM of a QEMU is one.";
        assert!(files.starts_with(told) && files.contains("goes on without"), "{files}");
        let room = memory(RegistryError::NoRoom { asked: 9, allowed: 8 });
        assert!(room.starts_with('9') && room.ends_with("8; raise vm.max_map_count"), "{room}");
        assert!(memory(RegistryError::NotTrusted).ends_with("--register-ds"));
        let lock = SessionError::Dma(DmaError::LockLimit { need: 4097, allowed: 4096 });
        assert!(Told(&lock).to_string().starts_with("RLIMIT_MEMLOCK is too small: 4097 bytes are needed"));
        let full = Told(&CreateError::NoRoom { allowed: 16 }).to_string();
        assert!(
            full.starts_with("too many sessions (16 at most); raise --sessions-max, or the hard limit"),
            "{full}"
        );
    }

    #[test]
    fn what_no_option_of_this_home_changes_is_said_as_the_core_says_it() {
        for why in [SessionError::Ended, SessionError::Memory(RegistryError::Overlaps)] {
            assert_eq!(Told(&why).to_string(), why.to_string());
        }
        assert_eq!(Told(&CreateError::Scanning).to_string(), CreateError::Scanning.to_string());
    }
}
