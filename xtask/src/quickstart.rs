//! `cargo xtask quickstart [IMAGE]`: builds, makes a disk image, and runs `lua/examples/quickstart.lua`.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The size of the image that is made, in bytes.
const IMAGE: u64 = 64 << 20;
/// The size of each of its two partitions.
const PARTITION: u64 = 24 << 20;
/// The file on the first partition, and what it says.
pub(crate) const FILE: &str = "hello.txt";
const TEXT: &str = "Hello from a file on a partition that may only be read.\n";

/// A partition, as the tables of the image say.
struct Partition {
    uuid: String,
    name: String,
}

pub(crate) fn quickstart(args: &[String]) -> Result<()> {
    let image = match args {
        [] => None,
        [image] => Some(Path::new(image)),
        _ => return Err("usage: cargo xtask quickstart [IMAGE]".into()),
    };
    println!("building nvme-drv and nvme-ned");
    let programs = build()?;
    let started = Instant::now();
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk.img");
    match image {
        None => {
            make_image(&disk)?;
            println!("made a disk image with two FAT partitions, \"golden\" and \"scratch\"");
        }
        Some(image) => {
            fs::copy(image, &disk).map_err(|e| format!("copying {}: {e}", image.display()))?;
            println!("copied {}: the original is not touched", image.display());
        }
    }
    let partitions = partitions(&disk)?;
    let [golden, scratch, ..] = partitions.as_slice() else {
        return Err("the image has fewer than two GPT partitions".into());
    };
    println!(
        "partition 1: {} \"{}\"\npartition 2: {} \"{}\"",
        golden.uuid, golden.name, scratch.uuid, scratch.name
    );
    let own = std::env::current_exe()?;
    let status = Command::new(programs.join("nvme-ned"))
        .args(["-e", &format!("vbus_nvme = {}", lua(&format!("soft:{},serial=1234", disk.display())))])
        .args(["-e", &format!("client = {{ {}, 'quickstart-client' }}", lua(&own.display().to_string()))])
        .arg("--rom")
        .arg(&programs)
        .arg(crate::root().join("lua/examples/quickstart.lua"))
        .args(["--", &golden.uuid, &scratch.uuid])
        .status()?;
    if !status.success() {
        return Err(format!("nvme-ned ended with {status}").into());
    }
    first_server(&programs)?;
    println!("done in {:.1} s (without the build)", started.elapsed().as_secs_f32());
    Ok(())
}

/// What follows the README's first command: its inventory as soon as that shows the image, and the server's end.
const THEN: &str = "
for i in $(seq 100); do listed=$(nvme-ctl ls 2>&1) && case $listed in *1234:n1:2*) break;; esac; sleep 0.1; done
echo \"$ nvme-ctl ls\"; echo \"$listed\"; kill $!; wait $!
";

/// Runs the README's first server command as it stands, in a folder of its own.
fn first_server(programs: &Path) -> Result<()> {
    let page = fs::read_to_string(crate::root().join("README.md"))?;
    let (_, part) = page.split_once("\n## Serving QEMU\n").ok_or("the README has no part on serving QEMU")?;
    let block = part.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.ok_or("the README has no server command")?;
    let folder = tempfile::tempdir()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [programs.to_owned(), "/sbin".into(), "/usr/sbin".into()];
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path)))?;
    if !std::env::split_paths(&path).any(|folder| folder.join("sfdisk").is_file()) {
        println!("skipped: the README's first server command, for want of sfdisk: apt-get install fdisk");
        return Ok(());
    }
    println!("the README's first server command:");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &format!("{block}{THEN}")]).current_dir(folder.path()).env("PATH", path);
    let output = shell.output()?;
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{told}{said}");
    let ready = "ready: 1234:n1 (64 MiB, 2 partitions); svr at run/svr, ctl at run/ctl";
    if output.status.success() && said.contains("device=1234:n1:2") && told.contains(ready) {
        return Ok(());
    }
    Err("the README's first server command does not do what the README says".into())
}

/// A string as Lua reads it.
fn lua(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        quoted.push_str(&format!("\\x{byte:02x}"));
    }
    quoted + "\""
}

/// Builds the programs, and says where they are.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::root()).args(["build", "--quiet", "-p", "nvme-drv", "--bins"]);
    if !command.status()?.success() {
        return Err("the build failed".into());
    }
    // This program lies where cargo puts the others.
    let own = std::env::current_exe()?;
    Ok(own.parent().ok_or("no folder of programs")?.to_owned())
}

/// A disk with two partitions, `golden` and `scratch`, and a FAT file system on each.
pub(crate) fn make_image(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.set_len(IMAGE)?;
    let blocks = u32::try_from(IMAGE / 512 - 1)?;
    ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut file)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None)?;
    for name in ["golden", "scratch"] {
        disk.add_partition(name, PARTITION, partition_types::BASIC, 0, Some(2048))?;
    }
    let places: Vec<u64> = disk.partitions().values().map(|p| p.first_lba * 512).collect();
    let mut file = disk.write()?;
    for (index, start) in places.into_iter().enumerate() {
        let part = Part { file: &mut file, start, len: PARTITION, at: 0 };
        format(part, index == 0)?;
    }
    Ok(())
}

fn format(mut part: Part<'_>, with_file: bool) -> Result<()> {
    fatfs::format_volume(&mut part, fatfs::FormatVolumeOptions::new())?;
    let fs = fatfs::FileSystem::new(part, fatfs::FsOptions::new())?;
    if with_file {
        fs.root_dir().create_file(FILE)?.write_all(TEXT.as_bytes())?;
    }
    fs.unmount()?;
    Ok(())
}

fn partitions(path: &Path) -> Result<Vec<Partition>> {
    let file = File::open(path)?;
    let config = GptConfig::new().writable(false);
    let disk = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096]
        .into_iter()
        .find_map(|size| {
            config.clone().logical_block_size(size).open_from_device(file.try_clone().ok()?).ok()
        })
        .ok_or("the image has no GPT")?;
    let partition =
        |p: &gpt::partition::Partition| Partition { uuid: p.part_guid.to_string(), name: p.name.clone() };
    Ok(disk.partitions().values().map(partition).collect())
}

/// A part of the image, for the file system's library.
struct Part<'a> {
    file: &'a mut File,
    start: u64,
    len: u64,
    at: u64,
}

impl Part<'_> {
    fn room(&self, wanted: usize) -> usize {
        wanted.min(usize::try_from(self.len - self.at).unwrap_or(usize::MAX))
    }
}

impl Read for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let room = self.room(into.len());
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let read = self.file.read(&mut into[..room])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        let room = self.room(from.len());
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let written = self.file.write(&from[..room])?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = seek(self.at, self.len, to)?;
        Ok(self.at)
    }
}

/// A position within `len` bytes.
pub(crate) fn seek(at: u64, len: u64, to: SeekFrom) -> std::io::Result<u64> {
    let place = match to {
        SeekFrom::Start(n) => Some(n),
        SeekFrom::End(n) => len.checked_add_signed(n),
        SeekFrom::Current(n) => at.checked_add_signed(n),
    };
    place.filter(|p| *p <= len).ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
}
