//! Pages of a mapped image that could not be had.
//!
//! The handler of SIGBUS writes each down and puts a page of zeroes in its place ([`put`](Faults::put)). Whoever copies asks
//! before ([`now`](Faults::now)) and after ([`hit`](Faults::hit)): whether any page of its range was put since, or lay there all
//! along. Then the file's pages are put back. So a page costs those who used it while it was not there, and nobody else.
#![expect(unsafe_code, reason = "puts pages in the place of others")]

use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use nvme_platform::PAGE;
use nvme_soft::Missing;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

use super::zeroes;

/// Pages that are remembered. More between two looks: whoever copied meanwhile counts as hit.
const KEPT: usize = 64;

/// What the handler writes down.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Pages that were put so far, each counted before it is there, and how many of these were put back.
    missing: Arc<Missing>,
    /// Handlers that have ended.
    ended: AtomicU64,
    /// The n-th page is in place n modulo [`KEPT`]: its number, and the low bits of n to tell it from others.
    pages: [AtomicU64; KEPT],
    file: OwnedFd,
    base: AtomicUsize,
    len: usize,
    writable: bool,
    turn: Mutex<()>,
    /// All of it is zeroes, or may be.
    broken: AtomicBool,
}

/// How it stood before a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    back: u64,
}

/// Bits of an entry that tell which fault it is.
const TAG: u64 = 0xffff;

impl Faults {
    pub(super) fn new(file: OwnedFd, len: usize, writable: bool) -> Self {
        Self {
            missing: Arc::default(),
            ended: AtomicU64::new(0),
            pages: [const { AtomicU64::new(u64::MAX) }; KEPT],
            file,
            base: AtomicUsize::new(0),
            len,
            writable,
            turn: Mutex::new(()),
            broken: AtomicBool::new(false),
        }
    }

    /// Where its image is mapped. Nobody has used that yet.
    pub(super) fn mapped_at(&self, base: usize) {
        self.base.store(base, Ordering::Relaxed);
    }

    /// For the handler: puts a page of zeroes where this address is, in the window at that place of the table. Async-signal-safe.
    pub(super) fn put(&self, index: usize, address: usize) -> bool {
        let base = self.base.load(Ordering::Relaxed);
        let page = address.wrapping_sub(base) / PAGE;
        // Counted before it is there: whoever uses it sees the count.
        let n = self.missing.put();
        fence(Ordering::SeqCst);
        let at = base + page * PAGE;
        // Where the host commits no more memory, one of the pages that were made beforehand.
        let mut put = self.zeroes(at, PAGE) || self.writable && zeroes::lend(index, at, PAGE);
        if !put {
            // No room for another mapping: then all of it goes, which needs none, and every request makes its call.
            self.broken.store(true, Ordering::Release);
            put = self.zeroes(base, self.len);
        }
        if let Some(place) = self.pages.get(n as usize % KEPT) {
            place.store((page as u64) << 16 | n & TAG, Ordering::Release);
        }
        self.ended.fetch_add(1, Ordering::Release);
        put
    }

    fn zeroes(&self, address: usize, len: usize) -> bool {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let at = ptr::with_exposed_provenance_mut(address);
        // SAFETY: a part of a mapping of our own, which is used through windows alone; it may change at any time.
        unsafe { mmap_anonymous(at, len, self.protection(), flags) }.is_ok()
    }

