//! The disk image: a GPT with a golden partition (ext4, one file) and a scratch partition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A partition's place in the image, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// The first partition, labelled `golden`.
pub(crate) const GOLDEN: Place = Place { start: 1 << 20, len: 48 << 20 };
/// The second partition, labelled `scratch`.
pub(crate) const SCRATCH: Place = Place { start: 64 << 20, len: 128 << 20 };
/// Bytes of the golden file.
const FILE: usize = 24 << 20;

/// An image and what is in it.
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    /// SHA-256 of `/file` on the golden partition, in hexadecimal.
    pub(crate) hash: String,
    _dir: tempfile::TempDir,
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{said}");
    text
}

fn random(len: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

impl Disk {
    /// Makes the image, in memory (`/dev/shm`) where that is.
    pub(crate) fn new() -> Disk {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let image = dir.path().join("disk");
        let files = dir.path().join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("file"), random(FILE)).unwrap();
        let hash = run(Command::new("sha256sum").arg(files.join("file")));
        let hash = hash.split_whitespace().next().unwrap().to_string();

        let file = fs::File::create(&image).unwrap();
        file.set_len(256 << 20).unwrap();
        let part = |n: u32, place: Place| {
            format!("--new={n}:{}:{}", place.start / 512, (place.start + place.len) / 512 - 1)
        };
        let mut sgdisk = Command::new("/sbin/sgdisk");
        sgdisk.arg(part(1, GOLDEN)).arg(part(2, SCRATCH));
        run(sgdisk.args(["--change-name=1:golden", "--change-name=2:scratch"]).arg(&image));
        run(Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F", "-O", "^has_journal", "-d"])
            .arg(&files)
            .args(["-E", &format!("offset={}", GOLDEN.start)])
            .arg(&image)
            .arg(format!("{}k", GOLDEN.len / 1024)));
        fs::remove_dir_all(&files).unwrap();
        Disk { image, hash, _dir: dir }
    }
}
