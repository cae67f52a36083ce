//! Memory in which a client keeps what is in flight, for the server that it connects to next (vhost-user, "Inflight I/O tracking").
//!
//! The server makes it, or an earlier one made it and the client kept it. It is the client's memory, checked and mapped as all of it is:
//! in the session's lane, sealed, as a window whose pages may vanish. Nothing is believed of it but which of the client's own
//! requests are to be done again, and no device ever reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_linux::memory::{MemoryFile, Refusal, SEALS, Trusted, made_of_zeroes};
use nvme_linux::vhost::{inflight_len, inflight_stride};
use nvme_platform::{PAGE, Window};
use nvme_session::virtqueue::{forget_journal, journal_holds, journal_len};
use rustix::fs::{fcntl_get_seals, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::regions::{Order, Step};

/// The journals of a client's rings.
pub(crate) struct Inflight {
    window: Window,
    rings: u16,
    size: u16,
    /// Rings that ran with theirs.
    ran: BTreeSet<u16>,
}

impl Inflight {
    /// The journals in a window that was mapped for them.
    pub(crate) fn new(window: Window, rings: u16, size: u16) -> Self {
        Self { window, rings, size, ran: BTreeSet::new() }
    }

    /// A ring runs with its journal.
    pub(crate) fn runs(&mut self, ring: u16) {
        self.ran.insert(ring);
    }

    /// The rings that ran begin anew, and none runs: their journals, to be [forgotten](forget), since what is left there (of a ring that broke,
    /// that is something) is nothing any more.
    pub(crate) fn begin_anew(&mut self) -> Vec<Window> {
        let ran = core::mem::take(&mut self.ran);
        ran.into_iter().filter_map(|ring| self.of(ring, self.size).ok().flatten()).collect()
    }

    /// For how many rings it is, and of how many entries.
    pub(crate) fn shape(&self) -> (u16, u16) {
        (self.rings, self.size)
    }

    /// That of one ring. `Err`: the ring has another size than was said.
    pub(crate) fn of(&self, ring: u16, size: u16) -> Result<Option<Window>, WrongSize> {
        if ring >= self.rings {
            return Ok(None);
        }
        if size != self.size {
            return Err(WrongSize(self.size, size));
        }
        let at = usize::from(ring) * usize::try_from(inflight_stride(size)).unwrap_or(usize::MAX);
        self.window.sub(at, journal_len(size)).map(Some).map_err(|_| WrongSize(self.size, size))
    }
}

/// A ring's entries are not as many as its journal was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what is in flight is kept for rings of {0} entries, and this one has {1}")]
pub(crate) struct WrongSize(u16, u16);

/// Nothing is kept of a ring that should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoJournal {
    #[error(transparent)]
    Size(#[from] WrongSize),
    #[error("memory for what is in flight: {0}")]
    Memory(#[from] Refusal),
}

/// A region that this server made for a client.
pub(crate) struct Made {
    file: OwnedFd,
    rings: u16,
    size: u16,
    /// The connection that it was made for.
    token: u64,
}

impl Made {
    /// Makes one that nobody can make longer or shorter.
    pub(crate) fn new(rings: u16, size: u16, token: u64) -> Result<Self, Errno> {
        let file = made_of_zeroes("nvme-inflight", file_len(rings, size))?;
        Ok(Self { file, rings, size, token })
    }

    /// Whether it is what that connection asks for. Another client's begins empty.
    pub(crate) fn is_for(&self, rings: u16, size: u16, token: u64) -> bool {
        (self.rings, self.size, self.token) == (rings, size, token)
    }

    /// For the client.
    pub(crate) fn share(&self) -> Result<OwnedFd, Errno> {
        fcntl_dupfd_cloexec(&self.file, 0)
    }
}

/// Rings whose journals lie in one file: few descriptors and mappings, and little memory for clients with few rings.
const TOGETHER: u16 = 16;
/// Bytes of each: for as many entries as there can be.
const EACH: usize = journal_len(1024);

/// Where the server itself keeps what is in flight on a client's rings, for the next one in case that it is killed: as long as the client does
/// not.
#[derive(Default)]
pub(crate) struct Own(BTreeMap<u16, (OwnedFd, Window)>);

impl Own {
    /// Takes what the server before had, by the first ring that it is for.
    pub(crate) fn take(&mut self, first: u16, file: OwnedFd) -> Result<(), Refusal> {
        let again = fcntl_dupfd_cloexec(&file, 0).map_err(|why| Refusal::System("fcntl", why))?;
        let len = EACH * usize::from(TOGETHER);
        let window = MemoryFile::open(again, &Trusted::default())?.map(0, len as u64)?;
        self.0.insert(first / TOGETHER * TOGETHER, (file, window));
        Ok(())
    }

    /// That of one ring. `fresh`: nothing that is there counts.
    pub(crate) fn of(&mut self, ring: u16, size: u16, fresh: bool) -> Result<Window, Refusal> {
        let first = ring / TOGETHER * TOGETHER;
        if !self.0.contains_key(&first) {
            let len = EACH * usize::from(TOGETHER);
            let file = made_of_zeroes("nvme-journal", len as u64);
            self.take(first, file.map_err(|why| Refusal::System("memfd_create", why))?)?;
        }
        let none = Refusal::System("mmap", Errno::FAULT);
        let (_, window) = self.0.get(&first).ok_or(none)?;
        let at = usize::from(ring - first) * EACH;
        let none = Refusal::System("mmap", Errno::FAULT);
        let window = window.sub(at, journal_len(size)).map_err(|_| none)?;
        if fresh {
            forget_journal(&window);
        }
        Ok(window)
    }

    /// That of one ring, if it has one.
    fn known(&self, ring: u16, size: u16) -> Option<Window> {
        let first = ring / TOGETHER * TOGETHER;
        let (_, window) = self.0.get(&first)?;
        window.sub(usize::from(ring - first) * EACH, journal_len(size)).ok()
    }

    /// Whether something of a ring is still to be done.
    pub(crate) fn holds(&self, ring: u16, size: u16) -> bool {
        self.known(ring, size).is_some_and(|journal| journal_holds(&journal, size))
    }

    /// Nothing of a ring is to be done any more, whoever serves it next.
    pub(crate) fn forget(&self, ring: u16, size: u16) {
        if let Some(journal) = self.known(ring, size) {
            forget_journal(&journal);
        }
    }

    /// The files, each with the first ring that it is for.
    pub(crate) fn files(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.0.iter().map(|(first, (file, _))| (*first, file.as_fd()))
    }
}

/// Bytes of a file that is made. Never whole pages, as the memory of every machine is.
fn file_len(rings: u16, size: u16) -> u64 {
    let len = inflight_len(rings, size);
    if len.is_multiple_of(PAGE as u64) { len + 64 } else { len }
}

/// Whether a file is made as [`Made`] makes them: of just that length, which is no length of a machine's memory, and sealed for good. Where
/// some dataspaces are trusted no other is taken. It need not be of this very server: the one before may have made it.
pub(crate) fn is_made(file: &OwnedFd, rings: u16, size: u16) -> bool {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS));
    sealed && fstat(file).is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(file_len(rings, size)))
}

