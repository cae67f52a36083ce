//! `blkpower`: writes rounds of blocks to a device of a vhost-user-blk server, flushes each round, and only then writes its number
//! to the first block. So whatever the device holds when its power is cut, all of the rounds up to that number must be on it
//! (`cargo xtask vm power` looks). It destroys what is there.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use nvme_client::power::{BLOCK, PER_ROUND, content, places};
use nvme_client::{Client, Error, Factory, Io, Options, Result, Segment, Status, kind};

/// Writes rounds of blocks, each flushed before its number is written.
#[derive(Parser)]
struct Arguments {
    /// The server's factory socket
    socket: PathBuf,
    /// Words for the factory, as `device=soft0:n1`
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// How many rounds
    #[arg(long, default_value_t = 300)]
    rounds: u64,
}

/// How long any request may take: machines may be emulated.
const WAIT: Duration = Duration::from_secs(60);
const SECTORS: u64 = BLOCK as u64 / 512;

fn main() -> ExitCode {
    match write(&Arguments::parse()) {
        Ok(rounds) => {
            println!("ok {rounds} rounds");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("blkpower: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(arguments: &Arguments) -> Result<u64> {
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let session = Factory::connect_retry(&arguments.socket, WAIT)?.create(&words, None)?;
    let mut client = Client::from_fd(session, &Options { wait: WAIT, ..Options::default() })?;
    let blocks = client.config.capacity / SECTORS;
    for round in 1..=arguments.rounds {
        let places = places(round, blocks);
        let scratch = client.scratch;
        for (at, place) in places.iter().enumerate() {
            let address = scratch + (at * BLOCK) as u64;
            client.memory.write(address, &content(*place, round))?;
            let segments = [Segment { addr: address, len: BLOCK as u32 }];
            let io = Io { kind: kind::OUT, sector: place * SECTORS, segments: &segments, to_device: true };
            client.queue(0)?.submit(io, at as u64)?;
        }
        // All of them are under way at once.
        let queue = client.queue(0)?;
        queue.publish()?;
        queue.kick()?;
        let deadline = Instant::now() + WAIT;
        for _ in 0..PER_ROUND {
            queue.wait(Duration::ZERO, deadline)?;
            match queue.poll()? {
                Some(completion) if completion.status == Status::Ok => {}
                _ => return Err(Error::Full("a write was not answered well")),
            }
        }
        client.flush()?;
        client.write(0, &content(0, round))?;
    }
    Ok(arguments.rounds)
}
