//! What a software controller is to be.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use nvme_platform::Window;

use crate::faulty::Rule;
use crate::medium::Medium;
use crate::storage::Storage;

/// Where interrupts go.
pub trait Interrupts: Send + Sync {
    /// Vector `vector` fires. Called by whichever thread posted the completion; must not block.
    fn raise(&self, vector: u16);
}

/// Where a namespace's blocks are.
#[derive(Clone)]
pub enum Backing {
    /// In a window.
    Medium(Arc<dyn Medium>),
    /// In storage that takes its time.
    Storage(Arc<dyn Storage>),
}

/// One namespace.
pub struct NamespaceConfig {
    /// Where its blocks are.
    pub backing: Backing,
    /// Bytes per block: 512 or 4096.
    pub block_size: u32,
    /// Write protected.
    pub read_only: bool,
    /// Identifier to report (CNS 03h), if any.
    pub uuid: Option<[u8; 16]>,
}

impl NamespaceConfig {
    /// A writable namespace with blocks of 512 bytes.
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self { backing: Backing::Medium(medium), block_size: 512, read_only: false, uuid: None }
    }

    /// The same over storage that takes its time.
    pub fn stored(storage: Arc<dyn Storage>) -> Self {
        Self { backing: Backing::Storage(storage), block_size: 512, read_only: false, uuid: None }
    }

    /// With blocks of `bytes` bytes.
    pub fn block_size(self, bytes: u32) -> Self {
        Self { block_size: bytes, ..self }
    }

    /// Write protected, or not.
    pub fn read_only(self, yes: bool) -> Self {
        Self { read_only: yes, ..self }
    }
}

/// A software controller. [`Config::default`] is what the product uses; everything else is for tests.
pub struct Config {
    /// Serial number; at most 20 bytes of ASCII.
    pub serial: String,
    /// Model; at most 40 bytes of ASCII.
    pub model: String,
    /// Firmware revision; at most 8 bytes of ASCII.
    pub firmware: String,
    /// Namespaces 1 and up.
    pub namespaces: Vec<NamespaceConfig>,
    /// Highest namespace identifier (Identify Controller, NN); at least as many as there are `namespaces`.
    pub namespaces_max: u32,
    /// Longest transfer, as a power of two of pages (Identify Controller, MDTS); 0: no limit.
    pub mdts: u8,
    /// Whether I/O commands may use SGLs.
    pub sgl: bool,
    /// Whether there is Dataset Management.
    pub dataset_management: bool,
    /// Whether there is Write Zeroes.
    pub write_zeroes: bool,
    /// Whether there is a volatile write cache: writes without FUA become durable at a Flush only.
    pub write_cache: bool,
    /// I/O queue pairs, 1 to 1024.
    pub queues: u16,
    /// Entries of the longest I/O queue, less one (CAP.MQES).
    pub mqes: u16,
    /// CAP.TO: how long enabling and disabling may take, in units of 500 ms.
    pub timeout: u8,
    /// CAP.DSTRD, 0 to 8.
    pub doorbell_stride: u8,
    /// Interrupt vectors, at least 1.
    pub vectors: u16,
    /// Where interrupts go; `None`: the driver polls.
    pub interrupts: Option<Box<dyn Interrupts>>,
    /// Apart: I/O commands are run by an [`Engine`](crate::Engine) on a thread of the home's, which this wakes after
    /// a doorbell was written. `None`: `QueueDoorbells::run` runs them.
    pub apart: Option<Box<dyn Fn() + Send + Sync>>,
    /// Where driver memory comes from: zeroed windows of so many bytes. `None`: the heap.
    pub memory: Option<Box<dyn FnMut(usize) -> Option<Window> + Send>>,
    /// What control does while it waits for an engine to finish the command at hand. A home with threads yields.
    pub pause: fn(),
    /// The faulty twin, with rules to begin with. `None`: the hooks do not exist.
    pub faults: Option<Vec<Rule>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serial: String::from("soft0"),
            model: String::from("nvme-drv software controller"),
            firmware: String::from(env!("CARGO_PKG_VERSION")),
            namespaces: Vec::new(),
            namespaces_max: 256,
            mdts: 8,
            sgl: true,
            dataset_management: true,
            write_zeroes: true,
            write_cache: true,
            queues: 64,
            mqes: 1023,
            timeout: 20,
            doorbell_stride: 0,
            vectors: 65,
            interrupts: None,
            apart: None,
            memory: None,
            pause: core::hint::spin_loop,
            faults: None,
        }
    }
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// A string is too long or not printable ASCII.
    Text,
    /// A block size is not 512 or 4096.
    BlockSize,
    /// A medium holds no whole block.
    Empty,
    /// More namespaces than `namespaces_max`, or more than 65,536 of these.
    Namespaces,
    /// A number is out of its range.
    Number,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "serial, model or firmware is too long or not printable ASCII",
            Self::BlockSize => "the block size is neither 512 nor 4096",
            Self::Empty => "the medium holds no whole block",
            Self::Namespaces => "too many namespaces",
            Self::Number => "a number is out of range",
        })
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let text = |s: &str, max| s.len() <= max && s.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !text(&self.serial, 20) || !text(&self.model, 40) || !text(&self.firmware, 8) {
            return Err(ConfigError::Text);
        }
        if self.namespaces_max == 0
            || self.namespaces_max > 65_536
            || self.namespaces.len() > self.namespaces_max as usize
        {
            return Err(ConfigError::Namespaces);
        }
        let ranges = (1..=1024).contains(&self.queues)
            && self.mqes >= 1
            && self.doorbell_stride <= 8
            && (1..=2048).contains(&self.vectors)
            && self.mdts <= 12;
        if ranges { Ok(()) } else { Err(ConfigError::Number) }
    }
}
