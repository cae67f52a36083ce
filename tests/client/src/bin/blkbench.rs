//! `blkbench`: puts load on a vhost-user-blk server, and says how fast it was and what the server spent.

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use nvme_client::bench::{Load, Measured, Order, Usage, copy_cost};
use nvme_client::{Client, Error, Factory, Options, Result, socket};

/// Puts load on a vhost-user-blk server.
#[derive(Parser)]
struct Arguments {
    /// The server's vhost-user socket; with --create, its factory socket
    socket: PathBuf,
    /// A word for the factory, as `device=soft0:n1`; repeatable
    #[arg(long, value_name = "WORD")]
    create: Vec<String>,
    /// The server's process, to say what it spends; not needed with COMMAND
    #[arg(long)]
    pid: Option<u32>,
    /// Write instead of read
    #[arg(long)]
    write: bool,
    /// One block after the other instead of any
    #[arg(long)]
    sequential: bool,
    /// Bytes of a request
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..=1 << 20))]
    block: u32,
    /// Requests in flight on each queue
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Queues
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Seconds
    #[arg(long, default_value_t = 2.0)]
    time: f64,
    /// Microseconds to look for completions before sleeping
    #[arg(long, default_value_t = 0)]
    spin: u64,
    /// Submit at most so many requests a second, each when it is due
    #[arg(long)]
    pace: Option<f64>,
    /// The disk's words are their own byte offsets: compare reads, keep it so in writes
    #[arg(long)]
    verify: bool,
    /// First write the whole disk in that pattern
    #[arg(long)]
    fill: bool,
    /// Runs, the best of which counts
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Afterwards, watch the idle server for so many seconds
    #[arg(long, default_value_t = 0.0)]
    idle: f64,
    /// Print NAME=NUMBER words: rates per second, nanoseconds, bytes
    #[arg(long)]
    plain: bool,
    /// Measure a copy of one block instead, from so many bytes of memory
    #[arg(long, value_name = "BYTES")]
    copy: Option<u64>,
    /// A server to start, measure and end
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blkbench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The server, ended when this goes.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &Arguments) -> Result<Option<Server>> {
    let Some((program, rest)) = arguments.command.split_first() else { return Ok(None) };
    Ok(Some(Server(Command::new(program).args(rest).stdin(Stdio::null()).spawn()?)))
}

fn connect(arguments: &Arguments) -> Result<Client> {
    let wait = Duration::from_secs(10);
    let connection = if arguments.create.is_empty() {
        socket::connect_retry(&arguments.socket, wait)?
    } else {
        let words: Vec<_> = arguments.create.iter().map(String::as_str).collect();
        Factory::connect_retry(&arguments.socket, wait)?.create(&words, None)?
    };
    let queues = u64::from(arguments.queues);
    let data = u64::from(arguments.block) * u64::from(arguments.depth) * queues;
    let options = Options {
        queues: arguments.queues,
        queue_size: arguments.depth.next_power_of_two().max(128),
        regions: vec![(0x10_0000, (data + (16 << 20) * queues).next_multiple_of(1 << 20))],
        ..Options::default()
    };
    Client::from_fd(connection, &options)
}

/// One set of figures.
struct Figures {
    measured: Measured,
    /// For how long this process was ready to run, and had no processor.
    ready: Duration,
    used: Option<Used>,
}

/// What the server used meanwhile.
struct Used {
    cpu: Duration,
    ready: Duration,
    sleeps: u64,
    put_aside: u64,
    rss_anon: u64,
}

fn one(
    client: &mut Client,
    load: &Load,
    buffers: &nvme_client::bench::Buffers,
    pid: Option<u32>,
) -> Result<Figures> {
    let before = pid.map(Usage::of).transpose()?;
    let own = Usage::of(std::process::id())?;
    let measured = load.run(client, buffers)?;
    let ready = Usage::of(std::process::id())?.ready_since(&own);
    let used = match (pid, before) {
        (Some(pid), Some(before)) => {
            let after = Usage::of(pid)?;
            Some(Used {
                cpu: after.cpu_since(&before),
                ready: after.ready_since(&before),
                sleeps: after.sleeps_since(&before),
                put_aside: after.put_aside_since(&before),
                rss_anon: after.rss_anon,
            })
        }
        _ => None,
    };
    Ok(Figures { measured, ready, used })
}

