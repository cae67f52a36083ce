//! `cargo xtask vm`: the server on VFIO, where there is somebody else's NVMe controller behind an IOMMU: in a virtual machine,
//! with QEMU's. Everything runs in it: binding, the server, and its clients.
//!
//! | module | what |
//! | --- | --- |
//! | `machine` | the virtual machine; the benchmark has the same |
//! | `bed` | checks in it, and what is started and stopped there |
//! | `page` | `doc/own-drive.md`, step by step |
//! | `modes` | binding, the quick start, every way to run the server |
//! | `fio` | fio, which verifies what it writes |
//! | `edu` | MSI, which QEMU's NVMe controller has not |
//! | `groups` | two controllers in one group; too few vectors, too few queues |
//! | `users` | an ordinary user |
//! | `fault` | an IOMMU fault |
//! | `kept` | what is killed, and taken up by the next |
//! | `upgraded` | what hands over to the next |
//! | `trouble` | what is killed or pulled out |
//! | `power` | a power cut, at many places |
//! | `slow` | storage of 5 MB/s, and a logical volume that grows |
//! | `remote` | a disk of another machine: NVMe/TCP |
//! | `lacking` | machines without an IOMMU, or without interrupt remapping |

mod bed;
mod edu;
mod fault;
mod fio;
mod groups;
mod kept;
mod lacking;
pub(crate) mod machine;
mod modes;
mod page;
mod power;
mod remote;
mod slow;
mod trouble;
mod upgraded;
mod users;

use std::error::Error;
use std::time::Instant;

use bed::Bed;
pub(crate) use bed::disk_of;
use machine::{Iommu, Plan};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The controller under test.
const ADDRESS: &str = "0000:00:04.0";
/// Another, which can be pulled out.
const SECOND: &str = "0000:01:00.0";
/// Bytes of each namespace: those of the quick start's image.
const NAMESPACE: u64 = 64 << 20;

/// A part's name, and what it does.
type Part = (&'static str, fn(&mut Bed));

/// What is checked, in this order. Each leaves the controllers as the next one expects them.
const PARTS: [Part; 15] = [
    ("page", Bed::page),
    ("binding", Bed::binding),
    ("quickstart", Bed::quickstart),
    ("modes", Bed::modes),
    ("edu", Bed::edu),
    ("groups", Bed::groups),
    ("users", Bed::users),
    ("killed", Bed::killed),
    ("kept", Bed::kept),
    ("upgraded", Bed::upgraded),
    ("fault", Bed::fault),
    ("reset", Bed::reset),
    ("bus_error", Bed::bus_error),
    ("removed", Bed::removed),
    ("unbinding", Bed::unbinding),
];

/// The same with machines of its own, and Intel's IOMMU; how many checks failed there.
type Alone = (&'static str, fn(&std::path::Path) -> Result<usize>);

const ALONE: [Alone; 4] = [
    ("power", power::power),
    ("slow", slow::slow),
    ("remote", remote::remote),
    ("lacking", lacking::lacking),
];

/// The word for a bed with the other IOMMU, which needs QEMU 10 or newer.
const AMD: &str = "--amd-iommu";

/// All of it, or the parts that are named.
pub(crate) fn vm(args: &[String]) -> Result<()> {
    let amd = args.iter().any(|arg| arg == AMD);
    let args: Vec<String> = args.iter().filter(|arg| *arg != AMD).cloned().collect();
    bed(&args, if amd { Iommu::Amd } else { Iommu::Intel })
}

fn bed(args: &[String], iommu: Iommu) -> Result<()> {
    let names = || PARTS.iter().map(|(name, _)| *name).chain(ALONE.iter().map(|(name, _)| *name));
    if let Some(unknown) = args.iter().find(|arg| names().all(|name| name != arg.as_str())) {
        let names = names().collect::<Vec<_>>().join(" ");
        return Err(format!("{unknown} is no part; there are: {names}, and {AMD}").into());
    }
    let programs = machine::build(&["nvme-drv", "nvme-client"], false)?;
    let begin = Instant::now();
    let asked = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    let mut failed = 0;
    if PARTS.iter().any(|(name, _)| asked(name)) {
        failed += parts(&programs, iommu, &asked)?;
    }
    for (name, alone) in ALONE.iter().filter(|(name, _)| iommu == Iommu::Intel && asked(name)) {
        let begin = Instant::now();
        failed += alone(&programs)?;
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    println!("{failed} failed, in {:.1} s", begin.elapsed().as_secs_f64());
    if failed == 0 { Ok(()) } else { Err("the server on VFIO does not do what it should".into()) }
}

/// Those parts that share one machine; how many checks failed.
fn parts(programs: &std::path::Path, iommu: Iommu, asked: &dyn Fn(&str) -> bool) -> Result<usize> {
    let plan = plan(programs)?.iommu(iommu);
    let (version, traces) = (plan.version().to_owned(), plan.traces());
    let begin = Instant::now();
    let mut bed = Bed::new(plan.launch()?, traces, iommu);
    println!("Linux {version}, {iommu:?}'s IOMMU, in {:.1} s", begin.elapsed().as_secs_f64());
    for (name, part) in PARTS.iter().filter(|(name, _)| asked(name)) {
        let begin = Instant::now();
        part(&mut bed);
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    Ok(bed.end())
}

/// The machine. Root may write the registers of its devices, which the IOMMU fault needs.
fn plan(programs: &std::path::Path) -> Result<Plan> {
    let names = ["nvme-drv", "nvme-ctl", "nvme-ned", "blkcheck", "blkbench", "blknbd", "blkwatch", "xtask"];
    let mut plan = Plan::new("vm", programs, &names)?.words("iomem=relaxed");
    plan = plan.program(&edu::tests()?, "linux-tests")?.qemu(&["-device", "edu,addr=07.0"]);
    crate::quickstart::make_image(&plan.disk("nvme0", 1))?;
    for (name, content) in page::files() {
        plan = plan.file(&name, &content);
    }
    plan = plan.file("src/quickstart.lua", include_bytes!("../../../lua/examples/quickstart.lua"));
    plan.controller("nvme0", "1234", "addr=04.0")
        .namespace("nvme0", 1, NAMESPACE, 512)?
        .namespace("nvme0", 2, NAMESPACE, 4096)?
        .qemu(&["-device", "pcie-root-port,id=rp,chassis=1,slot=1,addr=05.0"])
        .controller("nvme1", "5678", "bus=rp")
        .namespace("nvme1", 1, NAMESPACE, 512)?
        .namespace("nvme1", 2, NAMESPACE, 512)?
        .controller("nvme2", "few", "addr=06.0,multifunction=on,msix_qsize=3")
        .namespace("nvme2", 1, NAMESPACE, 512)?
        .namespace("nvme2", 2, NAMESPACE, 512)?
        .controller("nvme3", "one", "addr=06.1,max_ioqpairs=1")
        .namespace("nvme3", 1, NAMESPACE, 512)?
        .namespace("nvme3", 2, NAMESPACE, 512)
}
