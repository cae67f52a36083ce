//! What the controller is, and stays.

use alloc::string::String;

use crate::config::Config;

/// What the controller is, and stays.
pub(crate) struct Nature {
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    pub(crate) namespaces_max: u32,
    pub(crate) mdts: u8,
    pub(crate) sgl: bool,
    pub(crate) dataset_management: bool,
    pub(crate) write_zeroes: bool,
    pub(crate) write_cache: bool,
    pub(crate) queues: u16,
    pub(crate) mqes: u16,
    pub(crate) timeout: u8,
    pub(crate) doorbell_stride: u8,
    pub(crate) vectors: u16,
}

impl Nature {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            serial: config.serial.clone(),
            model: config.model.clone(),
            firmware: config.firmware.clone(),
            namespaces_max: config.namespaces_max,
            mdts: config.mdts,
            sgl: config.sgl,
            dataset_management: config.dataset_management,
            write_zeroes: config.write_zeroes,
            write_cache: config.write_cache,
            queues: config.queues,
            mqes: config.mqes,
            timeout: config.timeout,
            doorbell_stride: config.doorbell_stride,
            vectors: config.vectors,
        }
    }
}

/// ASCII, padded with spaces (1.5).
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}
