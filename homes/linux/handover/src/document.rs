//! Bytes to document and back.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::File;
use crate::state::State;

/// The version of both documents: another one whenever a field comes, goes, or changes its meaning.
pub const VERSION: u32 = 7;
/// Most bytes of a document.
pub const DOCUMENT_MAX: usize = 16 << 20;
/// Most descriptors that go with one.
pub const FILES_MAX: usize = 1 << 16;

/// Why a document is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It does not begin as one.
    #[error("it is no document of that kind")]
    Kind,
    /// It is of another version.
    #[error("it is of version {0}, and this program understands version {VERSION}")]
    Version(u32),
    /// It is longer than any.
    #[error("it has {0} bytes; {DOCUMENT_MAX} are the most")]
    TooLong(usize),
    /// It is not written as it should be.
    #[error("{0}")]
    Text(#[from] serde_json::Error),
    /// The descriptors that it names are not those that came.
    #[error("it names descriptor {0} of {1} twice, or not at all, or there is none")]
    Files(u32, usize),
}

/// Something that is handed over as a document.
pub trait Document: Serialize + DeserializeOwned {
    /// What its first line calls it.
    const KIND: &'static str;

    /// The descriptors that it names, in any order.
    fn files(&self) -> Vec<File>;

    /// As bytes.
    fn write(&self) -> Result<Vec<u8>, Unreadable> {
        let mut bytes = format!("nvme-drv {} {VERSION}\n", Self::KIND).into_bytes();
        serde_json::to_writer(&mut bytes, self)?;
        if bytes.len() > DOCUMENT_MAX { Err(Unreadable::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// From bytes that came with so many descriptors.
    fn read(bytes: &[u8], files: usize) -> Result<Self, Unreadable> {
        if bytes.len() > DOCUMENT_MAX {
            return Err(Unreadable::TooLong(bytes.len()));
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let body = bytes.get(line.len() + 1..).ok_or(Unreadable::Kind)?;
        let line = std::str::from_utf8(line).map_err(|_| Unreadable::Kind)?;
        let version = line.strip_prefix("nvme-drv ").and_then(|l| l.strip_prefix(Self::KIND));
        let version = version.and_then(|l| l.strip_prefix(' ')?.parse().ok()).ok_or(Unreadable::Kind)?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let document: Self = serde_json::from_slice(body)?;
        document.check_files(files)?;
        Ok(document)
    }

    /// Each descriptor that came is named once, and no other.
    fn check_files(&self, came: usize) -> Result<(), Unreadable> {
        let mut named = vec![false; came.min(FILES_MAX)];
        for File(number) in self.files() {
            let slot = usize::try_from(number).ok().and_then(|at| named.get_mut(at));
            match slot {
                Some(slot) if !*slot => *slot = true,
                _ => return Err(Unreadable::Files(number, came)),
            }
        }
        match named.iter().position(|named| !named) {
            None if came <= FILES_MAX => Ok(()),
            missing => {
                let missing = missing.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
                Err(Unreadable::Files(missing, came))
            }
        }
    }
}

/// What the server was started with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// In the order in which the server has them.
    pub capabilities: Vec<Capability>,
    /// Its hardware controllers.
    pub functions: Vec<Function>,
    /// Its service manager, which is the next one's.
    pub manager: Option<Manager>,
}

/// A hardware controller, which both servers have until one of them ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// The word of `--cap` that it was opened by.
    pub word: String,
    /// The VFIO container, whose IOMMU is set.
    pub container: File,
    /// The group in it.
    pub group: File,
    /// The device.
    pub device: File,
    /// How it interrupts.
    pub interrupts: String,
    /// The counter of each of its vectors.
    pub vectors: Vec<File>,
    /// That of the host's request for it, if there is one.
    pub request: Option<File>,
    /// That of the bus's errors, if there is one.
    pub error: Option<File>,
}

impl Function {
    fn name(&self, files: &mut Vec<File>) {
        files.extend([self.container, self.group, self.device]);
        files.extend(self.vectors.iter().copied().chain(self.request).chain(self.error));
    }
}

/// How a service manager is told everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manager {
    /// The socket.
    pub socket: File,
    /// How often it wants to hear that all goes round, in nanoseconds, if it does.
    pub feed: Option<u64>,
    /// It keeps what outlives a server that is killed.
    pub keeps: bool,
}

/// One capability.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// The word of `--cap` that it was opened by; none where it was inherited by its name.
    pub word: Option<String>,
    /// The descriptor itself.
    pub file: File,
}

impl Document for Capabilities {
    const KIND: &'static str = "capabilities";

    fn files(&self) -> Vec<File> {
        let own = self.capabilities.iter().map(|capability| capability.file);
        let mut files: Vec<File> = own.chain(self.manager.map(|manager| manager.socket)).collect();
        self.functions.iter().for_each(|function| function.name(&mut files));
        files
    }
}

impl Document for State {
    const KIND: &'static str = "state";

    fn files(&self) -> Vec<File> {
        State::files(self)
    }
}

#[cfg(test)]
mod tests;
