//! Controllers from capabilities.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme::PciId;
use nvme_linux::caps::{ControllerKind, ControllerSpec, Image, SoftOptions};
use nvme_linux::events::{Doorbell, now};
use nvme_linux::logger::OPERATOR;
use nvme_linux::memory::{ImageError, ImageFile, anonymous};
use nvme_linux::storage::{self, ImageOptions, LettingGo, OpenError, Rings, RingsError, Seed, Stored};
use nvme_linux::vfio::{
    Descriptors, Held, Interrupts, Opened as OpenedFunction, VfioDevice, VfioError, VfioOptions,
};
use nvme_platform::{Device, Time, Window};
use nvme_policy::PciPlace;
use nvme_soft::faulty::Rule;
#[cfg(feature = "twin")]
use nvme_soft::faulty::{Action, Queue, When};
use nvme_soft::{Config, ConfigError, Medium, MediumFailed, NamespaceConfig, SoftDevice, SoftHandle};

use crate::keep::Beginning;

/// How long a server that was killed may take to let go of its controllers: the memory of its clients is let go of first.
const DIES: Duration = Duration::from_secs(30);
/// How soon it is looked again whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Why a controller cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("{0}: {1}")]
    Memory(String, ImageError),
    #[error("{0}: {1}")]
    Image(String, OpenError),
    #[error("{0}: {1}")]
    Soft(String, ConfigError),
    #[error("vbus=pci: {0}")]
    Pci(#[from] VfioError),
}

/// The interrupts of all controllers, in their order. Software controllers have none.
pub(crate) type AllInterrupts = [Option<Arc<Interrupts>>];

/// Functions of the server that runs, by their words.
pub(crate) type Functions = BTreeMap<String, Descriptors>;

/// A controller that was opened.
pub(crate) struct Opened {
    /// The name that the log has for it.
    pub(crate) name: String,
    pub(crate) device: Box<dyn Device>,
    pub(crate) interrupts: Option<Arc<Interrupts>>,
    pub(crate) pci: Option<PciId>,
    pub(crate) place: Option<PciPlace>,
    /// The image, and what tells the driver that it changed.
    pub(crate) image: Option<Served>,
    /// What it is over, for the server that takes over.
    pub(crate) over: Over,
}

/// What a controller is over.
pub(crate) enum Over {
    /// Hardware.
    Hardware(Box<Held>),
    /// Memory of the server's own.
    Memory(Arc<ImageFile>),
    /// An image.
    Image(Arc<Stored>),
}

impl Over {
    /// The descriptor that has all of it, and its lock. None of hardware.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Hardware(_) => None,
            Self::Memory(disk) => Some(disk.file()),
            Self::Image(stored) => Some(stored.image().device()),
        }
    }
}

/// An image that is served.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) stored: Arc<Stored>,
    pub(crate) handle: SoftHandle,
}

/// What images need to be opened.
pub(crate) struct Opener {
    vfio: VfioOptions,
    /// Until when controllers are waited for that a server still has which was killed.
    patience: Option<Time>,
    /// What the server that runs hands over, by its words.
    handed: Functions,
    /// Rings for control when a command of a controller's own ends later.
    bell: Arc<Doorbell>,
    /// Whether there can be rings.
    rings: Result<(), String>,
    /// Images that rings must know.
    known: Vec<Arc<storage::Image>>,
}

/// A controller of storage that takes its time tells control of what it has answered.
struct Rung(Arc<Doorbell>);

impl nvme_soft::Interrupts for Rung {
    fn raise(&self, vector: u16) {
        if vector == 0 {
            self.0.ring();
        }
    }
}

impl Opened {
    /// How many descriptors a controller has: one of hardware its vectors, the request for it, bus errors, device, group and
    /// container; an image the file as it was given, as it is read, as it is mapped, and its bell.
    pub(crate) fn descriptors(&self) -> usize {
        let hardware = self.interrupts.as_ref().map_or(0, |interrupts| usize::from(interrupts.count()) + 5);
        hardware + if self.image.is_some() { 4 } else { 0 }
    }
}

/// Memory as a medium.
struct MemoryDisk(Arc<ImageFile>);

impl Medium for MemoryDisk {
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

impl Opener {
    /// `takes_up`: what a server left is taken up that was killed.
    pub(crate) fn new(vfio: VfioOptions, bell: &Arc<Doorbell>, handed: Functions, takes_up: bool) -> Self {
        let rings = Rings::probe().map_err(|why| why.to_string());
        let patience = takes_up.then(|| now() + DIES);
        Self { vfio, patience, handed, bell: Arc::clone(bell), rings, known: Vec::new() }
    }

    /// Opens a function. The kernel gives a group to one process at a time, and to the next one only when the last descriptor of its device
    /// is closed: then the function masters the bus no more and was reset, and its IOMMU maps nothing. So a server that was killed does no
    /// DMA any more once this has it, and nothing of its sessions was touched before.
    fn function(&self, address: &str, options: VfioOptions) -> Result<OpenedFunction, VfioError> {
        let mut said = false;
        loop {
            match VfioDevice::open(address, options) {
                Err(VfioError::InUse(group)) if self.patience.is_some_and(|until| now() < until) => {
                    if !said {
                        log::warn!(target: OPERATOR, "{address}: the server before has IOMMU group {group} still; it is waited for");
                    }
                    said = true;
                    std::thread::sleep(LOOK);
                }
                opened => return opened,
            }
        }
    }

