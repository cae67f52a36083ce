//! QEMU must be installed. Without it a test says so in one line and passes, unless `CI` or `NVME_DRV_REQUIRE_VM` is set: then
//! it fails.

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Whether QEMU is there.
pub(crate) fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(QEMU).is_file()) {
        return true;
    }
    let line = format!("missing: {QEMU} (apt-get install --no-install-recommends qemu-system-x86)");
    let required = ["CI", "NVME_DRV_REQUIRE_VM"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "{line}");
    println!("skipped: {line}");
    false
}

/// Goes on only with QEMU.
macro_rules! needs_qemu {
    () => {
        if !crate::need::installed() {
            return;
        }
    };
}
pub(crate) use needs_qemu;
