//! The Linux server.
//!
//! Start-up gathers authority and then gives it up: options → capabilities → devices, sockets, trusted files → sandbox →
//! worker threads → system call filter → serve. What is wrong is said by name before anything is served.
//!
//! * [`server`]: the control thread's loop. [`client`]: one session and its connection; [`rings`], [`regions`], `inflight`: what the
//!   connection describes. [`lent`]: what it is served with. `capability`: what the server's own sockets stand for. `keep`: what the next server takes up when this one is killed. [`worker`]: a worker thread.
//! * [`devices`]: controllers from capabilities. [`inventory`]: what `nvme-ctl ls` shows; [`counters`]: what was counted there; [`scrape`]: who comes for metrics. [`manual`]: what `--help` and the manual page say.
//!   `backend`: one disk for one client. `audit`: the audit trail.
//!   [`hints`]: what to do about a refusal. [`failure`]: the exit status.
//!   [`frames`]: trace points, in a build that has them. [`budget`]: who may have how many descriptors.
// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod audit;
mod backend;
mod budget;
mod capability;
mod counters;
mod devices;
mod failure;
mod fatal;
mod frames;
mod hints;
mod inflight;
mod inventory;
mod keep;
mod lent;
pub mod manual;
mod regions;
mod rings;
mod scrape;
mod seat;
mod server;
mod upgrade;
mod worker;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme;
use nvme_core::nvme::quirks::BROKEN_MSI;
use nvme_core::server::control::{Config, Control, RecoveryTimes};
use nvme_linux::caps::{CapError, CapWord, Capabilities, Inherited, Listener, TrailFile, Wanted};
use nvme_linux::dispose;
use nvme_linux::events::{Doorbell, Epoll, Signals, guard_calls, ring_for_ends, settle_signals};
use nvme_linux::lanes;
use nvme_linux::logger::{self, Notifier, OPERATOR, SERVER};
use nvme_linux::memory::{Trusted, failures};
use nvme_linux::priority;
use nvme_linux::sandbox::{Landlock, Options, Sandbox, check_calls};
use nvme_linux::socket::Acceptor;
use nvme_linux::standard::answer;
use nvme_linux::start::Start;
use nvme_linux::storage::holder;
use nvme_linux::storage::station;
use nvme_linux::vfio::{self, VfioOptions};
use nvme_policy::Policy;
use nvme_policy::command_line::{Ask, Cap, CommandLine, Dialect, Verbosity};
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::queue::Direction;

use crate::audit::Audit;
use crate::backend::OneDisk;
use crate::budget::Budget;
use crate::devices::Functions;
use crate::failure::Failure;
use crate::hints::Told;
use crate::keep::{Beginning, Found};
use crate::server::{Began, Parts, Server, StaticClient, StaticFactory};
use crate::upgrade::{Managed, Predecessor};

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
    reserved: &["ctl", "admin", "metrics", "audit", "upgrade"],
};
/// vhost-user: its drivers set the flags of descriptors as virtio says, and acknowledge only what they know.
const TRANSPORT: Transport =
    Transport { direction: Direction::AsFlagged, features: features::EVENT_IDX | features::MQ };
/// How long a queue is polled after its last work, where `--poll-us` does not say: as long as a driver takes that is woken, in a machine of its
/// own, and asks for more.
const POLL_US: u32 = 80;
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
    mut inheritance: Inheritance,
    one_disk: Option<OneDisk>,
) -> Result<(), Failure> {
    check_calls()?;
    frames::open().map_err(Failure::asked)?;
    // One that was killed listens still, as far as the kernel knows, and would not answer.
    let manager = inheritance.notifier.manager().filter(|_| one_disk.is_none());
    let mut found = manager
        .as_ref()
        .and_then(|manager| Found::find(manager, &mut inheritance.inherited, &inheritance.words));
    let before = match &found {
        Some(found) if found.had_upgrade => None,
        _ => Predecessor::find(&inheritance.words).map_err(|why| Failure::Failed(why.into()))?,
    };
    let (keep, functions) = match &before {
        None => (manager.and_then(|manager| Beginning::of(manager, found.as_mut())), Functions::new()),
        Some(before) => take_capabilities(before, &mut inheritance)?,
    };
    let started = start(options, inheritance, one_disk, (before.as_ref(), functions), (keep, found));
    if let (Some(before), Err(why)) = (&before, &started) {
        before.refuse(&why.to_string());
    }
    let served = started?.run();
    frames::finish();
    served?;
    log::logger().flush();
    log::info!(target: SERVER, "stopped");
    Ok(())
}

