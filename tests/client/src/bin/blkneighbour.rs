//! `blkneighbour`: a client that costs its server as much as it can. What its neighbours lose by that is measured with
//! `cargo xtask bench --neighbours`.
//!
//! It says `busy` once it is, and goes on until its standard input ends.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nvme_client::message::{RegionWords, request};
use nvme_client::{Client, Error, Factory, Io, Memory, Options, Result, Segment, kind, memfd, watchers};
use rustix::event::epoll::EventFlags;
use rustix::fs::{FallocateFlags, fallocate};

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    /// Nothing: it has a session, and that is all
    Idle,
    /// Requests of 250 segments over 480 regions of a page each, which are refused late
    Ranges,
    /// The same, each within what a request may have: served
    Pages,
    /// Reads of 256 MiB
    Reads,
    /// Writes of 256 MiB
    Writes,
    /// Reads into memory that is not there yet
    Fresh,
    /// Reads, told through an eventfd that a hundred epoll sets watch a hundred times each
    Watched,
    /// The same with three hundred sets, three hundred times each
    WatchedMost,
    /// The same, before the server has the eventfd
    WatchedFirst,
    /// Messages with call eventfds, one after the other
    Calls,
    /// The same with kick eventfds
    Kicks,
    /// Takes the pages of its memory away while they are read into
    Punched,
    /// Fills and empties a file on eight threads while it registers it
    Registers,
    /// Reads of 4 KiB on all queues
    Small,
    /// Requests that are refused at once, on all queues
    Refused,
    /// Reads of 250 pieces of 512 bytes each
    Pieces,
    /// Kicks without a request
    Knocks,
}

/// A client that costs its server as much as it can.
#[derive(Parser)]
struct Arguments {
    /// The server's factory socket
    socket: PathBuf,
    /// What to do
    #[arg(value_enum)]
    kind: Kind,
    /// A word for the factory, as `device=soft0:n1`; repeatable
    #[arg(long, value_name = "WORD")]
    create: Vec<String>,
    /// Queues, at most
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// Requests in flight on each queue
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// Sessions that all do it
    #[arg(long, default_value_t = 1)]
    sessions: u32,
    /// Bytes of memory that is not there yet, or is taken away
    #[arg(long, default_value_t = 1 << 30)]
    memory: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blkneighbour: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where memory of its own begins: apart from rings and headers.
const FAR: u64 = 1 << 40;
const PAGE: u64 = 4096;
const LARGE: u64 = 256 << 20;

/// Requests that have ended.
static ENDED: AtomicU64 = AtomicU64::new(0);

fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (busy, is_busy) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    let mut together = Vec::new();
    for _ in 0..arguments.sessions {
        let words: Vec<_> = arguments.create.iter().map(String::as_str).collect();
        let session =
            Factory::connect_retry(&arguments.socket, Duration::from_secs(10))?.create(&words, None)?;
        let attack = Attack::new(arguments, session)?;
        if arguments.sessions > 1 && attack.asks() {
            together.push(attack);
            continue;
        }
        let (stop, busy) = (Arc::clone(&stop), busy.clone());
        threads.push(thread::spawn(move || attack.run(&stop, &busy)));
    }
    if !together.is_empty() {
        // One thread for all: many would keep the processors from those who are measured, and from the server.
        let stop = Arc::clone(&stop);
        threads.push(thread::spawn(move || {
            let _ = busy.send(());
            ask(&mut together, &stop)
        }));
    } else {
        drop(busy);
    }
    // All of them, or one has failed.
    let count = is_busy.iter().take(threads.len()).count();
    if count == threads.len() {
        println!("busy");
        std::io::stdout().flush()?;
        // Whoever writes something wants to know how many requests of its own have ended.
        while std::io::stdin().read(&mut [0]).is_ok_and(|read| read > 0) {
            println!("{}", ENDED.load(Ordering::Relaxed));
            std::io::stdout().flush()?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| Error::Full("thread"))?)
}

