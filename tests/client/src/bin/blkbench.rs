//! `blkbench`: puts load on a vhost-user-blk server and says how fast it was, and what the server spent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nvme_client::bench::{Load, Order, Usage};
use nvme_client::{Client, Factory, Options, Result, socket};

/// Puts load on a vhost-user-blk server.
#[derive(Parser)]
struct Arguments {
    /// The server's vhost-user socket; with --create, its factory socket
    socket: PathBuf,
    /// A word for the factory, as `device=soft0:n1`; repeatable
    #[arg(long, value_name = "WORD")]
    create: Vec<String>,
    /// The server's process, to say what it spends
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
    #[arg(long, default_value_t = 50)]
    spin: u64,
    /// The disk's words are their own byte offsets: compare reads, keep it so in writes
    #[arg(long)]
    verify: bool,
    /// Runs, the best of which counts
    #[arg(long, default_value_t = 1)]
    runs: u32,
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

fn bench(arguments: &Arguments) -> Result<()> {
    let wait = Duration::from_secs(10);
    let connection = if arguments.create.is_empty() {
        socket::connect_retry(&arguments.socket, wait)?
    } else {
        let words: Vec<_> = arguments.create.iter().map(String::as_str).collect();
        Factory::connect_retry(&arguments.socket, wait)?.create(&words, None)?
    };
    let data = u64::from(arguments.block) * u64::from(arguments.depth) * u64::from(arguments.queues);
    let options = Options {
        queues: arguments.queues,
        queue_size: arguments.depth.next_power_of_two().max(128),
        regions: vec![(0x10_0000, (data + (16 << 20) * u64::from(arguments.queues)).next_multiple_of(1 << 20))],
        ..Options::default()
    };
    let mut client = Client::from_fd(connection, &options)?;
    let load = Load {
        order: if arguments.sequential { Order::Sequential } else { Order::Random },
        write: arguments.write,
        block: arguments.block / 512 * 512,
        depth: arguments.depth,
        time: Duration::from_secs_f64(arguments.time),
        spin: Duration::from_micros(arguments.spin),
        verify: arguments.verify,
        seed: 1,
    };
    let buffers = load.buffers(&mut client)?;
    Load { time: Duration::from_millis(100), ..load }.run(&mut client, &buffers)?;
    let mut best: Option<(f64, String)> = None;
    for _ in 0..arguments.runs.max(1) {
        let before = arguments.pid.map(Usage::of).transpose()?;
        let got = load.run(&mut client, &buffers)?;
        let mut line = format!(
            "{:9.0} IOPS  p50 {:.1} µs  p99 {:.1} µs  {:.3} kicks  {:.3} sleeps per request",
            got.iops(),
            got.latency.quantile(0.5) as f64 / 1e3,
            got.latency.quantile(0.99) as f64 / 1e3,
            got.kicks as f64 / got.requests as f64,
            got.sleeps as f64 / got.requests as f64,
        );
        if let (Some(pid), Some(before)) = (arguments.pid, before) {
            let after = Usage::of(pid)?;
            line += &format!(
                "  server: {:.3} µs CPU and {:.3} sleeps per request, RssAnon {} KiB",
                after.cpu_since(&before).as_secs_f64() * 1e6 / got.requests as f64,
                after.sleeps_since(&before) as f64 / got.requests as f64,
                after.rss_anon / 1024,
            );
        }
        if best.as_ref().is_none_or(|(iops, _)| *iops < got.iops()) {
            best = Some((got.iops(), line));
        }
    }
    if let Some((_, line)) = best {
        println!("{line}");
    }
    Ok(())
}
