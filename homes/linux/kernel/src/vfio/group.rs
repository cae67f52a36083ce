//! What sysfs says of a PCI function and its IOMMU group.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::VfioError;

/// NVM Express I/O controller (PCI Code and ID Assignment 1.13, 01h 08h 02h).
const CLASS_NVME: &str = "0x010802";
/// The driver that gives functions to VFIO.
pub(super) const VFIO_PCI: &str = "vfio-pci";
/// Drivers that do no DMA: their functions do not make a group useless.
const HARMLESS: [&str; 3] = [VFIO_PCI, "pcieport", "pci-stub"];

/// A function that VFIO has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its IOMMU group.
    pub(super) group: u32,
    /// PCI vendor and device.
    pub(super) id: (u16, u16),
}

pub(super) fn folder(sys: &Path, address: &str) -> PathBuf {
    sys.join("bus/pci/devices").join(address)
}

/// The last part of where a link leads.
pub(super) fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(ToOwned::to_owned)
}

pub(super) fn driver(folder: &Path) -> Option<String> {
    link_name(&folder.join("driver"))
}

/// Whether the function is there and an NVMe controller.
pub(super) fn check_class(sys: &Path, address: &str) -> Result<PathBuf, VfioError> {
    let folder = folder(sys, address);
    let class = fs::read_to_string(folder.join("class")).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => VfioError::Permission(folder.display().to_string()),
        _ => VfioError::NotThere(address.to_owned()),
    })?;
    let class = class.trim();
    if class == CLASS_NVME {
        Ok(folder)
    } else {
        Err(VfioError::NotNvme(address.to_owned(), class.to_owned()))
    }
}

/// The function, if it is an NVMe controller that vfio-pci has.
pub(super) fn function(sys: &Path, address: &str) -> Result<Function, VfioError> {
    let folder = check_class(sys, address)?;
    let driver = driver(&folder);
    if driver.as_deref() != Some(VFIO_PCI) {
        return Err(VfioError::NotBound { address: address.to_owned(), driver });
    }
    let group = translated_group(&folder).ok_or_else(|| VfioError::NoIommu(address.to_owned()))?;
    Ok(Function { group, id: (word(&folder, "vendor"), word(&folder, "device")) })
}

/// The group of a function for which an IOMMU translates. VFIO can be told to make up groups without one
/// (`enable_unsafe_noiommu_mode`); those do not count.
pub(super) fn translated_group(folder: &Path) -> Option<u32> {
    let group = folder.join("iommu_group");
    let name = fs::read_to_string(group.join("name")).unwrap_or_default();
    if name.trim() == "vfio-noiommu" {
        return None;
    }
    link_name(&group)?.parse().ok()
}

/// An identifier; 0 when it cannot be read, which has no quirks.
fn word(folder: &Path, name: &str) -> u16 {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
}

/// The functions that keep a group from being viable.
pub(super) fn others(sys: &Path, group: u32) -> Vec<String> {
    let devices = sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
    let Ok(entries) = fs::read_dir(devices) else { return Vec::new() };
    let mut others: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let driver = driver(&folder(sys, &name))?;
            (!HARMLESS.contains(&driver.as_str())).then(|| format!("{name} (driver {driver})"))
        })
        .collect();
    others.sort();
    others
}

#[cfg(test)]
pub(super) mod fake {
    //! A sysfs of our own.

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A function in a group, with the driver that has it.
    pub(in super::super) fn add(
        sys: &Path,
        address: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let folder = super::folder(sys, address);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("class"), format!("{class}\n")).unwrap();
        fs::write(folder.join("vendor"), "0x1b36\n").unwrap();
        fs::write(folder.join("device"), "0x0010\n").unwrap();
        for name in ["driver_override", "rescan"] {
            fs::write(folder.join(name), "").unwrap();
        }
        fs::write(sys.join("bus/pci/drivers_probe"), "").unwrap();
        if let Some(driver) = driver {
            let place = sys.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("unbind"), "").unwrap();
            symlink(place, folder.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let place = sys.join("kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(place.join("devices").join(address)).unwrap();
            symlink(place, folder.join("iommu_group")).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::add;
    use super::*;

    #[test]
    fn a_function_must_be_an_nvme_controller_that_vfio_has() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        add(sys, "0000:01:00.0", "0x010802", Some("vfio-pci"), Some(7));
        add(sys, "0000:02:00.0", "0x010802", Some("nvme"), Some(8));
        add(sys, "0000:03:00.0", "0x010802", None, Some(8));
        add(sys, "0000:04:00.0", "0x010802", Some("vfio-pci"), None);
        add(sys, "0000:05:00.0", "0x010601", Some("vfio-pci"), Some(9));
        add(sys, "0000:07:00.0", "0x010802", Some("vfio-pci"), Some(10));
        fs::write(sys.join("kernel/iommu_groups/10/name"), "vfio-noiommu\n").unwrap();
        assert_eq!(function(sys, "0000:07:00.0"), Err(VfioError::NoIommu("0000:07:00.0".into())));
        assert_eq!(function(sys, "0000:01:00.0"), Ok(Function { group: 7, id: (0x1b36, 0x10) }));
        let bound = |address: &str, driver: Option<&str>| {
            Err(VfioError::NotBound { address: address.into(), driver: driver.map(Into::into) })
        };
        assert_eq!(function(sys, "0000:02:00.0"), bound("0000:02:00.0", Some("nvme")));
        assert_eq!(function(sys, "0000:03:00.0"), bound("0000:03:00.0", None));
        assert_eq!(function(sys, "0000:04:00.0"), Err(VfioError::NoIommu("0000:04:00.0".into())));
        let class = VfioError::NotNvme("0000:05:00.0".into(), "0x010601".into());
        assert_eq!(function(sys, "0000:05:00.0"), Err(class));
        assert_eq!(function(sys, "0000:06:00.0"), Err(VfioError::NotThere("0000:06:00.0".into())));
    }

    #[test]
    fn the_others_of_a_group_are_named_with_their_drivers() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        add(sys, "0000:01:00.0", "0x010802", Some("vfio-pci"), Some(7));
        add(sys, "0000:00:1c.0", "0x060400", Some("pcieport"), Some(7));
        add(sys, "0000:01:00.2", "0x0c0330", Some("xhci_hcd"), Some(7));
        add(sys, "0000:01:00.1", "0x040300", Some("snd_hda_intel"), Some(7));
        add(sys, "0000:01:00.3", "0x040300", None, Some(7));
        add(sys, "0000:02:00.0", "0x040300", Some("other"), Some(8));
        assert_eq!(others(sys, 7), ["0000:01:00.1 (driver snd_hda_intel)", "0000:01:00.2 (driver xhci_hcd)"]);
        assert_eq!(others(sys, 9), [""; 0]);
    }
}