fn bench(arguments: &Arguments) -> Result<()> {
    if let Some(len) = arguments.copy {
        let cost = copy_cost(len, arguments.block, Duration::from_secs_f64(arguments.time))?;
        println!("copy={}", cost.as_nanos());
        return Ok(());
    }
    let begin = Instant::now();
    let server = start(arguments)?;
    let pid = server.as_ref().map(|server| server.0.id()).or(arguments.pid);
    let mut client = connect(arguments)?;
    client.read(0, &mut [0; 4096])?;
    let first = begin.elapsed();
    let load = Load {
        order: if arguments.sequential { Order::Sequential } else { Order::Random },
        write: arguments.write,
        block: arguments.block / 512 * 512,
        depth: arguments.depth,
        time: Duration::from_secs_f64(arguments.time),
        spin: Duration::from_micros(arguments.spin),
        pace: arguments.pace.filter(|pace| *pace > 0.0),
        verify: arguments.verify,
        seed: 1,
    };
    let buffers = load.buffers(&mut client)?;
    if arguments.fill {
        fill(&mut client)?;
    }
    let warm = Load { time: Duration::from_millis(150), ..load };
    warm.run(&mut client, &buffers)?;
    let mut best = one(&mut client, &load, &buffers, pid)?;
    for _ in 1..arguments.runs {
        let next = one(&mut client, &load, &buffers, pid)?;
        if next.measured.iops() > best.measured.iops() {
            best = next;
        }
    }
    let mut words = figures(&best);
    if server.is_some() {
        words.push(("first", first.as_nanos() as f64));
    }
    if let Some(pid) = pid.filter(|_| arguments.idle > 0.0) {
        // What is polled after work is not idle yet.
        std::thread::sleep(Duration::from_millis(500));
        let before = Usage::of(pid)?;
        std::thread::sleep(Duration::from_secs_f64(arguments.idle));
        let after = Usage::of(pid)?;
        words.push(("idle_cpu", after.cpu_since(&before).as_nanos() as f64));
        words.push(("idle_sleeps", after.sleeps_since(&before) as f64));
    }
    for (name, value) in words {
        if arguments.plain {
            print!("{name}={value} ");
        } else {
            println!("{name:>12} {value:14.3}");
        }
    }
    println!();
    Ok(())
}

/// Per request: CPU, sleeps and notifications of the server, kicks and sleeps of the client.
fn figures(best: &Figures) -> Vec<(&'static str, f64)> {
    let got = &best.measured;
    let requests = got.requests as f64;
    let mut words = vec![
        ("iops", got.iops()),
        ("p50", got.latency.quantile(0.5) as f64),
        ("p99", got.latency.quantile(0.99) as f64),
        ("longest", got.latency.quantile(1.0) as f64),
        ("kicks", got.kicks as f64 / requests),
        ("calls", got.calls as f64 / requests),
        ("client_sleeps", got.sleeps as f64 / requests),
        ("client_ready", best.ready.as_secs_f64() / got.elapsed.as_secs_f64()),
    ];
    if let Some(Used { cpu, ready, sleeps, put_aside, rss_anon }) = best.used {
        words.push(("cpu", cpu.as_nanos() as f64 / requests));
        words.push(("server_ready", ready.as_secs_f64() / got.elapsed.as_secs_f64()));
        words.push(("sleeps", sleeps as f64 / requests));
        words.push(("put_aside", put_aside as f64 / requests));
        words.push(("rss_anon", rss_anon as f64));
    }
    words
}

fn fill(client: &mut Client) -> Result<()> {
    let len = client.config.capacity * 512;
    let mut part = vec![0; 1 << 20];
    for at in (0..len).step_by(part.len()) {
        let n = part.len().min((len - at) as usize);
        let part = part.get_mut(..n).ok_or(Error::Full("disk"))?;
        nvme_client::bench::write_pattern(at, part);
        client.write(at / 512, part)?;
    }
    Ok(())
}
