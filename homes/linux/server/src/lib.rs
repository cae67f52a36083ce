//! The Linux server.
//!
//! Start-up gathers authority and then gives it up: options → capabilities → devices, sockets, trusted files → sandbox →
//! worker threads → system call filter → serve. What is wrong is said by name before anything is served.
//!
//! * [`server`]: the control thread's loop. [`client`]: one session and its connection; [`rings`], [`regions`]: what the
//!   connection describes. [`lent`]: what it is served with. [`worker`]: a worker thread.
//! * [`devices`]: controllers from capabilities. [`inventory`]: what `nvme-ctl ls` shows. [`manual`]: what `--help` and the manual page say.
//!   `backend`: one disk for one client.
//!   [`hints`]: what to do about a refusal. [`failure`]: the exit status.
//!   [`frames`]: trace points, in a build that has them. [`budget`]: who may have how many descriptors.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod backend;
mod budget;
mod devices;
mod failure;
mod frames;
mod hints;
mod inventory;
mod lent;
pub mod manual;
mod regions;
mod rings;
mod seat;
mod server;
mod worker;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme;
use nvme_core::nvme::quirks::BROKEN_MSI;
use nvme_core::server::control::{Config, Control, RecoveryTimes};
use nvme_linux::caps::{CapError, CapWord, Capabilities, Inherited, Listener, Wanted};
use nvme_linux::dispose;
use nvme_linux::events::{Doorbell, Epoll, Signals, guard_calls, settle_signals};
use nvme_linux::lanes;
use nvme_linux::logger::{self, Notifier, OPERATOR};
use nvme_linux::memory::{Trusted, failures};
use nvme_linux::sandbox::{Landlock, Options, Sandbox, check_calls};
use nvme_linux::socket::Acceptor;
use nvme_linux::standard::answer;
use nvme_linux::start::Start;
use nvme_linux::storage::station;
use nvme_linux::vfio::{self, VfioOptions};
use nvme_policy::Policy;
use nvme_policy::command_line::{Ask, Cap, CommandLine, Dialect, Verbosity};
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::queue::Direction;

use crate::backend::OneDisk;
use crate::budget::Budget;
use crate::failure::Failure;
use crate::hints::Told;
use crate::server::{Parts, Server, StaticClient};

/// What this home has besides the common options.
const DIALECT: Dialect = Dialect {
    options: &[
        "cap",
        "poll-us",
        "workers",
        "mem-max",
        "sessions-max",
        "help",
        "version",
        "blk-file",
        "socket-path",
        "fd",
        "read-only",
        "print-capabilities",
    ],
    reserved: &["ctl"],
};
/// vhost-user: its drivers set the flags of descriptors as virtio says, and acknowledge only what they know.
const TRANSPORT: Transport =
    Transport { direction: Direction::AsFlagged, features: features::EVENT_IDX | features::MQ };
/// How long a queue is polled after its last work, where `--poll-us` does not say.
const POLL_US: u32 = 32;
/// Memory that one session may register, where `--mem-max` does not say: 64 GiB.
const MEM_MAX: u64 = 64 << 30;
/// Sessions, where `--sessions-max` does not say.
const SESSIONS_MAX: u16 = 256;
/// How long SIGTERM waits for sessions to drain.
const DRAIN: Duration = Duration::from_secs(30);

/// The program: its arguments are the process's. `version` is what `--version` says after the name.
pub fn main(version: &str) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let bytes: Vec<&[u8]> = arguments.iter().map(|a| a.as_bytes()).collect();
    let options = match CommandLine::parse(bytes.iter().copied(), DIALECT) {
        Ok(options) => options,
        Err(why) => {
            let wrong = format!("nvme-drv: {why}\nTry nvme-drv --help.");
            return ExitCode::from(answer("nvme-drv", &wrong, true));
        }
    };
    match options.ask {
        Some(Ask::Help) => return ExitCode::from(answer("nvme-drv", &manual::help(), false)),
        Some(Ask::Version) => {
            return ExitCode::from(answer("nvme-drv", &format!("nvme-drv {version}\n"), false));
        }
        Some(Ask::Capabilities) => {
            return ExitCode::from(answer("nvme-drv", backend::CAPABILITIES, false));
        }
        None => {}
    }
    let one_disk = options.extra.backend.as_ref().map(OneDisk::new).transpose();
    let ran = one_disk.and_then(|one_disk| {
        let inheritance = take_inheritance(&options, one_disk.as_ref())?;
        run(&options, inheritance, one_disk)
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::error!("{why}");
            log::logger().flush();
            why.status()
        }
    }
}

