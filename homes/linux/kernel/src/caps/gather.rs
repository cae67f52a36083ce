//! All capabilities in one table.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::kind::{Access, image, regular_file};
use super::listener::{Listener, ListenerKind, listener, scraped};
use super::raw::{Giver, Passed, Raw, described, wrong};
use super::trail::{TRAIL, TrailFile};
use super::{CapError, CapWord, Inherited, NamedFd, Place, SoftOptions, SoftSource, Spec};
use crate::memory::proc_path;
use crate::socket::Kind;
use crate::storage::facts::let_go_of;
use crate::storage::holder::holder;

/// The names that the command line asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Of the static clients (`--client`).
    pub clients: &'a [String],
    /// Of the factories that are made at the start (`--factory`).
    pub factories: &'a [String],
    /// Of the trusted dataspaces (`--register-ds`); a repeated name is one dataspace.
    pub dataspaces: &'a [String],
}

/// What the server starts with. Everything in it was checked.
#[derive(Debug)]
pub struct Capabilities {
    /// The controllers, in the order given: inherited ones first. At least one.
    pub controllers: Vec<ControllerSpec>,
    /// The factory: `SOCK_SEQPACKET`.
    pub svr: Option<Listener>,
    /// The static clients, in the order of [`Wanted::clients`]: `SOCK_STREAM`.
    pub clients: Vec<Listener>,
    /// The attenuated factories, in the order of [`Wanted::factories`]: `SOCK_SEQPACKET`.
    pub factories: Vec<Listener>,
    /// The trusted dataspaces, in the order of [`Wanted::dataspaces`].
    pub dataspaces: Vec<NamedFile>,
    /// Introspection: `SOCK_STREAM`, as its document can be longer than a datagram.
    pub ctl: Option<Listener>,
    /// The operator's: `SOCK_SEQPACKET`.
    pub admin: Option<Listener>,
    /// The audit trail.
    pub audit: Option<TrailFile>,
    /// Numbers for Prometheus: a stream socket, `AF_UNIX` or TCP.
    pub metrics: Option<Listener>,
    /// Where the next server takes over: `SOCK_SEQPACKET`.
    pub upgrade: Option<Listener>,
}

/// One `vbus` capability.
#[derive(Debug)]
pub struct ControllerSpec {
    /// What it is.
    pub kind: ControllerKind,
    /// How the operator wrote it, for messages: `vbus=soft:disk.img`, or `vbus (descriptor 3)`.
    pub origin: String,
}

/// What a controller is.
#[derive(Debug)]
pub enum ControllerKind {
    /// A PCI function for VFIO.
    Pci {
        /// `DDDD:BB:DD.F` in lower case.
        address: String,
        /// Whether doorbells are to be in memory, where the controller offers that.
        doorbell_buffers: bool,
    },
    /// The software controller.
    Soft {
        /// What it serves.
        image: Image,
        /// Its serial number; no two software controllers have the same.
        serial: String,
        /// How an image is called in messages.
        name: String,
        /// The options of its SPEC.
        options: SoftOptions,
        /// Nothing may be written.
        read_only: bool,
    },
}

/// What a software controller serves.
#[derive(Debug)]
pub enum Image {
    /// A regular file or a block device, open for reading, and for writing unless the controller is read-only.
    File(OwnedFd),
    /// Memory of so many bytes, zero at the start; or what another server had in it.
    Memory(u64, Option<OwnedFd>),
}

/// A trusted dataspace.
#[derive(Debug)]
pub struct NamedFile {
    /// The capability's name.
    pub name: String,
    /// A regular file, open for reading and, where the file allows it, for writing.
    pub file: OwnedFd,
    /// Whether it is open for writing.
    pub writable: bool,
}

/// Names that are the server's own.
const OWN_NAMES: [&str; 7] = ["vbus", "svr", "ctl", "admin", "metrics", "audit", "upgrade"];

const FILE: &str = "a file (memfd, tmpfs, hugetlbfs): file:PATH";
const IMAGE: &str = "a PCI function, an image file or a block device: pci:DDDD:BB:DD.F or soft:IMAGE";
const STREAM: &str = "a listening AF_UNIX SOCK_STREAM socket: unix:PATH";
const SEQPACKET: &str = "a listening AF_UNIX SOCK_SEQPACKET socket: unix:PATH";

impl Capabilities {
    /// Which sockets there are, and where clients find those that the server makes itself.
    pub fn sockets(&self) -> Vec<String> {
        let own =
            self.svr.iter().chain(&self.ctl).chain(&self.admin).chain(&self.metrics).chain(&self.upgrade);
        let all = own.chain(&self.clients).chain(&self.factories);
        all.map(|listener| match (listener.path(), listener.is_connected()) {
            _ if let ListenerKind::Tcp(address) = &listener.kind => format!("{} at {address}", listener.name),
            (Some(path), _) => format!("{} at {}", listener.name, path.display()),
            (None, true) => format!("{}, connected", listener.name),
            (None, false) => format!("{}, inherited", listener.name),
        })
        .collect()
    }