/// Requests of all of them, until it is enough.
fn ask(attacks: &mut [Attack], stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut some = false;
        for attack in &mut *attacks {
            some |= attack.ask()?;
        }
        if !some {
            // The processor is for those who are measured.
            thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(())
}

/// One session with what it does.
struct Attack {
    kind: Kind,
    client: Client,
    depth: u16,
    /// What its requests name, and which part of the disk and of its memory is next.
    segments: Vec<Segment>,
    next: u64,
    /// What is not there yet, or is taken away: a file and its part.
    victim: Option<(OwnedFd, u64)>,
    /// What watches its call eventfd.
    watchers: Vec<OwnedFd>,
}

impl Attack {
    fn new(arguments: &Arguments, session: OwnedFd) -> Result<Self> {
        let Arguments { kind, queues, depth, memory: size, .. } = *arguments;
        let mut memory = Memory::new();
        let small = (1 << 20) + u64::from(queues) * u64::from(depth.next_power_of_two().max(16)) * 8192;
        let first = memory.add_file(memfd(small, false)?);
        memory.add_region(first, 0, 0, small)?;
        let (mut segments, mut victim) = (Vec::new(), None);
        match kind {
            Kind::Ranges | Kind::Pages => {
                const PAGES: u64 = 480;
                let file = memory.add_file(memfd(PAGES * PAGE, false)?);
                // The last page of the file is the first one of memory, so that no two are neighbours in both.
                for page in 0..PAGES {
                    memory.add_region(file, (PAGES - 1 - page) * PAGE, FAR + page * PAGE, PAGE)?;
                }
                let pages = if kind == Kind::Ranges { PAGES } else { 8 };
                segments = vec![Segment { addr: FAR, len: (pages * PAGE) as u32 }; 250];
            }
            Kind::Reads | Kind::Writes => {
                let file = memory.add_file(memfd(LARGE, false)?);
                let region = memory.add_region(file, 0, FAR, LARGE)?;
                memory.regions.get(region).ok_or(Error::Full("region"))?.window.fill(0, LARGE as usize, 1)?;
                segments = vec![Segment { addr: FAR, len: LARGE as u32 }];
            }
            Kind::Fresh | Kind::Punched => {
                let file = memfd(size, false)?;
                let index = memory.add_file(file.try_clone()?);
                memory.add_region(index, 0, FAR, size)?;
                victim = Some((file, size));
            }
            _ => {
                let at = memory.alloc(64 << 10, PAGE)?;
                let piece = |i: u32| Segment { addr: at + u64::from(i % 64) * 1024, len: 512 };
                segments = match kind {
                    Kind::Pieces => (0..250).map(piece).collect(),
                    _ => vec![Segment { addr: at, len: 4096 }],
                };
            }
        }
        let options = Options {
            queues: 0,
            queue_size: depth.next_power_of_two().max(16),
            scratch: 4096,
            seg_max: 250,
            region_by_region: true,
            ..Options::default()
        };
        let mut client = Client::with_memory(session, memory, &options)?;
        // Where descriptors are few a session has fewer.
        let most = u16::try_from(client.front.queue_num()?).unwrap_or(u16::MAX);
        for index in 0..queues.min(most) {
            client.add_queue(index)?;
        }
        let sets = match kind {
            Kind::Watched => 100,
            Kind::WatchedMost => 300,
            _ => 0,
        };
        let mut watchers = watch(client.queues.first().map(|queue| queue.call.as_fd()), sets)?;
        if kind == Kind::WatchedFirst {
            let call = nvme_client::socket::event()?;
            watchers = watch(Some(call.as_fd()), 300)?;
            // It may be the last that the server hears of it.
            let _ = client.front.vring_fd(request::SET_VRING_CALL, 0, Some(call.as_fd()));
            watchers.push(call);
        }
        Ok(Self { kind, client, depth, segments, next: 0, victim, watchers })
    }

    fn run(mut self, stop: &AtomicBool, busy: &std::sync::mpsc::Sender<()>) -> Result<()> {
        let _ = busy.send(());
        thread::scope(|scope| {
            if let Some((file, size)) = self.victim.take() {
                scope.spawn(move || empty(self.kind, &file, size, stop));
            }
            match self.kind {
                Kind::Idle => wait(stop),
                Kind::Calls | Kind::Kicks => self.flood(stop),
                Kind::Registers => register(&self.client, stop),
                Kind::Knocks => {
                    while !stop.load(Ordering::Relaxed) {
                        self.client.queues.iter().try_for_each(nvme_client::Queue::kick)?;
                    }
                    Ok(())
                }
                _ => ask(std::slice::from_mut(&mut self), stop),
            }
        })
    }

    /// Whether all that it does is asking.
    fn asks(&self) -> bool {
        let others = [Kind::Idle, Kind::Calls, Kind::Kicks, Kind::Registers, Kind::Knocks];
        self.victim.is_none() && !others.contains(&self.kind)
    }

    /// Requests on all queues, as many as there may be. Whether there were any, or some came back.
    fn ask(&mut self) -> Result<bool> {
        let kind = match self.kind {
            Kind::Writes => kind::OUT,
            Kind::Refused => 99,
            _ => kind::IN,
        };
        let sectors = self.client.config.capacity;
        let fresh = matches!(self.kind, Kind::Fresh | Kind::Punched);
        let size = self.client.memory.regions.get(1).map_or(0, |region| region.words.size);
        let (mut some, mut next) = (false, self.next);
        for queue in &mut self.client.queues {
            while queue.poll()?.is_some() {
                some = true;
                ENDED.fetch_add(1, Ordering::Relaxed);
            }
            while queue.in_flight() < u32::from(self.depth) {
                let mut one = [Segment { addr: 0, len: 1 << 20 }];
                let segments = if fresh {
                    one[0].addr = FAR + next;
                    next = (next + (1 << 20)) % size;
                    &one[..]
                } else {
                    &self.segments[..]
                };
                let len: u64 = segments.iter().map(|s| u64::from(s.len)).sum();
                let sector =
                    if len / 512 >= sectors { 0 } else { (next / 512) % (sectors - len / 512) / 8 * 8 };
                let io = Io { kind, sector, segments, to_device: kind == kind::OUT };
                match queue.submit(io, 0) {
                    Ok(()) => some = true,
                    Err(Error::Full(_)) => break,
                    Err(other) => return Err(other),
                }
            }
            queue.publish()?;
        }
        self.next = next;
        // What watches goes with the session, as what is in flight does.
        let _ = &self.watchers;
        Ok(some)
    }

    /// One descriptor after the other, with requests under way.
    fn flood(&self, stop: &AtomicBool) -> Result<()> {
        let which = if self.kind == Kind::Calls { request::SET_VRING_CALL } else { request::SET_VRING_KICK };
        while !stop.load(Ordering::Relaxed) {
            for queue in &self.client.queues {
                let fd = if self.kind == Kind::Calls { &queue.call } else { &queue.kick };
                let payload = u64::from(queue.index).to_ne_bytes();
                self.client.front.send(
                    which,
                    nvme_client::message::flag::VERSION,
                    &payload,
                    &[fd.as_fd()],
                )?;
            }
        }
        Ok(())
    }
}

fn wait(stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Has so many epoll sets watch as many duplicates of a call eventfd.
fn watch(call: Option<BorrowedFd<'_>>, sets: usize) -> Result<Vec<OwnedFd>> {
    let Some(call) = call.filter(|_| sets > 0) else { return Ok(Vec::new()) };
    let copies = watchers::copies(call, sets)?;
    let mut held = watchers::watch(&copies, sets, EventFlags::IN | EventFlags::ET)?;
    held.extend(copies);
    Ok(held)
}

/// Takes the pages of a file away, over and over.
fn empty(kind: Kind, file: &OwnedFd, size: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if kind == Kind::Fresh {
            // Somewhat less often than they are all there again.
            thread::sleep(Duration::from_millis(100));
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(file, hole, 0, size);
        if kind != Kind::Fresh {
            // So that there is something to be taken away.
            let _ = fallocate(file, FallocateFlags::KEEP_SIZE, 0, size);
        }
    }
}

/// Registers a file and takes it back, while eight threads fill and empty it.
fn register(client: &Client, stop: &AtomicBool) -> Result<()> {
    const SIZE: u64 = 1 << 30;
    let file = memfd(SIZE, true)?;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| empty(Kind::Registers, &file, SIZE, stop));
        }
        let words = RegionWords { guest: FAR, size: SIZE, user: FAR, offset: 0 };
        while !stop.load(Ordering::Relaxed) {
            // Either may be refused for having taken too long.
            if client.front.add_mem_reg(words, file.as_fd()).is_ok() {
                let _ = client.front.rem_mem_reg(words);
            }
        }
    });
    Ok(())
}
