//! `cargo xtask vm`: the server on VFIO, where there is somebody else's NVMe controller behind an IOMMU: in a virtual machine,
//! with QEMU's. Everything runs in it: binding, the server, and its clients.
//!
//! | module | what |
//! | --- | --- |
//! | `machine` | the virtual machine; the benchmark has the same |
//! | `bed` | checks in it, and a server that is started and stopped |
//! | `modes` | every way to run the server |
//! | `page` | `doc/own-drive.md`, step by step |
//! | `trouble` | what is killed, pulled out, or not allowed |

mod bed;
pub(crate) mod machine;
mod modes;
mod page;
mod trouble;

use std::error::Error;
use std::time::Instant;

use bed::Bed;
use machine::Plan;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The controller under test.
const ADDRESS: &str = "0000:00:04.0";
/// Another, which can be pulled out.
const SECOND: &str = "0000:01:00.0";
/// Bytes of each namespace.
const NAMESPACE: u64 = 64 << 20;

/// What is checked, in this order. Each leaves the controllers as the next one expects them.
const PARTS: [(&str, fn(&mut Bed)); 3] =
    [("page", Bed::page), ("modes", Bed::modes), ("trouble", Bed::trouble)];

/// All of it, or the parts that are named.
pub(crate) fn vm(args: &[String]) -> Result<()> {
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    if let Some(unknown) = args.iter().find(|arg| PARTS.iter().all(|(name, _)| name != arg)) {
        let names = PARTS.map(|(name, _)| name).join(" ");
        return Err(format!("{unknown} is no part; there are: {names}").into());
    }

    let programs = machine::build(&["nvme-drv", "nvme-client"], false)?;
    let mut plan = Plan::new("vm", &programs, &["nvme-drv", "nvme-ctl", "blkcheck", "blkbench", "blknbd"])?
        .controller("nvme0", "1234", "addr=04.0")
        .namespace("nvme0", 1, NAMESPACE, 512)?
        .namespace("nvme0", 2, NAMESPACE, 4096)?
        .qemu(&["-device", "pcie-root-port,id=rp,chassis=1,slot=1,addr=05.0"])
        .controller("nvme1", "5678", "bus=rp")
        .namespace("nvme1", 1, NAMESPACE, 512)?;
    for (name, content) in page::files() {
        plan = plan.file(&name, &content);
    }
    let version = plan.version().to_owned();
    let begin = Instant::now();
    let mut bed = Bed::new(plan.launch()?);
    println!("Linux {version} in {:.1} s", begin.elapsed().as_secs_f64());
    for (name, part) in PARTS {
        if wanted(name) {
            let begin = Instant::now();
            part(&mut bed);
            println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
        }
    }
    bed.check("no IOMMU fault", "! dmesg | grep -iE 'DMAR.*fault'", 0, "");
    let failed = bed.end();
    println!("{failed} failed, in {:.1} s", begin.elapsed().as_secs_f64());
    if failed == 0 { Ok(()) } else { Err("the server on VFIO does not do what it should".into()) }
}