    /// Brings the inherited capabilities and the `--cap` words together, and checks each against what the command
    /// line asks for. Opens the files that the words name. The first thing that is wrong is the error.
    pub fn gather(inherited: Inherited, words: Vec<CapWord>, wanted: &Wanted<'_>) -> Result<Self, CapError> {
        check_names(wanted)?;
        let other_pid = inherited.other_pid;
        let mut named = by_name(inherited, words)?;

        let vbus = named.remove("vbus").unwrap_or_default();
        let mut one = |name: &str| -> Result<Option<Raw>, CapError> {
            let mut raws = named.remove(name).unwrap_or_default();
            if raws.len() > 1 {
                return Err(CapError::Twice(name.to_owned()));
            }
            Ok(raws.pop())
        };
        let (svr, ctl, admin, audit) = (one("svr")?, one("ctl")?, one("admin")?, one("audit")?);
        let (metrics, upgrade) = (one("metrics")?, one("upgrade")?);
        let clients: Vec<(&String, Option<Raw>)> =
            wanted.clients.iter().map(|name| Ok((name, one(name)?))).collect::<Result<_, CapError>>()?;
        let factories: Vec<(&String, Option<Raw>)> =
            wanted.factories.iter().map(|name| Ok((name, one(name)?))).collect::<Result<_, CapError>>()?;
        let mut dataspaces: Vec<(&String, Option<Raw>)> = Vec::new();
        for name in wanted.dataspaces {
            if !dataspaces.iter().any(|(known, _)| *known == name) {
                dataspaces.push((name, one(name)?));
            }
        }
        // What is left has no use. Before what is missing: a name that was misspelt is the more useful message.
        if let Some(name) = named.into_keys().next() {
            return Err(CapError::Unknown(name));
        }

        let missing = |name: &str, spec: &str| {
            let mut hint = format!("pass it by name, or give --cap {name}={spec}");
            if let Some(pid) = other_pid {
                hint += &format!(" (LISTEN_PID={pid} is not this process, so LISTEN_FDS was not used)");
            }
            CapError::Missing { name: name.to_owned(), hint }
        };
        if vbus.is_empty() {
            return Err(missing("vbus", "pci:DDDD:BB:DD.F or --cap vbus=soft:IMAGE"));
        }
        if svr.is_none() && wanted.clients.is_empty() && wanted.factories.is_empty() {
            let hint =
                "unix:PATH (or serve only static clients, with --client, or only tenants, with --factory)";
            return Err(missing("svr", hint));
        }
        let mut capabilities = Self {
            controllers: controllers(vbus)?,
            svr: svr.map(|raw| listener("svr", raw, &[Kind::SeqPacket], SEQPACKET)).transpose()?,
            clients: Vec::new(),
            factories: Vec::new(),
            dataspaces: Vec::new(),
            ctl: ctl.map(|raw| listener("ctl", raw, &[Kind::Stream], STREAM)).transpose()?,
            admin: admin.map(|raw| listener("admin", raw, &[Kind::SeqPacket], SEQPACKET)).transpose()?,
            audit: audit.map(trail_file).transpose()?,
            metrics: metrics.map(scraped).transpose()?,
            upgrade: upgrade
                .map(|raw| listener("upgrade", raw, &[Kind::SeqPacket], SEQPACKET))
                .transpose()?,
        };
        for (name, raw) in clients {
            let raw = raw.ok_or_else(|| missing(name, "unix:PATH"))?;
            capabilities.clients.push(listener(name, raw, &[Kind::Stream], STREAM)?);
        }
        for (name, raw) in factories {
            let raw = raw.ok_or_else(|| missing(name, "unix:PATH"))?;
            capabilities.factories.push(listener(name, raw, &[Kind::SeqPacket], SEQPACKET)?);
        }
        for (name, raw) in dataspaces {
            let raw = raw.ok_or_else(|| missing(name, "file:PATH"))?;
            capabilities.dataspaces.push(dataspace(name, raw)?);
        }
        Ok(capabilities)
    }
}

/// A name is one thing.
fn check_names(wanted: &Wanted<'_>) -> Result<(), CapError> {
    let served = || wanted.clients.iter().chain(wanted.factories);
    for (index, name) in served().enumerate() {
        let reserved = OWN_NAMES.contains(&name.as_str());
        let again = served().take(index).any(|other| other == name);
        if reserved || again || wanted.dataspaces.contains(name) {
            return Err(CapError::Ambiguous(name.clone()));
        }
    }
    match wanted.dataspaces.iter().find(|name| OWN_NAMES.contains(&name.as_str())) {
        Some(name) => Err(CapError::Ambiguous(name.clone())),
        None => Ok(()),
    }
}

