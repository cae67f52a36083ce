//! Where images lie that are measured.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file on the machine's disk. Gone with this value.
pub(super) struct OnDisk(pub(super) PathBuf);

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A loop device over a file. Gone with this value.
pub(super) struct Loop(pub(super) PathBuf);

impl Loop {
    /// `None`: not without root.
    pub(super) fn over(file: &Path, words: &[&str]) -> Option<Self> {
        let done = Command::new("losetup").args(["-f", "--show"]).args(words).arg(file).output().ok()?;
        let name = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}
