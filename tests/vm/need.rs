//! What must be installed. A test that lacks something says so in one line and passes, unless `CI` or
//! `NVME_DRV_REQUIRE_VM` is set: then it fails.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::kernel::Kernel;

/// Machines of a few processors run beside each other. One of many waits for each of its processors again and again, and so for as many
/// threads in turn as there are: beside others it takes so long that its kernel thinks that they hang.
static TURN: RwLock<()> = RwLock::new(());

/// When a machine may run.
#[expect(dead_code, reason = "it is held, and nothing else")]
pub(crate) enum Turn {
    Beside(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Beside others.
pub(crate) fn beside() -> Turn {
    // A test that failed has nothing to do with the next.
    Turn::Beside(TURN.read().unwrap_or_else(PoisonError::into_inner))
}

/// Alone.
pub(crate) fn alone() -> Turn {
    Turn::Alone(TURN.write().unwrap_or_else(PoisonError::into_inner))
}

/// Everything that the tests here need.
pub(crate) struct Needs {
    pub(crate) kernel: &'static Kernel,
    /// Until the end of the test.
    pub(crate) _turn: Turn,
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(more).any(|dir: std::path::PathBuf| dir.join(program).is_file())
}

/// Looks for all of it; `None` after saying what is missing.
pub(crate) fn needs(turn: fn() -> Turn) -> Option<Needs> {
    let programs =
        ["qemu-system-x86_64", "busybox", "modprobe", "xz", "mkfs.ext4", "e2fsck", "sgdisk", "fio"];
    let mut missing: Vec<String> = programs.iter().filter(|p| !found(p)).map(|p| p.to_string()).collect();
    let mut kernel = None;
    if missing.is_empty() {
        match Kernel::get() {
            Ok(found) => kernel = Some(found),
            Err(why) => missing.push(why.clone()),
        }
    }
    if let Some(kernel) = kernel {
        return Some(Needs { kernel, _turn: turn() });
    }
    let packages = include_str!("../../.ci/packages").lines().filter_map(|line| line.split('#').next());
    let packages: Vec<_> = packages.map(str::trim).filter(|name| !name.is_empty()).collect();
    let line = format!(
        "missing: {} (apt-get install --no-install-recommends {})",
        missing.join(", "),
        packages.join(" ")
    );
    lack(&line);
    None
}

/// Whether a file of a package is there; where it must be and is not, that fails.
pub(crate) fn file(path: &str) -> bool {
    let there = std::path::Path::new(path).is_file();
    if !there {
        lack(&format!("missing: {path}"));
    }
    there
}

/// Says what is missing, and fails where it must not be.
fn lack(line: &str) {
    let required = ["CI", "NVME_DRV_REQUIRE_VM"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "{line}");
    println!("skipped: {line}");
}

/// The needs, or the end of the test.
macro_rules! needs {
    () => {
        needs!(crate::need::beside)
    };
    ($turn:expr) => {
        match crate::need::needs($turn) {
            Some(needs) => needs,
            None => return,
        }
    };
}
