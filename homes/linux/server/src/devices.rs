//! Controllers from capabilities.

use std::sync::Arc;

use nvme_core::nvme::PciId;
use nvme_linux::caps::{ControllerKind, ControllerSpec, Image};
use nvme_linux::memory::{ImageAccess, ImageError, ImageFile};
use nvme_linux::vfio::{Interrupts, Opened as OpenedFunction, VfioDevice, VfioError, VfioOptions};
use nvme_platform::{Device, Window};
use nvme_policy::PciPlace;
use nvme_soft::{Config, ConfigError, Medium, MediumFailed, NamespaceConfig, SoftDevice};

/// Why a controller cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("{0}: {1}")]
    Image(String, ImageError),
    #[error("{0}: {1}")]
    Soft(String, ConfigError),
    #[error("vbus=pci: {0}")]
    Pci(#[from] VfioError),
}

/// The interrupts of all controllers, in their order. Software controllers have none.
pub(crate) type AllInterrupts = [Option<Arc<Interrupts>>];

/// A controller that was opened.
pub(crate) struct Opened {
    /// The name that the log has for it.
    pub(crate) name: String,
    pub(crate) device: Box<dyn Device>,
    pub(crate) interrupts: Option<Arc<Interrupts>>,
    pub(crate) pci: Option<PciId>,
    pub(crate) place: Option<PciPlace>,
}

impl Opened {
    /// How many descriptors a hardware controller has: its vectors, the request for it, bus errors, device, group and container.
    pub(crate) fn descriptors(&self) -> usize {
        self.interrupts.as_ref().map_or(0, |interrupts| usize::from(interrupts.count()) + 5)
    }
}

/// An image file, or memory, as a medium.
struct ImageMedium(ImageFile);

impl Medium for ImageMedium {
    fn window(&self) -> &Window {
        self.0.window()
    }

    fn flush(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        self.0.flush(offset, len).map_err(failed)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        self.0.discard(offset, len).map_err(failed)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), MediumFailed> {
        self.0.zero(offset, len).map_err(failed)
    }
}

fn failed(why: ImageError) -> MediumFailed {
    log::error!("image: {why}");
    MediumFailed
}

/// Opens a controller.
pub(crate) fn open(spec: ControllerSpec, vfio: VfioOptions) -> Result<Opened, DeviceError> {
    let ControllerSpec { kind, origin } = spec;
    match kind {
        ControllerKind::Pci(address) => {
            let OpenedFunction { device, interrupts, id: (vendor, product) } =
                VfioDevice::open(&address, vfio)?;
            Ok(Opened {
                name: origin,
                device: Box::new(device),
                interrupts: Some(interrupts),
                pci: Some(PciId { vendor, device: product }),
                place: PciPlace::parse(&address),
            })
        }
        ControllerKind::Soft { image, serial, block_size, read_only } => {
            let in_memory = matches!(image, Image::Memory(_));
            let access = if read_only { ImageAccess::ReadOnly } else { ImageAccess::ReadWrite };
            let image = match image {
                Image::File(file) => ImageFile::open(file, access),
                Image::Memory(size) => ImageFile::memory(size),
            }
            .map_err(|e| DeviceError::Image(origin.clone(), e))?;
            let namespace = NamespaceConfig::new(Arc::new(ImageMedium(image)))
                .block_size(block_size)
                .read_only(read_only);
            let config = Config {
                serial,
                namespaces: vec![namespace],
                namespaces_max: 1,
                // What is in memory is as durable as it will ever be.
                write_cache: !in_memory,
                pause: std::thread::yield_now,
                ..Config::default()
            };
            let device = SoftDevice::new(config).map_err(|e| DeviceError::Soft(origin.clone(), e))?;
            Ok(Opened { name: origin, device: Box::new(device), interrupts: None, pci: None, place: None })
        }
    }
}
