//! Interrupts, as eventfds. All vectors are asked for at once: older kernels cannot add to them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio;

use super::handle::{Handle, with};
use super::{VfioError, ioctl};
use crate::events::EventFd;

/// Most vectors that are asked for: the admin queue's, and 127 pairs that do not share.
const VECTORS_MAX: u32 = 128;

/// What the operator chose.
#[derive(Clone, Copy, Debug, Default)]
pub struct VfioOptions {
    /// Do not use MSI.
    pub nomsi: bool,
    /// Do not use MSI-X.
    pub nomsix: bool,
    /// Devices (vendor and device) whose MSI never fires.
    pub broken_msi: &'static [(u16, u16)],
    /// Doorbells are to be in memory, where the controller offers that.
    pub doorbell_buffers: bool,
}

impl VfioOptions {
    /// For a function of that vendor and device.
    pub(super) fn of(self, id: (u16, u16)) -> Self {
        Self { nomsi: self.nomsi || self.broken_msi.contains(&id), ..self }
    }
}

/// How the device interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// MSI-X.
    MsiX,
    /// MSI.
    Msi,
    /// Its pin, which stays masked after each interrupt until [`Interrupts::unmask`].
    Pin,
}

impl Mode {
    fn index(self) -> u32 {
        match self {
            Self::Pin => vfio::VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => vfio::VFIO_PCI_MSI_IRQ_INDEX,
            Self::MsiX => vfio::VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = VfioError;

    fn from_str(name: &str) -> Result<Self, VfioError> {
        let all = [Self::MsiX, Self::Msi, Self::Pin];
        let mode = all.into_iter().find(|mode| mode.to_string() == name);
        mode.ok_or(VfioError::Handed("its kind of interrupts"))
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MsiX => "MSI-X",
            Self::Msi => "MSI",
            Self::Pin => "INTx",
        })
    }
}

/// Interrupts of another server's.
#[derive(Debug)]
pub struct Given {
    /// How the device interrupts.
    pub mode: Mode,
    /// The counter of each vector.
    pub vectors: Vec<OwnedFd>,
    /// That of the host's request for the device, if it has one.
    pub request: Option<OwnedFd>,
    /// That of the bus's errors.
    pub error: Option<OwnedFd>,
}

/// The eventfds of one device. They count up and need not be read: watch them for edges.
#[derive(Debug)]
pub struct Interrupts {
    mode: Mode,
    vectors: Vec<EventFd>,
    request: Option<EventFd>,
    error: Option<EventFd>,
    device: Handle,
}

impl Interrupts {
    /// Turns on the best kind that the device has and the operator allows.
    pub(super) fn enable(
        address: &str,
        device: Handle,
        options: VfioOptions,
    ) -> Result<Arc<Self>, VfioError> {
        let kinds = [(Mode::MsiX, options.nomsix), (Mode::Msi, options.nomsi), (Mode::Pin, false)];
        let mut last = None;
        for (mode, _) in kinds.into_iter().filter(|(_, off)| !off) {
            let count = with(&device, |fd| count(fd, mode.index())).unwrap_or(0).min(VECTORS_MAX);
            let count = if mode == Mode::Pin { count.min(1) } else { count };
            if count == 0 {
                continue;
            }
            match with(&device, |fd| enable(fd, mode.index(), count)) {
                Ok(vectors) => {
                    let news = |index| with(&device, |fd| watch(fd, index)).ok();
                    let request = news(vfio::VFIO_PCI_REQ_IRQ_INDEX);
                    let error = news(vfio::VFIO_PCI_ERR_IRQ_INDEX);
                    return Ok(Arc::new(Self { mode, vectors, request, error, device }));
                }
                Err(why) => last = Some(why),
            }
        }
        Err(match last {
            Some(why) => VfioError::System("turning interrupts on", why),
            None => VfioError::Device(address.to_owned(), "it has no interrupt that may be used"),
        })
    }

