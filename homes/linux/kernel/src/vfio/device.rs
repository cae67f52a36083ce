//! One controller.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nvme_mem::Window;
use nvme_platform::{Bus, CutOff, Device, DeviceError, DmaPool, DmaSpace, QueueDoorbells, Registers};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio;

use super::bar::{self, Bar};
use super::group::{self, Function};
use super::handle::{self, Handle, with};
use super::held::{self, Descriptors, Held};
use super::info::{REGION_INFO, RegionInfo, u32_at};
use super::interrupts::{Interrupts, VfioOptions};
use super::space::{Space, TYPE1};
use super::{VfioError, ioctl};

/// The command register of the configuration space, and its bits (PCI 3.0, 6.2.2).
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_MASTER: u16 = 1 << 2;

/// A controller that was opened.
pub struct Opened {
    /// It.
    pub device: VfioDevice,
    /// What to wait for.
    pub interrupts: Arc<Interrupts>,
    /// PCI vendor and device.
    pub id: (u16, u16),
    /// What the next server is handed of it.
    pub held: Held,
}

/// An NVMe controller behind VFIO.
pub struct VfioDevice {
    handle: Handle,
    /// The kernel keeps the group of an open device.
    group: Handle,
    bar: Bar,
    /// Where the configuration space lies in the device's descriptor.
    config: u64,
    can_reset: bool,
    doorbell_buffers: bool,
    interrupts: Arc<Interrupts>,
    space: Space,
}

fn system(what: &'static str) -> impl Fn(Errno) -> VfioError {
    move |why| VfioError::System(what, why)
}

fn node(path: &str, group: Option<u32>) -> Result<OwnedFd, VfioError> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty()).map_err(|why| {
        match (why, group) {
            (Errno::ACCESS | Errno::PERM, _) => VfioError::Permission(path.to_owned()),
            (Errno::NOENT | Errno::NODEV | Errno::NXIO, _) => VfioError::NoNode(path.to_owned()),
            (Errno::BUSY, Some(group)) => VfioError::InUse(group),
            _ => VfioError::System("opening the group", why),
        }
    })
}

/// Opens the container of a group.
fn container(function: &Function, sys: &Path) -> Result<(OwnedFd, OwnedFd), VfioError> {
    let number = function.group;
    let group = node(&format!("/dev/vfio/{number}"), Some(number))?;
    if !ioctl::group_viable(&group).map_err(system("asking for the group's state"))? {
        return Err(VfioError::NotViable { group: number, others: group::others(sys, number) });
    }
    let container = node("/dev/vfio/vfio", None)?;
    if ioctl::plain(&container, ioctl::GET_API_VERSION, 0) != Ok(vfio::VFIO_API_VERSION) {
        return Err(VfioError::Lacks("version 0"));
    }
    if !ioctl::plain(&container, ioctl::CHECK_EXTENSION, TYPE1).is_ok_and(|has| has != 0) {
        return Err(VfioError::Lacks("type 1 IOMMU"));
    }
    ioctl::set_container(&group, &container).map_err(system("joining group and container"))?;
    ioctl::plain(&container, ioctl::SET_IOMMU, TYPE1).map_err(|why| match why {
        // The kernel has no other reason to refuse it like that.
        Errno::PERM => VfioError::NoInterruptRemapping,
        _ => VfioError::System("setting the IOMMU", why),
    })?;
    Ok((group, container))
}

fn region(device: BorrowedFd<'_>, index: u32) -> Result<RegionInfo, VfioError> {
    let bytes = ioctl::ask(device, ioctl::DEVICE_GET_REGION_INFO, REGION_INFO, &[0, index])
        .map_err(system("asking for a region"))?;
    RegionInfo::parse(&bytes).ok_or(VfioError::Lacks("such region"))
}

impl VfioDevice {
    /// Opens the function at `address` (`DDDD:BB:DD.F`), resets it, and asks for its interrupts.
    pub fn open(address: &str, options: VfioOptions) -> Result<Opened, VfioError> {
        let sys = Path::new("/sys");
        Self::open_function(address, &group::function(sys, address)?, sys, options)
    }

    fn open_function(
        address: &str,
        function: &Function,
        sys: &Path,
        options: VfioOptions,
    ) -> Result<Opened, VfioError> {
        let (group, container) = container(function, sys)?;
        let space = Space::new(container)?;
        let device = ioctl::device(&group, address).map_err(system("opening the device"))?;
        let info = ioctl::ask(&device, ioctl::DEVICE_GET_INFO, 24, &[])
            .map_err(system("asking what the device is"))?;
        let can_reset = u32_at(&info, 4).unwrap_or(0) & vfio::VFIO_DEVICE_FLAGS_RESET != 0;
        // Whatever it was doing for somebody else ends. Nothing is mapped yet, and it may not master the bus.
        if can_reset && let Err(why) = ioctl::reset(&device) {
            log::warn!("{address}: its function could not be reset: {why}");
        }
        let handle = handle::new(device);
        let mut opened =
            Self::of(address, function.id, handle, handle::new(group), space, options, |handle| {
                Interrupts::enable(address, handle, options.of(function.id))
            })?;
        let (number, interrupts) = (function.group, &opened.interrupts);
        log::info!(
            "{address}: IOMMU group {number}, {} with {} vectors",
            interrupts.mode(),
            interrupts.count()
        );
        // As the kernel hands it over, and the reset leaves it; where there is no reset, this is what keeps whatever it was
        // doing from memory that is mapped from here on.
        let still = |_| VfioError::Device(address.to_owned(), "its bus mastering stays on");
        opened.device.master(false).map_err(still)?;
        Ok(opened)
    }

