//! Storage that can be made to fail, and a server over it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvme_client::{Client, Options};

use crate::server::{Bench, Server};

pub(crate) const MIB: u64 = 1 << 20;

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

    /// An ext4 file system, made anew on a device.
    pub(crate) fn ext4(device: &Path) -> Self {
        let device = device.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", device]);
        Self::of(device)
    }

    pub(crate) fn of(device: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &[device, dir.path().to_str().unwrap()]);
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// A loop device. Gone with this value.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn over(file: &Path, words: &[&str]) -> Self {
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

/// A sparse file.
pub(crate) fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Divides an image into partitions of so many MiB.
pub(crate) fn divide(path: &Path, mib: &[u64]) {
    let script: String = mib.iter().map(|mib| format!("size={mib}MiB\n")).collect();
    let script = format!("label: gpt\n{script}");
    let mut child = Command::new("sfdisk")
        .args(["-q", "--no-tell-kernel"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The word for an image with options.
pub(crate) fn vbus(image: &Path, options: &str) -> String {
    format!("--cap=vbus=soft:{}{options}", image.display())
}

/// A server over these images, with a factory and the operator's capability.
pub(crate) fn serve(bench: &Bench, images: &[String]) -> Server {
    let (svr, admin) = (bench.socket("svr"), bench.socket("admin"));
    let words: Vec<&str> = images.iter().map(String::as_str).chain([svr.as_str(), admin.as_str()]).collect();
    bench.start(&words, &[], &[])
}

pub(crate) fn client(session: OwnedFd) -> Client {
    Client::from_fd(session, &Options::default()).unwrap()
}

/// A client of a new session.
pub(crate) fn session(bench: &Bench, words: &[&str]) -> Client {
    client(bench.create(words))
}

/// What `nvme-ctl` prints when it is told this; the status, where it fails.
pub(crate) fn operator(bench: &Bench, words: &[&str]) -> Result<String, i32> {
    let admin = format!("--admin={}", bench.path("admin").display());
    let done = Command::new(env!("CARGO_BIN_EXE_nvme-ctl")).arg(admin).args(words).output().unwrap();
    match done.status.code() {
        Some(0) => Ok(String::from_utf8(done.stdout).unwrap().trim().to_owned()),
        code => Err(code.unwrap_or(-1)),
    }
}

/// Bytes of a file that have storage.
pub(crate) fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}
