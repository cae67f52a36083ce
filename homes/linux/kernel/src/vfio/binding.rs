//! Giving a PCI function to vfio-pci, and back to its own driver.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::VfioError;
use super::group::{VFIO_PCI, check_class, driver, link_name, translated_group};

/// Why a function was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No such NVMe controller.
    #[error(transparent)]
    Function(#[from] VfioError),
    /// Somebody uses one of its disks.
    #[error("{address} is in use: {disk} is mounted, swap, or part of another device; stop that first")]
    InUse {
        /// The function.
        address: String,
        /// The disk, or the program that has it.
        disk: String,
    },
    /// A program has it by VFIO.
    #[error("{0} is in use by a program (VFIO); stop that first")]
    Held(String),
    /// A file of sysfs could not be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
    /// It has another driver than the one that was asked for.
    #[error("{address} was not bound to vfio-pci ({}); is the module loaded? modprobe vfio-pci", .driver.as_deref().map_or("no driver".into(), |d| format!("driver {d}")))]
    NotBound {
        /// The function.
        address: String,
        /// The driver that it has.
        driver: Option<String>,
    },
}

/// Gives the function at `address` to vfio-pci. Refuses one whose disks are in use.
pub fn bind(address: &str) -> Result<(), BindError> {
    bind_in(Path::new("/sys"), Path::new("/dev"), address)
}

/// Gives the function at `address` back to the driver that the kernel has for it. Refuses one that a program has open.
pub fn unbind(address: &str) -> Result<(), BindError> {
    unbind_in(Path::new("/sys"), Path::new("/dev"), address)
}

fn write(path: PathBuf, text: &str) -> Result<(), BindError> {
    let mut options = File::options();
    let opened = options.write(true).open(&path);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|e| BindError::Write(path, e))
}

fn bind_in(sys: &Path, dev: &Path, address: &str) -> Result<(), BindError> {
    let folder = check_class(sys, address)?;
    if driver(&folder).as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    if translated_group(&folder).is_none() {
        // vfio-pci would not take it, and it would be without a driver.
        return Err(VfioError::NoIommu(address.to_owned()).into());
    }
    // Held until its driver is gone, so that nobody mounts one meanwhile.
    let held = claim(&folder, dev, address)?;
    write(folder.join("driver_override"), VFIO_PCI)?;
    if driver(&folder).is_some() {
        write(folder.join("driver/unbind"), address)?;
    }
    drop(held);
    write(sys.join("bus/pci/drivers_probe"), address)?;
    let driver = driver(&folder);
    if driver.as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    // As it was.
    let _ = write(folder.join("driver_override"), "\n");
    let _ = write(sys.join("bus/pci/drivers_probe"), address);
    Err(BindError::NotBound { address: address.to_owned(), driver })
}

fn unbind_in(sys: &Path, dev: &Path, address: &str) -> Result<(), BindError> {
    let folder = check_class(sys, address)?;
    let bound = driver(&folder);
    if bound.as_deref() == Some(VFIO_PCI) {
        // Only one can have a group; while a program has it, unbinding would wait for that program.
        if let Some(group) = link_name(&folder.join("iommu_group"))
            && let Err(why) = File::options().read(true).write(true).open(dev.join("vfio").join(group))
            && why.raw_os_error() == Some(libc::EBUSY)
        {
            return Err(BindError::Held(address.to_owned()));
        }
        write(folder.join("driver_override"), "\n")?;
        write(folder.join("driver/unbind"), address)?;
    } else if bound.is_some() {
        return Ok(());
    } else {
        write(folder.join("driver_override"), "\n")?;
    }
    write(sys.join("bus/pci/drivers_probe"), address)
}

/// Opens each of a controller's disks for nobody else; an error names the one that somebody uses.
fn claim(folder: &Path, dev: &Path, address: &str) -> Result<Vec<File>, BindError> {
    let mut held = Vec::new();
    for disk in disks(folder) {
        // O_EXCL on a block device: fails while it, or a partition of it, is mounted, swap, or part of another device.
        let opened = File::options().read(true).custom_flags(libc::O_EXCL).open(dev.join(&disk));
        match opened {
            Ok(file) => held.push(file),
            Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                return Err(BindError::InUse { address: address.to_owned(), disk });
            }
            // No node, or no medium: nobody uses it by that name.
            Err(_) => {}
        }
    }
    Ok(held)
}

