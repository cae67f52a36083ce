//! `blkcheck`: writes a device of a vhost-user-blk server, reads it back, and says what it found. It destroys what is there.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nvme_client::bench::{check_pattern, write_pattern};
use nvme_client::{Client, Error, Factory, Io, Options, Result, Segment, feature, kind};

/// Writes a device and reads it back.
#[derive(Parser)]
struct Arguments {
    /// The server's factory socket
    socket: PathBuf,
    /// Words for the factory, as `device=soft0:n1`
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// How much of the device, in MiB
    #[arg(long, default_value_t = 16)]
    mib: u64,
}

/// How long any request may take: machines may be emulated.
const WAIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match check(&Arguments::parse()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("blkcheck: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Arguments) -> Result<String> {
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let session = Factory::connect_retry(&arguments.socket, WAIT)?.create(&words, None)?;
    let mut client = Client::from_fd(session, &Options { wait: WAIT, ..Options::default() })?;
    let id = client.id()?;
    let block = u64::from(client.config.blk_size.max(512));
    let len = (client.config.capacity * 512).min(arguments.mib << 20) / block * block;
    whole(&mut client, len)?;
    let shapes = scattered(&mut client, block)?;
    let zeroes = client.has(feature::WRITE_ZEROES);
    if zeroes {
        client.write_zeroes(0, (8 * block / 512) as u32, false)?;
        let mut back = vec![1; 8 * block as usize];
        client.read(0, &mut back)?;
        expect(back.iter().all(|byte| *byte == 0), "written zeroes are not zero")?;
    }
    client.flush()?;
    let id = String::from_utf8_lossy(&id).trim_end_matches('\0').to_owned();
    Ok(format!(
        "ok {id}: {len} bytes in blocks of {block} written, flushed, read; {shapes} segment lists; write zeroes {}",
        if zeroes { "too" } else { "not offered" }
    ))
}

fn expect(good: bool, what: &str) -> Result<()> {
    if good { Ok(()) } else { Err(Error::Protocol(what.into())) }
}

/// A pattern over the beginning, in large requests, flushed, and read back.
fn whole(client: &mut Client, len: u64) -> Result<()> {
    let mut part = vec![0; 1 << 20];
    let count = part.len() as u64;
    for at in (0..len).step_by(1 << 20) {
        let part = part.get_mut(..count.min(len - at) as usize).unwrap_or_default();
        write_pattern(at, part);
        client.write(at / 512, part)?;
    }
    client.flush()?;
    for at in (0..len).step_by(1 << 20) {
        let part = part.get_mut(..count.min(len - at) as usize).unwrap_or_default();
        part.fill(0xa5);
        client.read(at / 512, part)?;
        expect(check_pattern(at, part), "what was read is not what was written")?;
    }
    Ok(())
}

/// Requests whose buffers lie at odd places in memory: pages and not, dwords and not. How many lists were tried.
fn scattered(client: &mut Client, block: u64) -> Result<usize> {
    let block = block as u32;
    let lists: [&[(u64, u32)]; 6] = [
        &[(0x1000, block)],
        &[(0x1000 + 512, block), (0x9000, 3 * block)],
        &[(0x1004, block), (0x20_004, block)],
        &[(0x1001, block)],
        &[(0x1000, 100), (0x30_010, 2 * block - 100)],
        &[(0x1fff, 1), (0x4001, 7), (0x40_003, 2 * block - 8)],
    ];
    for (number, list) in lists.iter().enumerate() {
        let at = number as u64 * 64 * 4096;
        let total: u32 = list.iter().map(|(_, len)| len).sum();
        let mut bytes = vec![0; total as usize];
        write_pattern(at + 1, &mut bytes);
        let segments: Vec<Segment> =
            list.iter().map(|(offset, len)| Segment { addr: client.scratch + offset, len: *len }).collect();
        let mut rest = bytes.as_slice();
        for segment in &segments {
            let (part, after) = rest.split_at(segment.len as usize);
            client.memory.write(segment.addr, part)?;
            rest = after;
        }
        client.run(Io { kind: kind::OUT, sector: at / 512, segments: &segments, to_device: true })?;
        let mut back = vec![0; total as usize];
        client.read(at / 512, &mut back)?;
        expect(back == bytes, "a segment list was not written as it is")?;
        for segment in &segments {
            client.memory.write(segment.addr, &vec![0x5a; segment.len as usize])?;
        }
        client.run(Io { kind: kind::IN, sector: at / 512, segments: &segments, to_device: false })?;
        let mut back = Vec::new();
        for segment in &segments {
            back.extend(client.memory.bytes(segment.addr, segment.len as usize)?);
        }
        expect(back == bytes, "a segment list was not read as it is")?;
    }
    Ok(lists.len())
}
