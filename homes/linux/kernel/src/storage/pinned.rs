//! Client memory as fixed buffers of a ring (`pin`): its pages are looked up and held once, when it is first used.
//!
//! The ring keeps the pages of that time. One that goes and comes again (a balloon, free page reporting, virtio-mem) is another page
//! then, and what is read goes into the old one, for nobody. So this is for operators who know that their guests do none of that.
//!
//! A piece of memory is known by its owner, not by its address: what is mapped later at the same place is not taken for it. What
//! nobody owns any more is let go of when the thread is about to sleep.
#![expect(unsafe_code, reason = "gives the kernel addresses that it uses later")]

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use io_uring::Submitter;
use nvme_mem::{Owner, Window};
use nvme_platform::Time;

use super::task::Task;
use crate::events::{bringing, now};
use crate::logger::OPERATOR;

/// IORING_REGISTER_BUFFERS_UPDATE of io_uring_register(2).
pub(super) const UPDATE: u8 = 16;
/// How many a ring knows: what the kernel allows.
const BUFFERS: u16 = 1 << 14;
/// Bytes of each, at most: so much is looked up at once, while others wait.
const CHUNK: usize = 16 << 20;
/// How often the thread looks for what nobody owns any more.
const SWEEP: Duration = Duration::from_secs(1);

struct Chunk {
    /// Keeps the owner's place in memory, so that no other can have it; not the owner.
    owner: Weak<Owner>,
    base: usize,
    len: usize,
    /// None: it could not be had.
    index: Option<u16>,
}

/// What a ring knows.
#[derive(Default)]
pub(super) struct Pinned {
    /// By owner and by where it is.
    chunks: BTreeMap<(usize, usize), Chunk>,
    /// Buffers that were let go of.
    free: Vec<u16>,
    /// Those that were never used begin here.
    fresh: u16,
    swept: Time,
    /// It was said that some cannot be had.
    said: bool,
}

impl Pinned {
    /// Before the ring is enabled: it has room, and knows nothing.
    pub(super) fn make_room(submitter: &Submitter<'_>) -> std::io::Result<()> {
        submitter.register_buffers_sparse(BUFFERS.into())
    }

    /// The buffer in which a task's only piece lies, if there is one. Memory that is met for the first time becomes one.
    pub(super) fn find(&mut self, submitter: &Submitter<'_>, task: &Task) -> Option<u16> {
        let request = task.request.as_ref()?;
        let mut memory = request.memory();
        let (Some((window, offset, len)), None) = (memory.next(), memory.next()) else { return None };
        let address = window.address() + offset;
        // Whoever copies aside, or writes zeroes, uses other memory.
        if task.pieces.first().map(|piece| piece.iov_base.addr()) != Some(address) {
            return None;
        }
        let key = (Arc::as_ptr(window.owner()).addr(), address / CHUNK);
        if !self.chunks.contains_key(&key) {
            let chunk = self.pin(submitter, window, address / CHUNK * CHUNK);
            self.chunks.insert(key, chunk);
        }
        let chunk = self.chunks.get(&key)?;
        let inside = address >= chunk.base && address + len <= chunk.base + chunk.len;
        chunk.index.filter(|_| inside)
    }

    /// What of a window lies in the chunk that begins at `start`.
    fn pin(&mut self, submitter: &Submitter<'_>, window: &Window, start: usize) -> Chunk {
        let base = start.max(window.address());
        let end = (start + CHUNK).min(window.address() + window.len());
        let owner = Arc::downgrade(window.owner());
        let mut chunk = Chunk { owner, base, len: end.saturating_sub(base), index: None };
        let index = self.free.last().copied().or_else(|| (self.fresh < BUFFERS).then_some(self.fresh));
        let Some(index) = index else { return chunk };
        let piece = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(base), iov_len: chunk.len };
        // SAFETY: the window is mapped now. The ring holds the pages themselves: what becomes of the addresses does not matter to it.
        let told = bringing(|| unsafe { submitter.register_buffers_update(index.into(), &[piece], None) });
        match told {
            Ok(()) => {
                if self.free.pop().is_none() {
                    self.fresh += 1;
                }
                chunk.index = Some(index);
            }
            Err(why) if !self.said => {
                self.said = true;
                log::warn!(target: OPERATOR, "pin: client memory cannot be pinned, and is served as it is: {why} (RLIMIT_MEMLOCK?)");
            }
            Err(_) => {}
        }
        chunk
    }

    /// Lets go of what nobody owns any more.
    pub(super) fn sweep(&mut self, submitter: &Submitter<'_>) {
        let time = now();
        if time < self.swept + SWEEP {
            return;
        }
        self.swept = time;
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let free = &mut self.free;
        self.chunks.retain(|_, chunk| {
            if chunk.owner.strong_count() > 0 {
                return true;
            }
            if let Some(index) = chunk.index {
                // SAFETY: it is told of no memory.
                if unsafe { submitter.register_buffers_update(index.into(), &[nothing], None) }.is_err() {
                    return true;
                }
                free.push(index);
            }
            false
        });
    }
}