fn by_name(inherited: Inherited, words: Vec<CapWord>) -> Result<BTreeMap<String, Vec<Raw>>, CapError> {
    let mut named: BTreeMap<String, Vec<Raw>> = BTreeMap::new();
    for capability in inherited.listen {
        let origin = format!("{} (descriptor {})", capability.name, capability.fd.as_raw_fd());
        named
            .entry(capability.name)
            .or_default()
            .push(Raw::Open(Passed { fd: capability.fd, by: Giver::Parent }, origin));
    }
    let mut taken: BTreeMap<RawFd, OwnedFd> = inherited.words.into_iter().collect();
    let mut handed = inherited.handed;
    for (_, NamedFd { name, fd }) in handed.extract_if(.., |(word, _)| word.is_none()) {
        let origin = format!("{name} (handed over)");
        named.entry(name).or_default().push(Raw::Open(Passed { fd, by: Giver::Server }, origin));
    }
    for CapWord { name, spec, text } in words {
        let same = handed.iter().position(|(word, _)| word.as_deref() == Some(text.as_str()));
        let fd = match spec.fd() {
            _ if let Some(at) = same => Some(Passed { fd: handed.swap_remove(at).1.fd, by: Giver::Server }),
            None => None,
            Some(number) => match taken.remove(&number) {
                Some(fd) => Some(Passed { fd, by: Giver::Parent }),
                None => return Err(CapError::NotOpen { name, fd: number }),
            },
        };
        named.entry(name).or_default().push(Raw::Word(spec, fd, text));
    }
    match handed.into_iter().next() {
        Some((word, NamedFd { name, .. })) => Err(CapError::NotWanted { word: word.unwrap_or(name) }),
        None => Ok(named),
    }
}

fn controllers(raws: Vec<Raw>) -> Result<Vec<ControllerSpec>, CapError> {
    let mut controllers = Vec::new();
    let mut serials: Vec<(String, String)> = Vec::new();
    for raw in raws {
        let (spec, fd, origin) = match raw {
            Raw::Open(fd, origin) => {
                let source = SoftSource::Image(Place::Path(PathBuf::new()));
                (Spec::Soft { source, options: SoftOptions::default() }, Some(fd), origin)
            }
            Raw::Word(spec, fd, origin) => (spec, fd, origin),
        };
        let kind = match spec {
            Spec::Pci { address, doorbell_buffers } => ControllerKind::Pci { address, doorbell_buffers },
            Spec::Soft { source, options } => {
                let serial = options.serial.clone().unwrap_or_else(|| format!("soft{}", serials.len()));
                if let Some((_, first)) = serials.iter().find(|(known, _)| *known == serial) {
                    return Err(CapError::SameSerial { serial, first: first.clone(), second: origin });
                }
                serials.push((serial.clone(), origin.clone()));
                soft(source, fd, serial, &origin, options)?
            }
            other => return Err(wrong("vbus", described(&other), IMAGE)),
        };
        controllers.push(ControllerSpec { kind, origin });
    }
    Ok(controllers)
}

fn soft(
    source: SoftSource,
    passed: Option<Passed>,
    serial: String,
    origin: &str,
    options: SoftOptions,
) -> Result<ControllerKind, CapError> {
    let name = match (&source, &passed) {
        (SoftSource::Image(Place::Path(path)), None) => path.display().to_string(),
        _ => origin.to_owned(),
    };
    // Whoever opened a device for us may not have claimed it.
    let unclaimed = passed.as_ref().is_some_and(|passed| passed.by == Giver::Parent);
    let (file, access) = match (source, passed.map(|passed| passed.fd)) {
        (SoftSource::Memory(size), made) => {
            let (image, read_only) = (Image::Memory(size, made), options.read_only);
            return Ok(ControllerKind::Soft { image, serial, name, options, read_only });
        }
        (SoftSource::Image(Place::Path(path)), None) => {
            let access = if options.read_only { Access::Read } else { Access::ReadWrite };
            (open_image(&path, access)?, access)
        }
        (SoftSource::Image(Place::Fd(number)), None) => {
            return Err(CapError::NotOpen { name: "vbus".to_owned(), fd: number });
        }
        (SoftSource::Image(_), Some(fd)) => (fd, Access::ReadWrite),
    };
    let (allowed, device) = image(&file).map_err(|found| wrong("vbus", found, IMAGE))?;
    let read_only = options.read_only || access == Access::Read || allowed == Access::Read;
    let file = if unclaimed && device && !read_only { claim(file, &name)? } else { file };
    Ok(ControllerKind::Soft { image: Image::File(file), serial, name, options, read_only })
}