/// The names of a controller's disks.
fn disks(folder: &Path) -> Vec<String> {
    let names = |folder: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.path()))).collect()
    };
    let mut disks: Vec<String> = names(&folder.join("nvme"))
        .into_iter()
        .flat_map(|(_, controller)| names(&controller))
        .filter(|(name, path)| name.starts_with("nvme") && path.join("size").exists())
        // A path of a multipath disk: the disk is the name without the path.
        .map(|(name, _)| multipath_head(&name))
        .collect();
    disks.sort();
    disks
}

/// `nvme0c1n2` → `nvme0n2`; other names as they are.
fn multipath_head(name: &str) -> String {
    let Some((head, rest)) = name.split_once('c') else { return name.to_owned() };
    match rest.split_once('n') {
        Some((_, namespace)) => format!("{head}n{namespace}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::fake::add;
    use super::super::group::folder;
    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    #[test]
    fn binding_asks_the_kernel_in_order_and_checks_the_result() {
        let sys = tempfile::tempdir().unwrap();
        let dev = tempfile::tempdir().unwrap();
        add(sys.path(), ADDRESS, "0x010802", Some("nvme"), Some(7));
        // Nobody acts on what is written to this sysfs, so the driver stays, and the override is taken back.
        let why = bind_in(sys.path(), dev.path(), ADDRESS).unwrap_err();
        assert!(matches!(&why, BindError::NotBound { driver: Some(d), .. } if d == "nvme"), "{why}");
        assert!(why.to_string().contains("modprobe vfio-pci"));
        let place = sys.path().join("bus/pci");
        assert_eq!(fs::read_to_string(place.join("drivers/nvme/unbind")).unwrap(), ADDRESS);
        assert_eq!(fs::read_to_string(place.join("drivers_probe")).unwrap(), ADDRESS);
    }

    #[test]
    fn what_is_bound_already_is_left_alone() {
        let sys = tempfile::tempdir().unwrap();
        add(sys.path(), ADDRESS, "0x010802", Some("vfio-pci"), Some(7));
        bind_in(sys.path(), sys.path(), ADDRESS).unwrap();
        let written = fs::read_to_string(sys.path().join("bus/pci/drivers_probe")).unwrap();
        assert_eq!(written, "");
        add(sys.path(), "0000:02:00.0", "0x010802", Some("nvme"), Some(7));
        unbind_in(sys.path(), sys.path(), "0000:02:00.0").unwrap();
        assert_eq!(fs::read_to_string(sys.path().join("bus/pci/drivers/nvme/unbind")).unwrap(), "");
    }

    #[test]
    fn without_an_iommu_its_driver_keeps_it() {
        let sys = tempfile::tempdir().unwrap();
        add(sys.path(), ADDRESS, "0x010802", Some("nvme"), None);
        let why = bind_in(sys.path(), sys.path(), ADDRESS).unwrap_err();
        assert!(matches!(&why, BindError::Function(VfioError::NoIommu(_))), "{why}");
        assert_eq!(fs::read_to_string(sys.path().join("bus/pci/drivers/nvme/unbind")).unwrap(), "");
        assert_eq!(fs::read_to_string(folder(sys.path(), ADDRESS).join("driver_override")).unwrap(), "");
    }

    #[test]
    fn another_kind_of_device_is_not_touched() {
        let sys = tempfile::tempdir().unwrap();
        add(sys.path(), ADDRESS, "0x020000", Some("e1000e"), Some(7));
        assert!(matches!(
            bind_in(sys.path(), sys.path(), ADDRESS),
            Err(BindError::Function(VfioError::NotNvme(..)))
        ));
        assert_eq!(fs::read_to_string(sys.path().join("bus/pci/drivers/e1000e/unbind")).unwrap(), "");
    }

    #[test]
    fn the_disks_of_a_controller_are_found_by_their_paths_too() {
        let sys = tempfile::tempdir().unwrap();
        add(sys.path(), ADDRESS, "0x010802", Some("nvme"), Some(7));
        let controller = folder(sys.path(), ADDRESS).join("nvme/nvme3");
        for disk in ["nvme3n1", "nvme3c3n2", "hwmon1", "ng3n1"] {
            fs::create_dir_all(controller.join(disk)).unwrap();
            fs::write(controller.join(disk).join("size"), "8").unwrap();
        }
        assert_eq!(disks(&folder(sys.path(), ADDRESS)), ["nvme3n1", "nvme3n2"]);
    }
}
