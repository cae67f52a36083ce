//! Forged proofs, each of which the check of a commit must refuse ([`clippy.toml`](../../../clippy.toml)).

/// A completion that nobody saw.
#[cfg(feature = "quiet")]
pub fn quiet() -> nvme_session::memory::Quiet {
    nvme_session::memory::Quiet::seen(nvme_session::memory::QuietBy::Completed)
}

/// The same under another name.
#[cfg(feature = "alias")]
pub fn alias() -> nvme_session::memory::Quiet {
    use nvme_session::memory::{Quiet as Q, QuietBy as By};
    Q::seen(By::Completed)
}

/// The same through a pointer.
#[cfg(feature = "pointer")]
pub fn pointer() -> nvme_session::memory::Quiet {
    let make: fn(nvme_session::memory::QuietBy) -> _ = nvme_session::memory::Quiet::seen;
    make(nvme_session::memory::QuietBy::Completed)
}

/// A device that nobody cut off.
#[cfg(feature = "cut-off")]
pub fn cut_off() -> nvme_platform::CutOff {
    nvme_platform::CutOff::seen()
}

/// A client's memory, as if it were the driver's.
#[cfg(feature = "driver-memory")]
pub fn driver_memory(window: nvme_mem::Window) -> nvme_platform::DriverMemory {
    nvme_platform::DriverMemory::from_pool(window, nvme_platform::Iova(0))
}

/// The right to write whatever one has.
#[cfg(feature = "grant")]
pub fn grant(extent: nvme_policy::Extent) -> nvme_policy::Grant {
    nvme_policy::Grant::new(extent, nvme_policy::Access::ReadWrite)
}

/// Blocks that no namespace was seen to have.
#[cfg(feature = "extent")]
pub fn extent(
    namespace: nvme_policy::Namespace,
    size: nvme_policy::BlockSize,
) -> Option<nvme_policy::Extent> {
    nvme_policy::Extent::whole(namespace, u64::MAX >> 9, size)
}

/// Unsafe code in a module that was not opened for it.
#[cfg(feature = "unsafe-block")]
pub fn unsafe_block(at: *const u8) -> u8 {
    // SAFETY: none; that is the point.
    unsafe { at.read() }
}