/// Takes what the running server was started with. What is kept goes on where it is, if anything is.
fn take_capabilities(
    before: &Predecessor,
    inheritance: &mut Inheritance,
) -> Result<(Option<Beginning>, Functions), Failure> {
    let handed = before.capabilities(&mut inheritance.inherited, &mut inheritance.words);
    let (managed, functions) = handed.map_err(|why| Failure::Failed(why.into()))?;
    let Some(Managed { notifier, keeps }) = managed else {
        return Ok((None, functions));
    };
    let manager = notifier.manager().filter(|_| keeps);
    if inheritance.notifier.socket().is_none() {
        inheritance.notifier = notifier;
    }
    let keep = manager.map(Beginning::behind).transpose();
    let keep = keep.map_err(|why| Failure::Failed(format!("what is kept cannot be kept on: {why}").into()));
    Ok((keep?, functions))
}

/// All that is done before anything is served. `before`: the server that this one takes over from, once all is there, and its hardware. `keep`, `found`: what is
/// kept in case that this server is killed, and what one left that was.
fn start(
    options: &CommandLine<'_>,
    inheritance: Inheritance,
    one_disk: Option<OneDisk>,
    (before, functions): (Option<&Predecessor>, Functions),
    (keep, found): (Option<Beginning>, Option<Found>),
) -> Result<Server, Failure> {
    let last = one_disk.as_ref().is_some_and(|one| one.last);
    let alone = one_disk.is_some();
    let fixed = options.clients.iter().map(|c| (c.cap, c.policy.clone()));
    let fixed: Vec<(&str, Policy)> = fixed.chain(one_disk.map(|one| (one.client, one.policy))).collect();
    let names: Vec<String> = fixed.iter().map(|(name, _)| (*name).to_owned()).collect();
    let dataspaces: Vec<String> = options.trusted.iter().map(|name| (*name).to_owned()).collect();
    let factories: Vec<String> = options.factories().map(|(name, _)| name.to_owned()).collect();
    let wanted = Wanted { clients: &names, factories: &factories, dataspaces: &dataspaces };
    let words = inheritance.words.iter().map(|word| (word.name.clone(), word.text.clone())).collect();
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
    let vfio = VfioOptions {
        nomsi: options.nomsi,
        nomsix: options.nomsix,
        broken_msi: BROKEN_MSI,
        doorbell_buffers: false,
    };
    let bell = Arc::new(Doorbell::new()?);
    let mut opener = devices::Opener::new(vfio, &bell, functions, found.is_some());
    let origins: Vec<String> = capabilities.controllers.iter().map(|spec| spec.origin.clone()).collect();
    let controllers = capabilities.controllers.into_iter().map(|spec| opener.open(spec));
    let controllers = holder::all_at_once(|| controllers.collect::<Result<Vec<_>, _>>())?;
    let held: usize = controllers.iter().map(devices::Opened::descriptors).sum();
    let held = held + worker::apart_count(fixed.len()) * worker::APART_DESCRIPTORS;
    let budget = Budget::of_process(sessions, fixed.len(), workers, held, keep.is_some());
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
    let mut over = Vec::new();
    for (opened, origin) in controllers.into_iter().zip(origins) {
        over.push((origin, opened.over));
        control.add_pci_device(&opened.name, opened.device, opened.pci, opened.place);
        interrupts.push(opened.interrupts);
        images.push(opened.image);
    }
    let interrupts: Arc<devices::AllInterrupts> = interrupts.into();
    let mut keep = keep;
    for (at, served) in images.iter().enumerate() {
        let (Some(served), Some(loss)) = (served, keep.as_ref().and_then(|keep| keep.loss(at))) else {
            continue;
        };
        let image = served.stored.image();
        if let Some(errno) = loss.load16(0).ok().filter(|errno| *errno != 0) {
            image.take_loss(errno.into());
        }
        image.keep_loss(loss);
    }
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
    let mut factories = Vec::new();
    for ((cap, asked), listener) in options.factories().zip(capabilities.factories) {
        let id = control
            .catalogue_mut()
            .delegate_at_start(&asked)
            .map_err(|e| Failure::asked(format!("--factory {cap}: {}", Told(&e))))?;
        let socket = listener.open().map_err(|e| Failure::asked(format!("{cap}: {e}")))?;
        factories.push(StaticFactory { cap: cap.to_owned(), id, socket });
    }
    let open = |name: &str, listener: Option<Listener>| {
        let opened = listener.map(Listener::open).transpose();
        opened.map_err(|e| Failure::asked(format!("{name}: {e}")))
    };
    let (svr, ctl) = (open("svr", capabilities.svr)?, open("ctl", capabilities.ctl)?);
    let (admin, metrics) = (open("admin", capabilities.admin)?, open("metrics", capabilities.metrics)?);
    let again = |trail: &TrailFile| rustix::io::fcntl_dupfd_cloexec(&trail.file, 0);
    let began = Began {
        listener: open("upgrade", capabilities.upgrade)?,
        words,
        controllers: over,
        audit: capabilities.audit.as_ref().map(again).transpose().map_err(io::Error::from)?,
        user: rustix::process::geteuid().as_raw(),
        group: nvme_linux::socket::Group::own(),
    };

    let signals = Signals::new()?;
    let epoll = Epoll::new()?;
    let (rings, letting_go) = opener
        .rings(workers, keep.as_mut())
        .map_err(|why| Failure::Failed(format!("io_uring: {why}").into()))?;
    let hardware = interrupts.iter().any(Option::is_some);
    let mut ioctls = if hardware { vfio::ioctls() } else { Vec::new() };
    ioctls.extend(began.group.iter().map(|_| nvme_linux::socket::Group::ioctl()));
    ioctls.extend(images.iter().flatten().flat_map(|served| served.stored.image().ioctls()));
    let pins = images.iter().flatten().any(|served| served.stored.image().pins());
    let prepared = Sandbox::prepare(Options { ioctls, pins })?;
    priority::look();
    // These threads take what clients could make wait.
    let audit = capabilities.audit.map(|file| Audit::start(file, &bell, audit::HEAD_EVERY)).transpose()?;
    dispose::start()?;
    let turns = keep.as_mut().map(Beginning::turns).transpose().map_err(io::Error::from)?.unwrap_or_default();
    let keep = keep.map(|keep| keep.start(&bell)).transpose()?;
    lanes::start(options.clients.len(), &bell)?;
    ring_for_ends(&bell);
    guard_calls()?;
    frames::start()?;
    let acceptor = Acceptor::new()?;
    let poll_for = Duration::from_micros(options.extra.poll_us.unwrap_or(POLL_US).into());
    for served in images.iter().flatten() {
        served.stored.start()?;
    }
    // What control reads and flushes by itself is done by helpers, and rings its bell.
    station::take(None, &bell)?;
    let apart = worker::Apart::start(options.clients.len(), &interrupts, &bell, &turns)?;
    let others = rings.len() > 1;
    let workers = rings
        .into_iter()
        .enumerate()
        .map(|(index, ring)| {
            worker::Handle::start(index, poll_for, &bell, &interrupts, ring, &apart, (others, &turns))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let report = prepared.seal()?;
    if report.landlock == Landlock::Denied {
        log::warn!(target: OPERATOR, "Landlock {}", report.landlock);
    }
    log::info!(target: SERVER, "{report}");

    let parts = Parts {
        control,
        workers,
        letting_go,
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
        audit,
        metrics,
        clients,
        factories,
        trusted,
        budget,
        began,
        keep,
        notifier: inheritance.notifier,
        sockets,
    };
    let mut server = Server::new(parts)?;
    match (before, found) {
        (Some(before), _) => server.take_over(before)?,
        (None, Some(found)) => server.take_up(found)?,
        (None, None) => server.begin(),
    }
    server.say_losses();
    Ok(server)
}