/// What the process was started with.
struct Inheritance {
    words: Vec<CapWord>,
    inherited: Inherited,
    notifier: Notifier,
}

/// Takes the inherited descriptors, before anything else is opened; then starts the log.
fn take_inheritance(options: &CommandLine<'_>, one_disk: Option<&OneDisk>) -> Result<Inheritance, Failure> {
    let start = Start::of_process();
    let verbosity = match options.verbosity {
        Verbosity::Quiet => logger::Verbosity::Quiet,
        Verbosity::Normal => logger::Verbosity::Normal,
        Verbosity::Info => logger::Verbosity::Info,
        Verbosity::Debug => logger::Verbosity::Debug,
        Verbosity::Trace => logger::Verbosity::Trace,
    };
    let read = |cap: &Cap<'_>| {
        let word = format!("{}={}", cap.name, cap.spec);
        word.parse().map_err(|error| CapError::Word { word, error })
    };
    let own = one_disk.into_iter().flat_map(|one| one.words.clone()).map(Ok);
    let words: Result<Vec<CapWord>, CapError> = options.extra.caps.iter().map(read).chain(own).collect();
    let start = start.ok_or_else(|| Failure::Failed("the process has other threads already".into()))?;
    start.reset_signals();
    let taken = start.take(words.as_deref().unwrap_or_default());
    logger::init(verbosity)?;
    settle_signals()?;
    let (words, (inherited, notifier)) = (words?, taken?);
    Ok(Inheritance { words, inherited, notifier: notifier? })
}

