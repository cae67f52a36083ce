//! Storage that can be made to fail, and a server over it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use nvme_client::{Client, Options};

pub(crate) use crate::mounted::{Loop, Mount, able, run};
use crate::server::{Bench, Server};

pub(crate) const MIB: u64 = 1 << 20;

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