    /// Those that another server turned on.
    pub(super) fn of(device: Handle, given: Given) -> Result<Arc<Self>, VfioError> {
        let Given { mode, vectors, request, error } = given;
        if vectors.is_empty() || vectors.len() > VECTORS_MAX as usize {
            return Err(VfioError::Handed("its interrupts"));
        }
        let vectors = vectors.into_iter().map(EventFd::from).collect();
        let (request, error) = (request.map(EventFd::from), error.map(EventFd::from));
        Ok(Arc::new(Self { mode, vectors, request, error, device }))
    }

    /// The same for another server.
    pub(super) fn share(&self) -> std::io::Result<Given> {
        Ok(Given {
            mode: self.mode,
            vectors: self.vectors.iter().map(EventFd::share).collect::<Result<_, _>>()?,
            request: self.request.as_ref().map(EventFd::share).transpose()?,
            error: self.error.as_ref().map(EventFd::share).transpose()?,
        })
    }

    /// How the device interrupts.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many vectors there are; at least 1.
    pub fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// What counts the interrupts of a vector.
    pub fn vector(&self, vector: u16) -> Option<BorrowedFd<'_>> {
        self.vectors.get(usize::from(vector)).map(AsFd::as_fd)
    }

    /// Counts up when the host wants the device back: it is being pulled out, or bound to another driver.
    pub fn request(&self) -> Option<BorrowedFd<'_>> {
        self.request.as_ref().map(AsFd::as_fd)
    }

    /// Counts up when the bus reports an error of the device that it did not correct itself (PCI Express AER).
    pub fn error(&self) -> Option<BorrowedFd<'_>> {
        self.error.as_ref().map(AsFd::as_fd)
    }

    /// Lets the pin interrupt again. Nothing to do for messages.
    pub fn unmask(&self) {
        if self.mode == Mode::Pin {
            let flags = vfio::VFIO_IRQ_SET_DATA_NONE | vfio::VFIO_IRQ_SET_ACTION_UNMASK;
            // Fails when the device is gone, which is noticed elsewhere.
            let _ = with(&self.device, |fd| ioctl::set_irqs(fd, self.mode.index(), flags, 1, &[]));
        }
    }
}

fn count(device: BorrowedFd<'_>, index: u32) -> Result<u32, Errno> {
    let info = ioctl::ask(device, ioctl::DEVICE_GET_IRQ_INFO, 16, &[0, index])?;
    let word = |at| super::info::u32_at(&info, at).ok_or(Errno::INVAL);
    Ok(if word(4)? & vfio::VFIO_IRQ_INFO_EVENTFD != 0 { word(12)? } else { 0 })
}

/// As many vectors as there can be, up to `count`.
fn enable(device: BorrowedFd<'_>, index: u32, mut count: u32) -> Result<Vec<EventFd>, Errno> {
    let flags = vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
    loop {
        let events: Result<Vec<EventFd>, _> = (0..count).map(|_| EventFd::new()).collect();
        let events = events.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        let fds: Vec<BorrowedFd<'_>> = events.iter().map(AsFd::as_fd).collect();
        let fewer = match ioctl::set_irqs(device, index, flags, count, &fds) {
            Ok(0) => return Ok(events),
            Ok(could) => could,
            Err(why) if count == 1 => return Err(why),
            Err(_) => count / 2,
        };
        // Always fewer, so that this ends.
        count = fewer.min(count - 1).max(1);
        if count == 1 && fewer == 0 {
            return Err(Errno::NOSPC);
        }
    }
}

/// News that is no interrupt of the device's own.
fn watch(device: BorrowedFd<'_>, index: u32) -> Result<EventFd, Errno> {
    if count(device, index)? == 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let mut events = enable(device, index, 1)?;
    events.pop().ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_is_not_used_of_devices_where_it_is_broken() {
        let options = VfioOptions { broken_msi: &[(0x15b7, 0x5008)], ..VfioOptions::default() };
        for (id, nomsi) in [((0x15b7, 0x5008), true), ((0x15b7, 0x5007), false), ((0x15b6, 0x5008), false)] {
            assert_eq!((options.of(id).nomsi, options.of(id).nomsix), (nomsi, false));
        }
        assert!(VfioOptions { nomsi: true, ..options }.of((1, 2)).nomsi);
    }
}
