//! One namespace, as its commands see it.

use alloc::sync::Arc;

use nvme_platform::Window;

use crate::config::{Backing, ConfigError, NamespaceConfig};
use crate::medium::{Medium, MemoryMedium};
use crate::storage::Storage;

#[derive(Clone)]
pub(crate) struct Namespace {
    pub(crate) medium: Arc<dyn Medium>,
    /// The medium's window, so that no call through the medium is needed to reach it.
    pub(crate) window: Window,
    /// In their place, where it takes its time: then the window is empty.
    pub(crate) storage: Option<Arc<dyn Storage>>,
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
        let window = medium.window().clone();
        let shift = block_size.trailing_zeros();
        let bytes = storage.as_ref().map_or(window.len() as u64, |storage| storage.size());
        let blocks = bytes >> shift;
        if blocks == 0 {
            return Err(ConfigError::Empty);
        }
        Ok(Self { medium, window, storage, shift, blocks, read_only, uuid })
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