    fn protection(&self) -> ProtFlags {
        if self.writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ }
    }

    /// To be asked before a copy.
    #[inline]
    pub(crate) fn now(&self) -> Before {
        Before { back: self.missing.back() }
    }

    /// To be asked after a copy of these bytes: whether any page of theirs was not there.
    #[inline]
    pub(crate) fn hit(&self, before: Before, offset: usize, len: usize) -> bool {
        let put = self.missing.count();
        put != before.back && self.look(before, put, offset, len)
    }

    /// The counts.
    pub(crate) fn missing(&self) -> &Arc<Missing> {
        &self.missing
    }

    #[cold]
    fn look(&self, before: Before, put: u64, offset: usize, len: usize) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let first = (offset / PAGE) as u64;
        let last = ((offset + len.max(1) - 1) / PAGE) as u64;
        let mut hit = put - before.back > KEPT as u64 || self.broken.load(Ordering::Acquire);
        for n in before.back..put {
            let entry = self.pages.get(n as usize % KEPT).map_or(0, |page| page.load(Ordering::Acquire));
            // It is not written down yet, or not any more: it may be any.
            hit |= entry & TAG != n & TAG || (first..=last).contains(&(entry >> 16));
        }
        self.put_back();
        hit
    }

    /// Puts the file's pages back. With the turn.
    fn put_back(&self) {
        let (back, put) = (self.missing.back(), self.missing.count());
        // A handler that has not ended would put its page over the file's: the next one to look puts that back.
        if put == back || self.ended.load(Ordering::Acquire) != put {
            return;
        }
        let base = self.base.load(Ordering::Relaxed);
        let whole = put - back > KEPT as u64 || self.broken.load(Ordering::Acquire);
        let good = if whole {
            self.map(base, self.len, 0)
        } else {
            (back..put).all(|n| {
                let entry = self.pages.get(n as usize % KEPT).map_or(0, |page| page.load(Ordering::Acquire));
                let at = (entry >> 16) as usize * PAGE;
                // Overwritten by one that has just begun: with the next look.
                entry & TAG == n & TAG && self.map(base + at, PAGE, at as u64)
            })
        };
        if good {
            self.broken.store(false, Ordering::Release);
            self.missing.put_back(put);
        }
    }

    fn map(&self, address: usize, len: usize, offset: u64) -> bool {
        let at = ptr::with_exposed_provenance_mut(address);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: a part of a mapping of our own, which is used through windows alone; it may change at any time.
        let mapped = unsafe { mmap(at, len, self.protection(), flags, &self.file, offset) }.is_ok();
        if mapped {
            zeroes::given_back(address, len);
        }
        mapped
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nvme_platform::PAGE;
    use rustix::fs::{MemfdFlags, memfd_create};

    use crate::memory::map_image;
    use crate::memory::zeroes::SLICES;

    #[test]
    fn a_page_that_is_gone_costs_those_who_use_it_and_is_there_again_when_it_can() {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(8 * PAGE as u64).unwrap();
        let (window, faults) = map_image(file.as_fd(), 8 * PAGE as u64, true).unwrap();
        let copy = |page: usize, byte: u8| {
            let before = faults.now();
            window.fill(page * PAGE, PAGE, byte).unwrap();
            faults.hit(before, page * PAGE, PAGE)
        };
        assert!((0..8).all(|page| !copy(page, 1)));
        file.set_len(4 * PAGE as u64).unwrap();
        for _ in 0..3 {
            assert!(copy(5, 2) && copy(4, 2), "it is not there");
            assert!(!copy(3, 3), "its neighbour is");
        }
        // Who used it before it was put back, and looks afterwards, is told as well.
        let before = faults.now();
        window.fill(6 * PAGE, 8, 4).unwrap();
        assert!(copy(5, 2));
        assert!(faults.hit(before, 6 * PAGE, 8));
        assert!(!window.failed());
        file.set_len(8 * PAGE as u64).unwrap();
        assert!((0..8).all(|page| !copy(page, 7)));
        let mut bytes = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 5 * PAGE as u64).unwrap();
        assert_eq!(bytes, [7; 8], "it was written into a page that the file does not have");
    }

    #[test]
    fn a_page_that_is_gone_costs_no_more_where_the_kernel_commits_no_more_memory() {
        let program = std::env::current_exe().unwrap();
        let test = "memory::faults::tests::child_that_is_refused_memory";
        let arguments = ["--exact", "--ignored", "--nocapture", test];
        let out = std::process::Command::new(program).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && said.contains("1 passed"),
            "{}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }

    #[test]
    #[ignore = "run by a_page_that_is_gone_costs_no_more_where_the_kernel_commits_no_more_memory"]
    fn child_that_is_refused_memory() {
        use seccompiler::SeccompCmpArgLen::Dword;
        use seccompiler::SeccompCmpOp::MaskedEq;
        use seccompiler::{SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

        let pages = 3 * SLICES;
        let files: [File; 2] = std::array::from_fn(|_| {
            let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
            file.set_len((pages * PAGE) as u64).unwrap();
            file
        });
        let images =
            files.each_ref().map(|file| map_image(file.as_fd(), (pages * PAGE) as u64, true).unwrap());
        // A private writable anonymous mapping is refused, as it is at the commit limit of `vm.overcommit_memory=2`.
        let masked = |argument, mask| SeccompCondition::new(argument, Dword, MaskedEq(mask), mask).unwrap();
        let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let rule = SeccompRule::new(vec![masked(2, libc::PROT_WRITE as u64), masked(3, private)]).unwrap();
        let rules = [(libc::SYS_mmap, vec![rule])].into_iter().collect();
        let refuse = SeccompAction::Errno(libc::ENOMEM.unsigned_abs());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();

        let copy = |image: usize, page: usize, byte: u8| {
            let (window, faults) = &images[image];
            let before = faults.now();
            let mut read = [0; 8];
            window.read(page * PAGE, &mut read).unwrap();
            window.fill(page * PAGE, PAGE, byte).unwrap();
            (faults.hit(before, page * PAGE, PAGE), read[0])
        };
        // Of two images by turns, more pages than there are slices, each of them twice: one of another's is never seen.
        files.iter().for_each(|file| file.set_len(0).unwrap());
        for page in (0..pages).chain(0..pages) {
            for image in [0, 1] {
                assert_eq!(copy(image, page, 1 + image as u8), (true, 0), "{image} {page}");
            }
        }
        files.iter().for_each(|file| file.set_len((pages * PAGE) as u64).unwrap());
        for page in 0..pages {
            for image in [0, 1] {
                assert_eq!(copy(image, page, 9), (false, 0), "{image} {page}");
            }
        }
        assert!(images.iter().all(|(window, _)| !window.failed()));
    }

    #[test]
    fn more_pages_than_are_remembered_are_told_to_everybody_and_put_back() {
        let pages = 3 * super::KEPT;
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        let (window, faults) = map_image(file.as_fd(), (pages * PAGE) as u64, true).unwrap();
        let before = faults.now();
        for page in 0..pages {
            window.fill(page * PAGE, 8, 1).unwrap();
        }
        assert!(faults.hit(before, 0, 8));
        file.set_len((pages * PAGE) as u64).unwrap();
        for page in 0..pages {
            let before = faults.now();
            window.fill(page * PAGE, 8, 9).unwrap();
            assert!(!faults.hit(before, page * PAGE, 8), "{page}");
        }
    }
}
