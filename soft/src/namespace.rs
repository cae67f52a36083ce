//! One namespace, as its commands see it.

use alloc::sync::Arc;

use nvme_platform::Window;

use crate::config::{Backing, ConfigError, NamespaceConfig};
use crate::medium::{Copied, Medium, MemoryMedium};
use crate::storage::{Missing, Resident, Storage};

/// How commands are done. Of those of several namespaces the last counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Way {
    /// All of them at once: the blocks are a medium's.
    AtOnce,
    /// Most of them: the storage is memory. The others are its requests.
    MostAtOnce,
    /// Some take their time, or meet with rules.
    Any,
}

#[derive(Clone)]
pub(crate) struct Namespace {
    pub(crate) medium: Arc<dyn Medium>,
    /// The medium's window, so that no call through the medium is needed to reach it.
    pub(crate) window: Window,
    /// In their place, where it takes its time: then the window is empty, or the storage's own.
    pub(crate) storage: Option<Arc<dyn Storage>>,
    /// Which pages of the storage's own window cannot be had.
    pub(crate) missing: Option<Arc<Missing>>,
    /// The block size is two to the power of this.
    pub(crate) shift: u32,
    pub(crate) blocks: u64,
    pub(crate) read_only: bool,
    pub(crate) uuid: Option<[u8; 16]>,
}

impl Namespace {
    pub(crate) fn new(config: NamespaceConfig) -> Result<Self, ConfigError> {
        let NamespaceConfig { backing, block_size, read_only, uuid } = config;
        if block_size != 512 && block_size != 4096 {
            return Err(ConfigError::BlockSize);
        }
        let (medium, storage): (Arc<dyn Medium>, _) = match backing {
            Backing::Medium(medium) => (medium, None),
            Backing::Storage(storage) => (Arc::new(MemoryMedium::over(Window::empty())), Some(storage)),
        };
        let resident = storage.as_ref().and_then(|storage| storage.resident());
        let (window, missing) = match resident {
            Some(Resident { window, missing }) => (window, Some(missing)),
            None => (medium.window().clone(), None),
        };
        let shift = block_size.trailing_zeros();
        let bytes = storage.as_ref().map_or(window.len() as u64, |storage| storage.size());
        let blocks = bytes >> shift;
        if blocks == 0 {
            return Err(ConfigError::Empty);
        }
        Ok(Self { medium, window, storage, missing, shift, blocks, read_only, uuid })
    }

    /// Its storage; a medium as such.
    pub(crate) fn stored(&self) -> Arc<dyn Storage> {
        match &self.storage {
            Some(storage) => Arc::clone(storage),
            None => Arc::new(Copied(Arc::clone(&self.medium))),
        }
    }

    /// How its commands are done.
    pub(crate) fn way(&self) -> Way {
        match (&self.storage, &self.missing) {
            (None, _) => Way::AtOnce,
            (Some(_), Some(_)) => Way::MostAtOnce,
            (Some(_), None) => Way::Any,
        }
    }

    /// How many bytes there are to serve, now.
    pub(crate) fn capacity(&self) -> u64 {
        self.storage.as_ref().map_or(self.window.len() as u64, |storage| storage.size())
    }

    /// Offset and length in bytes of blocks, if they are on the namespace.
    #[inline]
    pub(crate) fn bytes(&self, lba: u64, blocks: u64) -> Option<(u64, u64)> {
        if lba > self.blocks || blocks > self.blocks - lba {
            return None;
        }
        Some((lba << self.shift, blocks << self.shift))
    }
}
