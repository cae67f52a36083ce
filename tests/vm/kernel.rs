//! The guest's kernel and its initramfs, made once per run from what Debian installed.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::shared::archive::{self, Archive};

/// Files to boot from.
pub(crate) struct Kernel {
    /// The ELF kernel, which boots faster than the bzImage.
    pub(crate) vmlinux: PathBuf,
    /// Shell, modules and file system tools.
    pub(crate) initramfs: PathBuf,
    /// The same and fio with its many libraries.
    pub(crate) initramfs_fio: PathBuf,
    _dir: tempfile::TempDir,
}

const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// Until the disk is there.
const WAIT: &str = "i=0; while [ ! -e /dev/vda ] && [ $i -lt 500 ]; do sleep 0.02; i=$((i+1)); done";

impl Kernel {
    /// The kernel, or what is missing.
    pub(crate) fn get() -> Result<&'static Kernel, &'static String> {
        static KERNEL: OnceLock<Result<Kernel, String>> = OnceLock::new();
        KERNEL.get_or_init(make).as_ref()
    }
}

fn make() -> Result<Kernel, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (version, vmlinux) = archive::kernel(dir.path())?;
    let mut archive = Archive::default();
    archive.shell(WAIT)?;
    archive.modules(&version, &MODULES)?;
    for program in ["mkfs.ext4", "e2fsck"] {
        archive.program(program)?;
    }
    let initramfs = dir.path().join("initramfs");
    fs::write(&initramfs, archive.finish()).map_err(|e| e.to_string())?;
    archive.program("fio")?;
    let initramfs_fio = dir.path().join("initramfs-fio");
    fs::write(&initramfs_fio, archive.finish()).map_err(|e| e.to_string())?;
    Ok(Kernel { vmlinux, initramfs, initramfs_fio, _dir: dir })
}
