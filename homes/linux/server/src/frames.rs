//! The core's trace points as frames, in a build that has them (feature `defmt`).
//!
//! `NVME_DRV_FRAMES=PATH` names a file, a FIFO or a terminal. It is opened before authority is given up; a thread of its own moves
//! there what the threads' rings hold, so that nobody else waits for whoever reads it.

#[cfg(feature = "defmt")]
pub(crate) use drain::{finish, on_this_thread, open, start};
#[cfg(not(feature = "defmt"))]
pub(crate) use nowhere::{finish, on_this_thread, open, start};

/// Where the frames go.
const VARIABLE: &str = "NVME_DRV_FRAMES";

#[cfg(feature = "defmt")]
mod drain {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::thread;
    use std::time::Duration;

    use nvme_linux::frames::{Tap, register};

    /// How often the rings are emptied.
    const EVERY: Duration = Duration::from_millis(10);

    static TAP: OnceLock<Mutex<Tap>> = OnceLock::new();

    /// Opens what the variable names, and begins with the calling thread.
    pub(crate) fn open() -> Result<(), String> {
        let Some(path) = std::env::var_os(super::VARIABLE) else { return Ok(()) };
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|e| format!("{}={}: {e}", super::VARIABLE, path.display()))?;
        let _ = TAP.set(Mutex::new(Tap::new(file.into())));
        on_this_thread();
        Ok(())
    }

    /// Starts the thread that empties the rings.
    pub(crate) fn start() -> io::Result<()> {
        if TAP.get().is_some() {
            thread::Builder::new().name("frames".into()).spawn(|| {
                while drain() {
                    thread::sleep(EVERY);
                }
            })?;
        }
        Ok(())
    }

    /// The calling thread's trace points are kept from now on.
    pub(crate) fn on_this_thread() {
        if TAP.get().is_some() {
            register();
        }
    }

    /// Empties the rings a last time.
    pub(crate) fn finish() {
        drain();
    }

    /// False: there is nowhere to put frames any more.
    fn drain() -> bool {
        let Some(tap) = TAP.get() else { return false };
        match tap.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            Ok(0) => true,
            Ok(lost) => {
                log::warn!("{lost} trace points were dropped: they came faster than they could be written");
                true
            }
            Err(e) => {
                log::warn!("{}: {e}; there are no trace points any more", super::VARIABLE);
                false
            }
        }
    }
}

#[cfg(not(feature = "defmt"))]
mod nowhere {
    pub(crate) fn open() -> Result<(), String> {
        if std::env::var_os(super::VARIABLE).is_some() {
            log::warn!("{} has no use: this program was built without the feature `defmt`", super::VARIABLE);
        }
        Ok(())
    }

    pub(crate) fn start() -> std::io::Result<()> {
        Ok(())
    }

    pub(crate) fn on_this_thread() {}

    pub(crate) fn finish() {}
}