fn run(
    options: &CommandLine<'_>,
    inheritance: Inheritance,
    one_disk: Option<OneDisk>,
) -> Result<(), Failure> {
    check_calls()?;
    frames::open().map_err(Failure::asked)?;
    let last = one_disk.as_ref().is_some_and(|one| one.last);
    let alone = one_disk.is_some();
    let fixed = options.clients.iter().map(|c| (c.cap, c.policy.clone()));
    let fixed: Vec<(&str, Policy)> = fixed.chain(one_disk.map(|one| (one.client, one.policy))).collect();
    let names: Vec<String> = fixed.iter().map(|(name, _)| (*name).to_owned()).collect();
    let dataspaces: Vec<String> = options.trusted.iter().map(|name| (*name).to_owned()).collect();
    let wanted = Wanted { clients: &names, dataspaces: &dataspaces };
    let capabilities = Capabilities::gather(inheritance.inherited, inheritance.words, &wanted)?;
    if alone {
        OneDisk::is_all_of(&capabilities)?;
    }
    let sockets = capabilities.sockets();

    let mut trusted = Trusted::new();
    for dataspace in capabilities.dataspaces {
        trusted
            .add(&dataspace.name, dataspace.file)
            .map_err(|e| Failure::asked(format!("{}: {e}", dataspace.name)))?;
    }
    let failures = failures().map_err(io::Error::from)?;
    let workers = usize::from(options.extra.workers.unwrap_or(1));
    let sessions = usize::from(options.extra.sessions_max.unwrap_or(SESSIONS_MAX));
    let vfio = VfioOptions { nomsi: options.nomsi, nomsix: options.nomsix, broken_msi: BROKEN_MSI };
    let bell = Arc::new(Doorbell::new()?);
    let mut opener = devices::Opener::new(vfio, &bell);
    let controllers = capabilities.controllers.into_iter().map(|spec| opener.open(spec));
    let controllers = controllers.collect::<Result<Vec<_>, _>>()?;
    let held = controllers.iter().map(devices::Opened::descriptors).sum();
    let budget = Budget::of_process(sessions, fixed.len(), workers, held);
    if let Some(less) = budget.less_than(sessions) {
        log::warn!("{less}");
    }
    let mut control = Control::new(Config {
        workers,
        sessions_max: budget.sessions,
        memory_max: options.extra.mem_max.unwrap_or(MEM_MAX),
        trusted_only: !trusted.is_empty(),
        transport: TRANSPORT,
        queues: budget.queues(),
        nvme: nvme::Options { nosgl: options.nosgl, ..nvme::Options::default() },
        recovery: RecoveryTimes::default(),
        drain: DRAIN,
    });
    control.limit_regions(budget.regions(fixed.len()));
    let mut interrupts = Vec::new();
    let mut images = Vec::new();
    for opened in controllers {
        control.add_pci_device(&opened.name, opened.device, opened.pci, opened.place);
        interrupts.push(opened.interrupts);
        images.push(opened.image);
    }
    let interrupts: Arc<devices::AllInterrupts> = interrupts.into();
    let mut clients = Vec::new();
    for ((cap, policy), listener) in fixed.into_iter().zip(capabilities.clients) {
        control
            .catalogue_mut()
            .reserve(&policy)
            .map_err(|e| Failure::asked(format!("--client {cap}: {}", Told(&e))))?;
        let connected = listener.is_connected();
        let socket = listener.open().map_err(|e| Failure::asked(format!("{cap}: {e}")))?;
        clients.push(StaticClient { cap: cap.into(), policy, socket, connected, last });
    }
    let open = |name: &str, listener: Option<Listener>| {
        let opened = listener.map(Listener::open).transpose();
        opened.map_err(|e| Failure::asked(format!("{name}: {e}")))
    };
    let (svr, ctl) = (open("svr", capabilities.svr)?, open("ctl", capabilities.ctl)?);
    let admin = open("admin", capabilities.admin)?;

    let signals = Signals::new()?;
    let epoll = Epoll::new()?;
    let rings = opener.rings(workers).map_err(|why| Failure::Failed(format!("io_uring: {why}").into()))?;
    let hardware = interrupts.iter().any(Option::is_some);
    let mut ioctls = if hardware { vfio::ioctls() } else { Vec::new() };
    ioctls.extend(images.iter().flatten().flat_map(|served| served.stored.image().ioctls()));
    let pins = images.iter().flatten().any(|served| served.stored.image().pins());
    let prepared = Sandbox::prepare(Options { ioctls, pins })?;
    // These threads take what clients could make wait.
    dispose::start()?;
    lanes::start(options.clients.len(), &bell)?;
    guard_calls()?;
    frames::start()?;
    let acceptor = Acceptor::new()?;
    let poll_for = Duration::from_micros(options.extra.poll_us.unwrap_or(POLL_US).into());
    for served in images.iter().flatten() {
        served.stored.start()?;
    }
    // What control reads and flushes by itself is done by helpers, and rings its bell.
    station::take(None, &bell)?;
    let workers = rings
        .into_iter()
        .enumerate()
        .map(|(index, ring)| worker::Handle::start(index, poll_for, &bell, &interrupts, ring))
        .collect::<Result<Vec<_>, _>>()?;
    let report = prepared.seal()?;
    if report.landlock == Landlock::Denied {
        log::warn!(target: OPERATOR, "Landlock {}", report.landlock);
    }
    log::info!(target: OPERATOR, "{report}");

    let parts = Parts {
        control,
        workers,
        bell,
        epoll,
        signals,
        failures,
        interrupts,
        images,
        acceptor,
        svr,
        ctl,
        admin,
        clients,
        trusted,
        budget,
        notifier: inheritance.notifier,
        sockets,
    };
    let served = Server::new(parts)?.run();
    frames::finish();
    served?;
    log::info!(target: OPERATOR, "stopped");
    log::logger().flush();
    Ok(())
}