    /// A ring for each worker, if any image needs one, and what says that they have let go of their files.
    /// `keep`: each image has gates of its own.
    pub(crate) fn rings(
        &self,
        workers: usize,
        keep: Option<&mut Beginning>,
    ) -> Result<(Vec<Option<Seed>>, Option<LettingGo>), RingsError> {
        if self.known.is_empty() {
            return Ok(((0..workers).map(|_| None).collect(), None));
        }
        let mut ends = Vec::new();
        if let Some(keep) = keep {
            for image in &self.known {
                ends.push(keep.gate(image.serial()).map_err(|why| RingsError::Setup(why.into()))?);
            }
        }
        let (rings, letting_go) = Rings::make(workers, &self.known, &ends)?;
        Ok((rings.into_iter().map(Some).collect(), Some(letting_go)))
    }

    /// Opens a controller.
    pub(crate) fn open(&mut self, spec: ControllerSpec) -> Result<Opened, DeviceError> {
        let ControllerSpec { kind, origin } = spec;
        match kind {
            ControllerKind::Pci { address, doorbell_buffers } => {
                let options = VfioOptions { doorbell_buffers, ..self.vfio };
                let opened = match self.handed.remove(&origin) {
                    Some(given) => VfioDevice::beside(&address, given, options)?,
                    None => self.function(&address, options)?,
                };
                let OpenedFunction { device, interrupts, id: (vendor, product), held } = opened;
                Ok(Opened {
                    name: origin,
                    device: Box::new(device),
                    interrupts: Some(interrupts),
                    pci: Some(PciId { vendor, device: product }),
                    place: PciPlace::parse(&address),
                    image: None,
                    over: Over::Hardware(Box::new(held)),
                })
            }
            ControllerKind::Soft { image, serial, name, options, read_only } => match image {
                Image::Memory(size, made) => memory(origin, serial, (size, made), &options, read_only),
                Image::File(file) => {
                    let SoftOptions { lba, engine, preallocate, pin, .. } = options;
                    let options = ImageOptions {
                        name: name.clone(),
                        serial: serial.clone(),
                        block_size: lba,
                        read_only,
                        engine: engine.unwrap_or_default(),
                        preallocate,
                        pin,
                    };
                    let stored = Stored::open(file, options, self.known.len(), &self.rings)
                        .map_err(|why| DeviceError::Image(name.clone(), why))?;
                    if stored.image().has_ring() {
                        self.known.push(Arc::clone(stored.image()));
                    }
                    self.stored(name, serial, stored)
                }
            },
        }
    }

    fn stored(&self, name: String, serial: String, stored: Arc<Stored>) -> Result<Opened, DeviceError> {
        let image = stored.image();
        image.tell_of_loss(&self.bell);
        let namespace = NamespaceConfig::stored(Arc::clone(&stored) as _)
            .block_size(image.block_size())
            .read_only(image.read_only());
        let config = Config {
            serial,
            namespaces: vec![namespace],
            namespaces_max: 1,
            // What is in memory is as durable as it will ever be.
            write_cache: !image.in_memory(),
            dataset_management: image.discards(),
            interrupts: Some(Box::new(Rung(Arc::clone(&self.bell)))),
            memory: Some(Box::new(|len| anonymous(len).ok())),
            pause: std::thread::yield_now,
            faults: twin(),
            ..Config::default()
        };
        let device = SoftDevice::new(config).map_err(|why| DeviceError::Soft(name.clone(), why))?;
        let over = Over::Image(Arc::clone(&stored));
        let served = Served { stored, handle: device.handle() };
        Ok(Opened {
            name,
            device: Box::new(device),
            interrupts: None,
            pci: None,
            place: None,
            image: Some(served),
            over,
        })
    }
}

/// What the faulty twin does in builds for tests: it holds some commands up, so that others overtake them.
#[cfg(feature = "twin")]
#[expect(clippy::unnecessary_wraps, reason = "as in other builds")]
fn twin() -> Option<Vec<Rule>> {
    let held = |per_mille, seed, micros| {
        let when = When::Chance { per_mille, seed };
        Rule::any(Queue::AnyIo, when, Action::Delay(Duration::from_micros(micros)))
    };
    Some(vec![held(200, 1, 3000), held(250, 2, 400)])
}

/// Software controllers do as they should.
#[cfg(not(feature = "twin"))]
const fn twin() -> Option<Vec<Rule>> {
    None
}

/// A controller over memory.
fn memory(
    origin: String,
    serial: String,
    (size, made): (u64, Option<OwnedFd>),
    options: &SoftOptions,
    read_only: bool,
) -> Result<Opened, DeviceError> {
    let disk = made.map_or_else(|| ImageFile::memory(size), |file| ImageFile::made(file, size));
    let disk = Arc::new(disk.map_err(|why| DeviceError::Memory(origin.clone(), why))?);
    let medium: Arc<dyn Medium> = Arc::new(MemoryDisk(Arc::clone(&disk)));
    let namespace = NamespaceConfig::new(medium).block_size(options.block_size()).read_only(read_only);
    let config = Config {
        serial,
        namespaces: vec![namespace],
        namespaces_max: 1,
        // What is in memory is as durable as it will ever be.
        write_cache: false,
        memory: Some(Box::new(|len| anonymous(len).ok())),
        pause: std::thread::yield_now,
        faults: twin(),
        ..Config::default()
    };
    let device = SoftDevice::new(config).map_err(|why| DeviceError::Soft(origin.clone(), why))?;
    Ok(Opened {
        name: origin,
        device: Box::new(device),
        interrupts: None,
        pci: None,
        place: None,
        image: None,
        over: Over::Memory(disk),
    })
}
