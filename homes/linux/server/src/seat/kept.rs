//! The files of a client's memory, kept where another server may take over: what is mapped here has to be mapped there.
//!
//! They are the client's. Whatever is not wanted any more is closed in the session's lane.

use std::mem::take;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nvme_linux::lanes::Lane;
use nvme_linux::memory::MemoryFile;
use nvme_linux::vhost::Region;

use crate::regions::{Checked, Wanted};

/// A region, and the file that it lies in.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) region: Region,
    pub(super) file: Arc<MemoryFile>,
}

/// What becomes of what is kept, once control has changed the memory.
enum Change {
    Replace(Vec<Kept>),
    Add(Vec<Kept>),
    Remove(Region),
}

/// The files of a connection.
pub(super) struct Files {
    lane: Arc<Lane>,
    regions: Vec<Kept>,
    change: Option<Change>,
    /// Of where it keeps what is in flight, and where that begins there.
    inflight: Option<(Arc<MemoryFile>, u64)>,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.discard(None);
        let (regions, inflight) = (take(&mut self.regions), self.inflight.take());
        if !regions.is_empty() || inflight.is_some() {
            self.lane.put(move || drop((regions, inflight)));
        }
    }
}

impl Files {
    pub(super) fn new(lane: &Arc<Lane>) -> Self {
        Self { lane: Arc::clone(lane), regions: Vec::new(), change: None, inflight: None }
    }

    /// What is kept.
    pub(super) fn regions(&self) -> &[Kept] {
        &self.regions
    }

    /// The file of where it keeps what is in flight, and where that begins there.
    pub(super) fn inflight(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let (file, offset) = self.inflight.as_ref()?;
        Some((file.as_fd()?, *offset))
    }

    /// How many descriptors that is.
    pub(super) fn count(&self) -> usize {
        self.each().len() + usize::from(self.inflight.is_some())
    }

    /// Each file once.
    pub(super) fn each(&self) -> Vec<&Arc<MemoryFile>> {
        let mut files: Vec<&Arc<MemoryFile>> = Vec::new();
        for Kept { file, .. } in &self.regions {
            if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
                files.push(file);
            }
        }
        files
    }

    /// A change is under way that these files were checked for.
    pub(super) fn begin(&mut self, wanted: Wanted, checked: &[Checked]) {
        let mut kept: Vec<Kept> = Vec::with_capacity(checked.len());
        for checked in checked {
            let (region, file) = checked.region();
            // Of one file that is open alike one descriptor is enough.
            let same = |k: &&Kept| k.file.id() == file.id() && k.file.writable() == file.writable();
            let known = self.regions.iter().chain(&kept).find(same);
            let file = Arc::clone(known.map_or(file, |known| &known.file));
            kept.push(Kept { region, file });
        }
        self.discard(match wanted {
            Wanted::Replace => Some(Change::Replace(kept)),
            Wanted::Add => Some(Change::Add(kept)),
        });
    }

    /// A region is to go.
    pub(super) fn remove(&mut self, region: Region) {
        self.discard(Some(Change::Remove(region)));
    }

    /// The change is made, or not.
    pub(super) fn changed(&mut self, done: bool) {
        if !done {
            return self.discard(None);
        }
        let gone = match self.change.take() {
            Some(Change::Replace(kept)) => std::mem::replace(&mut self.regions, kept),
            // One that was there already, just so, is there once.
            Some(Change::Add(kept)) => {
                let known = |k: &Kept| self.regions.iter().any(|known| known.region == k.region);
                let (again, new): (Vec<Kept>, Vec<Kept>) = kept.into_iter().partition(known);
                self.regions.extend(new);
                again
            }
            Some(Change::Remove(region)) => {
                let same = |k: &Region| (k.guest, k.user, k.size) == (region.guest, region.user, region.size);
                self.regions.extract_if(.., |k| same(&k.region)).collect()
            }
            None => Vec::new(),
        };
        self.close(gone);
    }

    /// Where it keeps what is in flight, from now on.
    pub(super) fn keep_inflight(&mut self, file: Arc<MemoryFile>, offset: u64) {
        if let Some(before) = self.inflight.replace((file, offset)) {
            self.lane.put(move || drop(before));
        }
    }

    /// Nothing is left of what was registered.
    pub(super) fn clear(&mut self) {
        self.discard(None);
        let (regions, inflight) = (take(&mut self.regions), self.inflight.take());
        self.lane.put(move || drop((regions, inflight)));
    }

    /// What was to be kept is not, and this instead.
    fn discard(&mut self, next: Option<Change>) {
        match std::mem::replace(&mut self.change, next) {
            Some(Change::Replace(kept) | Change::Add(kept)) => self.close(kept),
            Some(Change::Remove(_)) | None => {}
        }
    }

    fn close(&self, kept: Vec<Kept>) {
        if !kept.is_empty() {
            self.lane.put(move || drop(kept));
        }
    }
}