fn dataspace(name: &str, raw: Raw) -> Result<NamedFile, CapError> {
    let file = match raw {
        Raw::Open(Passed { fd, .. }, _) | Raw::Word(Spec::File(_), Some(Passed { fd, .. }), _) => fd,
        Raw::Word(Spec::File(Place::Path(path)), None, _) => match open(name, &path, Access::ReadWrite) {
            // A dataspace that the server may only read is one all the same: a controller can write from it.
            Err(CapError::Open { error, .. })
                if error.kind() == std::io::ErrorKind::PermissionDenied
                    || error.raw_os_error() == Some(Errno::ROFS.raw_os_error()) =>
            {
                open(name, &path, Access::Read)?
            }
            other => other?,
        },
        Raw::Word(other, ..) => return Err(wrong(name, described(&other), FILE)),
    };
    let access = regular_file(&file).map_err(|found| wrong(name, found, FILE))?;
    Ok(NamedFile { name: name.to_owned(), file, writable: access == Access::ReadWrite })
}

fn trail_file(raw: Raw) -> Result<TrailFile, CapError> {
    match raw {
        Raw::Open(Passed { fd, .. }, origin) => TrailFile::new(fd, false, origin),
        Raw::Word(Spec::Trail { required, .. }, Some(Passed { fd, .. }), origin) => {
            TrailFile::new(fd, required, origin)
        }
        Raw::Word(Spec::Trail { place: Place::Path(path), required }, None, origin) => {
            TrailFile::new(TrailFile::open(&path)?, required, origin)
        }
        Raw::Word(other, ..) => Err(wrong("audit", described(&other), TRAIL)),
    }
}

/// Opens an image that the operator named. A block device that is to be written is this server's alone.
fn open_image(path: &Path, access: Access) -> Result<OwnedFd, CapError> {
    let device = rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice);
    if !device || access == Access::Read {
        return open("vbus", path, access);
    }
    claim_soon(path, path)
}

/// Opens a device once more, alone. No call says whether it is the descriptor that was passed which has it alone (O_EXCL): so that one is
/// closed, and what is still somebody's then is not ours.
fn claim(file: OwnedFd, name: &str) -> Result<OwnedFd, CapError> {
    let (path, shown) = (PathBuf::from(proc_path(file.as_fd())), Path::new(name));
    match claim_path(&path, shown) {
        Err(CapError::InUse { .. }) => {}
        other => return other,
    }
    // A device may go with the last of those that have it open (a loop device does, if it was told to), and its node may have another name here.
    let kept = open("vbus", &path, Access::Read)?;
    drop(file);
    claim_soon(Path::new(&proc_path(kept.as_fd())), shown).map_err(|error| match error {
        CapError::InUse { name, path, holder } => {
            let why =
                "the server has a device for itself, so whoever passes one must not have it alone (O_EXCL)";
            CapError::InUse { name, path, holder: format!("{holder}; {why}") }
        }
        other => other,
    })
}

/// Claims a device, which a server that has just ended may have for a moment still: what has it and cannot be named may be that one's ring.
fn claim_soon(path: &Path, shown: &Path) -> Result<OwnedFd, CapError> {
    let mut claimed = claim_path(path, shown);
    let unnamed = |claimed: &Result<OwnedFd, CapError>| {
        matches!(claimed, Err(CapError::InUse { .. })) && holder(path).is_none()
    };
    if unnamed(&claimed) {
        let _ = let_go_of(|| -> Result<bool, ()> {
            claimed = claim_path(path, shown);
            Ok(!unnamed(&claimed))
        });
    }
    claimed
}

/// Opens a block device so that nobody else has it: nothing is mounted from it or lies over it, and nothing will.
fn claim_path(path: &Path, shown: &Path) -> Result<OwnedFd, CapError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::EXCL;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        let (name, path_shown) = ("vbus".to_owned(), shown.display().to_string());
        match error {
            Errno::BUSY => CapError::InUse {
                name,
                path: path_shown,
                holder: holder(path)
                    .unwrap_or_else(|| "another program or mount has it for itself".to_owned()),
            },
            error => CapError::Open { name, path: path_shown, error: error.into() },
        }
    })
}

/// Opens a file that the operator named. Never waits for a pipe's other end, never becomes our terminal.
fn open(name: &str, path: &Path, access: Access) -> Result<OwnedFd, CapError> {
    let access = if access == Access::Read { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| CapError::Open {
        name: name.to_owned(),
        path: path.display().to_string(),
        error: error.into(),
    })
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