    /// The function at `address`, which another server serves and hands over. Nothing is done to it before the driver begins; and
    /// that needs [`Held::begin_beside`] first.
    pub fn beside(address: &str, given: Descriptors, options: VfioOptions) -> Result<Opened, VfioError> {
        if !held::hands_over() {
            return Err(VfioError::Lacks(
                "mappings that another process may take away (Linux 6.0 and newer)",
            ));
        }
        let function = group::function(Path::new("/sys"), address)?;
        let Descriptors { container, group, device, interrupts } = given;
        let space = Space::beside(container)?;
        let (handle, group) = (handle::new(device), handle::new(group));
        Self::of(address, function.id, handle, group, space, options, |handle| {
            Interrupts::of(handle, interrupts)
        })
    }

    fn of(
        address: &str,
        id: (u16, u16),
        handle: Handle,
        group: Handle,
        space: Space,
        options: VfioOptions,
        interrupts: impl FnOnce(Handle) -> Result<Arc<Interrupts>, VfioError>,
    ) -> Result<Opened, VfioError> {
        let looked =
            with(&handle, |device| Ok(look(device, address))).map_err(system("opening the device"))??;
        let Looked { can_reset, config, window } = looked;
        let interrupts = interrupts(Arc::clone(&handle))?;
        let bar = Bar::new(window);
        let held = Held {
            container: space.container().clone(),
            group: Arc::clone(&group),
            device: Arc::clone(&handle),
            interrupts: Arc::clone(&interrupts),
            bar: bar.clone(),
            config,
            can_reset,
        };
        let device = Self {
            handle,
            group,
            bar,
            config,
            can_reset,
            doorbell_buffers: options.doorbell_buffers,
            interrupts: Arc::clone(&interrupts),
            space,
        };
        Ok(Opened { device, interrupts, id, held })
    }

    /// Changes the command register, and sees that it did.
    fn command(&mut self, set: u16, clear: u16) -> Result<(), DeviceError> {
        with(&self.handle, |fd| command(fd, self.config, set, clear)).map_err(|why| match why {
            Errno::NODEV | Errno::IO => DeviceError::Gone,
            _ => DeviceError::Failed,
        })
    }
}

