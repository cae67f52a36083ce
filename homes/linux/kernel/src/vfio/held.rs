//! A function that one server hands over to the next.
//!
//! Both have its group, its device and its container for a while, and each maps memory of its own, at addresses of its own: the next one begins with
//! those that the server before does not use. While the next one has the function, the other leaves it alone. Then one of the two ends, and
//! the other [reclaims](Held::reclaim) what that one had mapped. Where the next one does not take over, the function is first [stopped](Held::stop).
//!
//! Linux lets a process take away what another has mapped since 6.0 ([`hands_over`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_platform::{DriverMemory, Iova, Registers};
use rustix::io::Errno;

use super::VfioError;
use super::bar::Bar;
use super::device::{self, COMMAND_MASTER};
use super::handle::{self, Handle, with};
use super::interrupts::{Given, Interrupts};
use super::ioctl;
use super::space::Container;

/// Controller Configuration (NVMe Base 2.0, 3.1.3.5); zero stops a controller.
const CC: u32 = 0x14;

/// What a server hands over of a function.
#[derive(Debug)]
pub struct Descriptors {
    /// The container, whose IOMMU is set.
    pub container: OwnedFd,
    /// The group in it.
    pub group: OwnedFd,
    /// The device.
    pub device: OwnedFd,
    /// Its interrupts, which are on.
    pub interrupts: Given,
}

/// A function, for whoever hands it over or was handed it. The device itself is the driver's.
pub struct Held {
    pub(super) container: Container,
    pub(super) group: Handle,
    pub(super) device: Handle,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) bar: Bar,
    /// Where the configuration space lies in the device's descriptor.
    pub(super) config: u64,
    pub(super) can_reset: bool,
}

impl Held {
    /// All of it for the next server. An error: the device is gone, or there is no room for more descriptors.
    pub fn share(&self) -> Result<Descriptors, Errno> {
        let interrupts = self.interrupts.share();
        Ok(Descriptors {
            container: handle::share(self.container.handle())?,
            group: handle::share(&self.group)?,
            device: handle::share(&self.device)?,
            interrupts: interrupts.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?,
        })
    }

    /// The bus addresses that this server uses: first address, and bytes.
    pub fn addresses(&self) -> Vec<(u64, u64)> {
        self.container.used()
    }

    /// What the server before uses. From here on the device has addresses.
    pub fn begin_beside(&self, others: &[(u64, u64)]) -> Result<(), VfioError> {
        self.container.begin_beside(others)
    }

    /// The memory at that address, for the next server, where it can go on with it.
    pub fn left(&self, at: Iova) -> Option<OwnedFd> {
        self.container.left(at.0)
    }

    /// Memory that the server before left at that address, which is among those that it [uses](Self::begin_beside). It stays mapped.
    pub fn take(&self, at: Iova, file: OwnedFd) -> Result<DriverMemory, VfioError> {
        self.container.take(at.0, file)
    }

    /// Nobody else uses it any more: takes away what they had mapped. How many bytes that was.
    pub fn reclaim(&self) -> Result<u64, Errno> {
        self.container.reclaim()
    }

    /// Stops it, whoever was using it and whatever for. The driver finds it reset.
    pub fn stop(&self) -> Result<(), Errno> {
        with(&self.device, |fd| device::command(fd, self.config, 0, COMMAND_MASTER))?;
        if !self.can_reset || with(&self.device, |fd| ioctl::reset(fd)).is_err() {
            self.bar.clone().write32(CC, 0);
        }
        Ok(())
    }
}

/// Whether this kernel lets one process take away what another has mapped.
pub(super) fn hands_over() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 6)
}