/// Has a client's file looked at, sealed and mapped. `made`: a server made it, so that it need not be one of the trusted ones.
pub(crate) fn map(order: Order, trusted: &Arc<Trusted>, made: bool, file: OwnedFd, offset: u64, len: u64) {
    let trusted = if made { Default::default() } else { Arc::clone(trusted) };
    order.put(move || {
        let file = MemoryFile::open(file, &trusted)?;
        if !file.writable() {
            return Err(Refusal::NotWritable.into());
        }
        let window = file.map(offset, len)?;
        Ok(Step::Inflight(window, Arc::new(file), offset))
    });
}

/// Has journals made such that nobody has used them yet. They are in a client's memory, which takes what time the client makes it take.
pub(crate) fn forget(order: Order, journals: Vec<Window>) {
    order.put(move || {
        journals.iter().for_each(forget_journal);
        Ok(Step::Forgotten)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_made_is_never_whole_pages_and_is_known_again() {
        for rings in 1..=256 {
            for size in [1, 2, 64, 128, 256, 1024] {
                let len = file_len(rings, size);
                assert!(
                    len >= inflight_len(rings, size) && !len.is_multiple_of(PAGE as u64),
                    "{rings} {size}"
                );
            }
        }
        for (rings, size) in [(1, 128), (64, 128), (256, 1024)] {
            let made = Made::new(rings, size, 1).unwrap();
            assert!(
                is_made(&made.share().unwrap(), rings, size)
                    && !is_made(&made.share().unwrap(), rings, size * 2)
            );
            assert!(made.is_for(rings, size, 1) && !made.is_for(rings, size, 2));
        }
    }

    #[test]
    fn a_ring_s_own_journal_is_there_for_the_next_server_and_empty_for_another_start() {
        let mut own = Own::default();
        for ring in [0, 15, 16, 255] {
            own.of(ring, 1024, true).unwrap().write(0, &[ring as u8; journal_len(1024)]).unwrap();
        }
        let files: Vec<_> =
            own.files().map(|(first, file)| (first, file.try_clone_to_owned().unwrap())).collect();
        assert_eq!(files.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 16, 240]);
        let mut next = Own::default();
        files.into_iter().for_each(|(first, file)| next.take(first, file).unwrap());
        for ring in [0, 15, 16, 255] {
            let mut bytes = [0; 12];
            next.of(ring, 128, false).unwrap().read(0, &mut bytes).unwrap();
            assert_eq!(bytes, [ring as u8; 12]);
            next.of(ring, 128, true).unwrap().read(0, &mut bytes).unwrap();
            assert_eq!(bytes[8..10], [0, 0], "it has no version");
        }
    }

    #[test]
    fn a_ring_has_its_journal_behind_those_of_the_rings_before_it() {
        let window = nvme_mem::heap(usize::try_from(inflight_len(2, 128)).unwrap()).unwrap();
        let inflight = Inflight::new(window.clone(), 2, 128);
        let second = inflight.of(1, 128).unwrap().unwrap();
        assert_eq!((second.address() - window.address(), second.len()), (2112, journal_len(128)));
        assert!(inflight.of(2, 128).unwrap().is_none(), "it keeps nothing of that ring");
        assert_eq!(inflight.of(0, 256).err(), Some(WrongSize(128, 256)));
    }

    #[test]
    fn a_ring_that_ran_begins_anew_and_one_that_did_not_keeps_what_another_server_left() {
        let window = nvme_mem::heap(usize::try_from(inflight_len(2, 128)).unwrap()).unwrap();
        window.fill(0, window.len(), 1).unwrap();
        let mut inflight = Inflight::new(window, 2, 128);
        inflight.runs(1);
        let places: Vec<_> = inflight.begin_anew().iter().map(Window::address).collect();
        assert_eq!(places, [inflight.of(1, 128).unwrap().unwrap().address()]);
        assert!(inflight.begin_anew().is_empty(), "none of them ran since");
    }
}
