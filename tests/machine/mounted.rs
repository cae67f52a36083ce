//! File systems on loop devices, which can be frozen. It takes root, and `losetup`, `mkfs.ext4`, `mkfs.btrfs` and `fsfreeze`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Whether there can be loop devices and mounts here. Where tests must not be skipped, there must.
pub(crate) fn able() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !able {
        let must = std::env::var_os("CI").is_some() || std::env::var_os("NVME_DRV_REQUIRE_VM").is_some();
        assert!(!must, "tests of failing storage need root and loop devices");
        eprintln!("skipped: needs root and loop devices");
    }
    able
}

/// Runs a program that must succeed; what it printed.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    let done = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A mounted file system. Gone with this value.
pub(crate) struct Mount(pub(crate) tempfile::TempDir);

impl Mount {
    pub(crate) fn tmpfs(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "none", dir.path().to_str().unwrap()]);
        Self(dir)
    }

    /// In memory, and of a kind that the server does not know: to it, somebody else may have to be asked for what is there.
    pub(crate) fn unknown() -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "ramfs", "none", dir.path().to_str().unwrap()]);
        Self(dir)
    }

    /// An ext4 file system, made anew on a device.
    pub(crate) fn ext4(device: &Path) -> Self {
        let device = device.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", device]);
        Self::of(device)
    }

    /// A Btrfs file system, made anew on a device, whose subvolume `limited` may take so many bytes.
    pub(crate) fn btrfs(device: &Path, bytes: u64) -> Self {
        let device = device.to_str().unwrap();
        run("mkfs.btrfs", &["-q", "-f", "-K", device]);
        let system = Self::of(device);
        let limited = system.path("limited");
        let limited = limited.to_str().unwrap();
        run("btrfs", &["-q", "subvolume", "create", limited]);
        run("btrfs", &["-q", "quota", "enable", limited]);
        run("btrfs", &["-q", "qgroup", "limit", &bytes.to_string(), limited]);
        system
    }

    pub(crate) fn of(device: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &[device, dir.path().to_str().unwrap()]);
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes to it wait from now on, whoever makes them.
    pub(crate) fn freeze(&self) {
        run("fsfreeze", &["-f", self.0.path().to_str().unwrap()]);
    }

    /// They go on.
    pub(crate) fn thaw(&self) {
        run("fsfreeze", &["-u", self.0.path().to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A program with a write under way there could not end.
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0.path()).output();
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// A loop device. Gone with this value.
pub(crate) struct Loop(pub(crate) PathBuf);

/// Two that look for a free loop device find the same one, and the second holds it for a moment, while the first has it in use.
static LOOKS: Mutex<()> = Mutex::new(());

impl Loop {
    pub(crate) fn over(file: &Path, words: &[&str]) -> Self {
        let _looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        let file = [file.to_str().unwrap()];
        let words: Vec<&str> = ["-f", "--show"].iter().chain(words).chain(&file).copied().collect();
        Self(run("losetup", &words).into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}
