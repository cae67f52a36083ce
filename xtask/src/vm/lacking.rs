//! Machines that lack what keeps a controller in its place: the server must refuse, and say what to do.

use super::bed::{Bed, server};
use super::machine::{Iommu, Plan};
use super::{ADDRESS, NAMESPACE, Result};

/// Words for the kernel; the status of binding, which is refused where VFIO has nothing to offer; and what is said then.
const LACKING: [(&str, i32, &str); 2] = [
    ("intel_iommu=off", 1, "no IOMMU translates for 0000:00:04.0"),
    ("intremap=off", 0, "the IOMMU does no interrupt remapping"),
];

/// Boots each of them; says how many checks failed.
pub(super) fn lacking(programs: &std::path::Path) -> Result<usize> {
    let mut failed = 0;
    for (words, status, says) in LACKING {
        let plan = Plan::new("bare", programs, &["nvme-drv", "nvme-ctl"])?.words(words);
        let plan = plan.controller("nvme0", "1234", "addr=04.0").namespace("nvme0", 1, NAMESPACE, 512)?;
        let traces = plan.traces();
        let mut bed = Bed::new(plan.launch()?, traces, Iommu::Intel);
        let said = if status == 0 { "" } else { says };
        bed.check(&format!("{words}, bind"), &format!("nvme-ctl bind {ADDRESS}"), status, said);
        if status == 0 {
            bed.check(&format!("{words}, the server"), &server(), 2, says);
        } else {
            let kept = format!("ls /sys/bus/pci/drivers/nvme/{ADDRESS}/nvme");
            bed.check(&format!("{words}, its driver keeps it"), &kept, 0, "nvme");
        }
        failed += bed.end();
    }
    Ok(failed)
}
