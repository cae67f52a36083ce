//! Resource limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::SandboxError;

/// An error unless the calling thread is the only one. (Where `/proc` is not mounted nobody can tell, and the
/// filter still reaches all.)
pub(super) fn only_thread() -> Result<(), SandboxError> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(threads) if threads != 1 => Err(SandboxError::Threads(threads as u64)),
        _ => Ok(()),
    }
}

/// No core dumps: they would hold clients' data. As many descriptors as may be, and as much locked memory, which
/// VFIO counts mappings as. Returns how many descriptors there may be.
pub(super) fn set() -> Result<u64, SandboxError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(SandboxError::step("setting RLIMIT_CORE to 0"))?;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
        .map_err(SandboxError::step("raising RLIMIT_NOFILE to its hard limit"))?;
    let locked = getrlimit(Resource::Memlock);
    // With CAP_SYS_RESOURCE there is no limit to it; without, what the hard limit says.
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        setrlimit(Resource::Memlock, Rlimit { current: locked.maximum, maximum: locked.maximum })
            .map_err(SandboxError::step("raising RLIMIT_MEMLOCK to its hard limit"))?;
    }
    Ok(files.maximum.unwrap_or(u64::MAX))
}