/// Changes the command register of the configuration space that lies there, and sees that it did.
pub(super) fn command(fd: BorrowedFd<'_>, config: u64, set: u16, clear: u16) -> Result<(), Errno> {
    let (at, mut word) = (config + COMMAND, [0; 2]);
    rustix::io::pread(fd, &mut word, at)?;
    let wanted = (u16::from_le_bytes(word) | set) & !clear;
    rustix::io::pwrite(fd, &wanted.to_le_bytes(), at)?;
    rustix::io::pread(fd, &mut word, at)?;
    match u16::from_le_bytes(word) {
        u16::MAX => Err(Errno::NODEV),
        now if now & set == set && now & clear == 0 => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// What is seen of a device.
struct Looked {
    can_reset: bool,
    /// Where the configuration space lies in its descriptor.
    config: u64,
    /// BAR 0.
    window: Window,
}

/// Looks at a device, and maps its registers.
fn look(device: BorrowedFd<'_>, address: &str) -> Result<Looked, VfioError> {
    let info =
        ioctl::ask(device, ioctl::DEVICE_GET_INFO, 24, &[]).map_err(system("asking what the device is"))?;
    let can_reset = u32_at(&info, 4).unwrap_or(0) & vfio::VFIO_DEVICE_FLAGS_RESET != 0;
    let registers = region(device, vfio::VFIO_PCI_BAR0_REGION_INDEX)?;
    let config = region(device, vfio::VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
    if registers.mappable < bar::LEAST {
        return Err(VfioError::Device(address.to_owned(), "its registers cannot be mapped"));
    }
    let len = usize::try_from(registers.mappable.min(bar::MOST)).map_err(|_| VfioError::Lacks("such BAR"))?;
    let window =
        crate::memory::device(device, registers.offset, len).map_err(system("mapping the registers"))?;
    Ok(Looked { can_reset, config, window })
}

impl Bus for VfioDevice {
    fn vectors(&self) -> u16 {
        self.interrupts.count()
    }

    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        if on { self.command(COMMAND_MEMORY | COMMAND_MASTER, 0) } else { self.command(0, COMMAND_MASTER) }
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if !self.can_reset {
            return Err(DeviceError::Unsupported);
        }
        with(&self.handle, |fd| ioctl::reset(fd)).map_err(|why| match why {
            Errno::NODEV => DeviceError::Gone,
            _ => DeviceError::Failed,
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the device masters the bus no more, or is gone")]
    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        // A device that is gone cannot be told; the IOMMU can.
        let _ = self.command(0, COMMAND_MASTER);
        self.space.cut_off().map_err(|_| DeviceError::Failed)?;
        // The host may have it back: nothing of ours keeps it busy.
        self.bar.withdraw();
        handle::close(&self.handle);
        handle::close(&self.group);
        Ok(CutOff::seen())
    }
}

impl Device for VfioDevice {
    fn doorbell_buffers(&self) -> bool {
        self.doorbell_buffers
    }

    fn registers(&mut self) -> &mut dyn Registers {
        &mut self.bar
    }

    fn dma(&mut self) -> &mut dyn DmaSpace {
        &mut self.space
    }

    fn pool(&mut self) -> &mut dyn DmaPool {
        &mut self.space
    }

    fn bus(&mut self) -> &mut dyn Bus {
        self
    }

    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        let doorbells = self.bar.doorbells(queue, stride).ok_or(DeviceError::Unsupported)?;
        Ok(Box::new(doorbells))
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::Mode;
    use super::*;

    #[test]
    fn a_function_that_is_not_there_is_refused_by_name() {
        let opened = VfioDevice::open("ffff:ff:1f.7", VfioOptions::default());
        assert_eq!(opened.err(), Some(VfioError::NotThere("ffff:ff:1f.7".into())));
    }

    /// Waits for an interrupt of vector 0, and takes it.
    fn interrupted(interrupts: &Interrupts, wait: i64) -> bool {
        let event = interrupts.vector(0).unwrap();
        let timeout = Timespec { tv_sec: wait, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&timeout)) == Ok(1)
            && rustix::io::read(event, &mut [0; 8]) == Ok(8)
    }

    /// No NVMe controller of QEMU's has MSI. Its device for teaching has, and no MSI-X: what differs is in the other device,
    /// not here. It is to be bound to vfio-pci.
    #[test]
    #[ignore = "run by cargo xtask vm, in a machine with QEMU's edu device, whose PCI address NVME_DRV_EDU says"]
    fn messages_and_the_pin_interrupt_by_the_same_eventfd() {
        const RAISE: u32 = 0x60;
        const ACKNOWLEDGE: u32 = 0x64;
        let address = std::env::var("NVME_DRV_EDU").unwrap();
        let sys = Path::new("/sys");
        let group = group::translated_group(&group::folder(sys, &address)).unwrap();
        for (nomsi, mode) in [(false, Mode::Msi), (true, Mode::Pin)] {
            let options = VfioOptions { nomsi, nomsix: false, ..VfioOptions::default() };
            let function = Function { group, id: (0, 0) };
            let Opened { mut device, interrupts, .. } =
                VfioDevice::open_function(&address, &function, sys, options).unwrap();
            assert_eq!((interrupts.mode(), interrupts.count()), (mode, 1));
            device.master(true).unwrap();
            assert!(!interrupted(&interrupts, 0));
            for _ in 0..3 {
                device.registers().write32(RAISE, 1);
                assert!(interrupted(&interrupts, 10), "{mode}");
                assert!(!interrupted(&interrupts, 0), "once");
                device.registers().write32(ACKNOWLEDGE, 1);
                interrupts.unmask();
            }
            device.cut_off().unwrap();
        }
    }

    /// What the next server relies on, where one was killed: that it has the function is proof that nothing of the dead one is under way.
    #[test]
    #[ignore = "run by cargo xtask vm, in a machine with QEMU's edu device, whose PCI address NVME_DRV_EDU says"]
    fn a_function_is_nobody_else_s_until_the_last_descriptor_of_it_is_closed_and_masters_no_bus_then() {
        let address = std::env::var("NVME_DRV_EDU").unwrap();
        let sys = Path::new("/sys");
        let group = group::translated_group(&group::folder(sys, &address)).unwrap();
        let open = || {
            let function = Function { group, id: (0, 0) };
            VfioDevice::open_function(&address, &function, sys, VfioOptions::default())
        };
        let Opened { mut device, interrupts, .. } = open().unwrap();
        device.master(true).unwrap();
        let kept = with(&device.handle, |fd| rustix::io::fcntl_dupfd_cloexec(fd, 0)).unwrap();
        let at = device.config + COMMAND;
        let masters = |fd: &OwnedFd| {
            let mut word = [0; 2];
            rustix::io::pread(fd, &mut word, at).unwrap();
            u16::from_le_bytes(word) & COMMAND_MASTER != 0
        };
        // As a process that is killed leaves it: nothing is told to the device.
        drop((device, interrupts));
        assert!(masters(&kept));
        assert_eq!(open().err(), Some(VfioError::InUse(group)));
        assert!(masters(&kept), "and who was refused has not touched it");
        drop(kept);
        let Opened { device, .. } = open().unwrap();
        assert!(!with(&device.handle, |fd| Ok(masters(&rustix::io::fcntl_dupfd_cloexec(fd, 0)?))).unwrap());
    }
}
