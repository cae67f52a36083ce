//! `xtask quickstart-client`: what `lua/examples/quickstart.lua` starts as the client. Its capabilities are two sessions
//! (`ro`, `rw`), the client's side of the factory (`nvme_bus`) and a dataspace that the server trusts (`ram`).

use std::error::Error;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nvme_client::{Client, Error as ClientError, Factory, Memory, Options};
use nvme_linux::start::Start;

use crate::quickstart::{FILE, seek};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the guest's memory begins, as the two clients see it.
const GUEST: u64 = 0x10_0000;
/// Memory of each client; the dataspace holds both.
const MEMORY: u64 = 16 << 20;

pub(crate) fn client(args: &[String]) -> Result<()> {
    let [scratch] = args else { return Err("started by lua/examples/quickstart.lua".into()) };
    let start = Start::of_process().ok_or("not alone in this process")?;
    let (inherited, _) = start.take(&[])?;
    let mut given: Vec<(String, OwnedFd)> = inherited.listen.into_iter().map(|n| (n.name, n.fd)).collect();
    let mut take = |name: &str| -> Result<OwnedFd> {
        let at = given.iter().position(|(n, _)| n == name).ok_or_else(|| format!("no capability {name}"))?;
        Ok(given.swap_remove(at).1)
    };
    let (ro, rw, bus, ram) = (take("ro")?, take("rw")?, take("nvme_bus")?, take("ram")?);

    let mut golden = Client::with_memory(ro, dataspace(&ram, 0)?, &options())?;
    let name = id(&mut golden)?;
    say("read-only session", format!("{} sectors, id {name}", golden.config.capacity));
    read_a_file(&mut golden)?;
    expect_status("a write through the read-only session", golden.write(0, &[0; 512]))?;

    let mut disk = Client::with_memory(rw, dataspace(&ram, MEMORY)?, &options())?;
    let name = id(&mut disk)?;
    say("writable session", format!("{} sectors, id {name}", disk.config.capacity));
    let pattern: Vec<u8> = (0..64 << 10).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sector = disk.config.capacity - 128;
    disk.write(sector, &pattern)?;
    disk.flush()?;
    let mut back = vec![0; pattern.len()];
    disk.read(sector, &mut back)?;
    if back != pattern {
        return Err("what was written does not read back".into());
    }
    say("writable session", "64 KiB written, flushed, and read back the same".into());

    let factory = Factory::from_fd(bus, Duration::from_secs(10));
    match factory.create(&[&format!("device={scratch}")], None) {
        Err(ClientError::Create { code, message }) => {
            say("refused", format!("a second writer: {message} ({code})"))
        }
        Err(e) => return Err(e.into()),
        Ok(_) => return Err("a second writer was let in".into()),
    }
    // Nobody registered what follows the client's memory.
    expect_status("DMA to unregistered memory", unregistered(&mut disk))?;
    let foreign = Memory::flat(1 << 40, 1 << 20)?;
    match disk.front.add_mem_reg(foreign.regions[0].words, foreign.files[0].as_fd()) {
        Err(ClientError::Refused { .. }) => say("refused", "a dataspace that is not trusted".into()),
        Err(e) => return Err(e.into()),
        Ok(()) => return Err("an untrusted dataspace was registered".into()),
    }
    disk.read(sector, &mut back)?;
    say("writable session", "still works".into());
    Ok(())
}

fn say(what: &str, text: String) {
    println!("{what}: {text}");
}

fn options() -> Options {
    Options { regions: Vec::new(), ..Options::default() }
}

/// A part of the trusted dataspace as a client's memory.
fn dataspace(ram: &OwnedFd, offset: u64) -> Result<Memory> {
    let mut memory = Memory::new();
    let file = memory.add_file(ram.try_clone()?);
    memory.add_region(file, offset, GUEST, MEMORY)?;
    Ok(memory)
}

fn id(client: &mut Client) -> Result<String> {
    let id = client.id()?;
    Ok(String::from_utf8_lossy(&id).trim_end_matches('\0').to_owned())
}

fn expect_status(what: &str, result: nvme_client::Result<()>) -> Result<()> {
    match result {
        Err(ClientError::Status(status)) => {
            say("refused", format!("{what}: the device answers {status:?}"));
            Ok(())
        }
        Err(e) => Err(e.into()),
        Ok(()) => Err(format!("{what} was not refused").into()),
    }
}

fn unregistered(client: &mut Client) -> nvme_client::Result<()> {
    let segments = [nvme_client::Segment { addr: GUEST + MEMORY, len: 512 }];
    client.run(nvme_client::Io {
        kind: nvme_client::kind::IN,
        sector: 0,
        segments: &segments,
        to_device: false,
    })?;
    Ok(())
}

/// Reads a file of the FAT file system on the partition; of another file system, the first bytes.
fn read_a_file(client: &mut Client) -> Result<()> {
    let len = client.config.capacity * 512;
    let mut first = [0; 512];
    client.read(0, &mut first)?;
    let disk = Disk { client, len, at: 0 };
    match fatfs::FileSystem::new(disk, fatfs::FsOptions::new().update_accessed_date(false)) {
        Ok(fs) => {
            let mut text = String::new();
            let found = fs.root_dir().open_file(FILE).and_then(|mut f| f.read_to_string(&mut text));
            match found {
                Ok(_) => say("read-only session", format!("{FILE}: {:?}", text.trim_end())),
                Err(_) => say("read-only session", format!("a FAT file system of {} bytes", len)),
            }
        }
        Err(_) => say("read-only session", format!("the first bytes: {:02x?}", &first[..16])),
    }
    Ok(())
}

/// A session as a disk, for the file system's library.
struct Disk<'a> {
    client: &'a mut Client,
    len: u64,
    at: u64,
}

impl Read for Disk<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut sector = [0; 512];
        let within = (self.at % 512) as usize;
        let n = into.len().min(512 - within).min((self.len - self.at) as usize);
        self.client.read(self.at / 512, &mut sector).map_err(std::io::Error::other)?;
        into[..n].copy_from_slice(&sector[within..within + n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Disk<'_> {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = seek(self.at, self.len, to)?;
        Ok(self.at)
    }
}
