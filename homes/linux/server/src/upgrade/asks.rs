//! The next server's side, until it has its capabilities.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nvme_handover::{Capabilities, Capability, Function, Manager, State};
use nvme_linux::caps::{CapWord, Inherited, NamedFd, Place, Spec};
use nvme_linux::events::now;
use nvme_linux::logger::Notifier;
use nvme_linux::socket;
use nvme_linux::vfio::{Descriptors, Given as Interrupts, VfioError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::link::{Broken, Given, Link, greeting};
use crate::devices::Functions;

/// The name of the capability.
const NAME: &str = "upgrade";
/// How long the running server may take for a step.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that runs, and hands over.
pub(crate) struct Predecessor {
    link: Link,
    /// Its process.
    pub(crate) pid: i32,
}

/// The service manager of the server that runs.
pub(crate) struct Managed {
    pub(crate) notifier: Notifier,
    /// It keeps what outlives a server that is killed.
    pub(crate) keeps: bool,
}

/// It does not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTakenOver {
    #[error("upgrade: the server that runs does not hand over: {0}")]
    Broken(#[from] Broken),
    #[error("upgrade: {0}: {1}")]
    Connect(String, Errno),
}

impl Predecessor {
    /// Asks whoever listens at the path that the words name for the capability `upgrade`. `None`: nobody does, and there is nothing to take
    /// over.
    pub(crate) fn find(words: &[CapWord]) -> Result<Option<Self>, NotTakenOver> {
        let path = words.iter().find_map(|word| match &word.spec {
            Spec::Unix { place: Place::Path(path), .. } if word.name == NAME => Some(path),
            _ => None,
        });
        let Some(path) = path else { return Ok(None) };
        let failed = |why| NotTakenOver::Connect(path.display().to_string(), why);
        let Some(socket) = reach(path).map_err(failed)? else { return Ok(None) };
        let pid = socket::peer(&socket).map_or(0, |peer| peer.pid);
        let link = Link::new(socket).map_err(failed)?;
        link.send(&greeting(), &[], now() + PATIENCE)?;
        Ok(Some(Self { link, pid }))
    }

    /// What it was started with.
    pub(crate) fn capabilities(
        &self,
        inherited: &mut Inherited,
        words: &mut Vec<CapWord>,
    ) -> Result<(Option<Managed>, Functions), NotTakenOver> {
        let (document, mut given) = self.link.receive_document::<Capabilities>(now() + PATIENCE)?;
        let mut handed = Vec::new();
        for Capability { name, word, file } in document.capabilities {
            let fd = given.take(file).map_err(Broken::Refused)?;
            if name == NAME && word.is_none() {
                // There it was inherited; here the word says where it is.
                words.retain(|word| word.name != NAME);
            }
            handed.push((word, NamedFd { name, fd }));
        }
        inherited.hand_over(handed);
        let managed = document.manager.map(|Manager { socket, feed, keeps }| {
            let socket = given.take(socket).map_err(Broken::Refused)?;
            let notifier = Notifier::over(socket, feed.map(Duration::from_nanos));
            Ok::<_, NotTakenOver>(Managed { notifier, keeps })
        });
        let managed = managed.transpose()?;
        let functions = document.functions.into_iter().map(|function| {
            let word = function.word.clone();
            Ok((word, descriptors(function, &mut given).map_err(Broken::Refused)?))
        });
        Ok((managed, functions.collect::<Result<_, NotTakenOver>>()?))
    }

    /// Has it stop, and say all that it has.
    pub(crate) fn state(&self) -> Result<(State, Given), NotTakenOver> {
        self.link.send("freeze", &[], now() + PATIENCE)?;
        Ok(self.link.receive_document(now() + PATIENCE)?)
    }

    /// All of it can go on here. Once this returns well, the other has ended.
    pub(crate) fn take_over(&self) -> Result<(), NotTakenOver> {
        self.link.send("ready", &[], now() + PATIENCE)?;
        Ok(self.link.expect("go", now() + PATIENCE)?)
    }

    /// Where it says that the service manager was told of this process.
    pub(crate) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// It goes on by itself.
    pub(crate) fn refuse(&self, why: &str) {
        self.link.refuse(why);
    }
}

/// What came of a hardware controller.
fn descriptors(function: Function, given: &mut Given) -> Result<Descriptors, String> {
    let Function { container, group, device, interrupts, vectors, request, error, .. } = function;
    let mode = interrupts.parse().map_err(|why: VfioError| why.to_string())?;
    let vectors = vectors.into_iter().map(|file| given.take(file)).collect::<Result<_, _>>()?;
    let request = request.map(|file| given.take(file)).transpose()?;
    let error = error.map(|file| given.take(file)).transpose()?;
    Ok(Descriptors {
        container: given.take(container)?,
        group: given.take(group)?,
        device: given.take(device)?,
        interrupts: Interrupts { mode, vectors, request, error },
    })
}

fn reach(path: &Path) -> Result<Option<std::os::fd::OwnedFd>, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &address) {
        Ok(()) => Ok(Some(socket)),
        // Nobody was there, or nobody is any more.
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(why) => Err(why),
    }
}
