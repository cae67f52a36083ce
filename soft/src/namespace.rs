//! One namespace, as its commands see it.

use alloc::sync::Arc;

use nvme_platform::Window;

use crate::config::{ConfigError, NamespaceConfig};
use crate::medium::Medium;

#[derive(Clone)]
pub(crate) struct Namespace {
    pub(crate) medium: Arc<dyn Medium>,
    /// The medium's window, so that no call through the medium is needed to reach it.
    pub(crate) window: Window,
    /// The block size is two to the power of this.
    pub(crate) shift: u32,
    pub(crate) blocks: u64,
    pub(crate) read_only: bool,
    pub(crate) uuid: Option<[u8; 16]>,
}

impl Namespace {
    pub(crate) fn new(config: NamespaceConfig) -> Result<Self, ConfigError> {
        let NamespaceConfig { medium, block_size, read_only, uuid } = config;
        if block_size != 512 && block_size != 4096 {
            return Err(ConfigError::BlockSize);
        }
        let window = medium.window().clone();
        let shift = block_size.trailing_zeros();
        let blocks = window.len() as u64 >> shift;
        if blocks == 0 {
            return Err(ConfigError::Empty);
        }
        Ok(Self { medium, window, shift, blocks, read_only, uuid })
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
