//! Who has an image: what is mounted from it, lies over it, or has it open. Looked up for messages: whether somebody has it is decided by the
//! kernel, which refuses a second exclusive hold, and by locks.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat, StatxFlags, major, makedev, minor, statx};

/// Processes whose descriptors are looked through for one that has an image open.
const PROCESSES_MAX: usize = 65_536;

/// Who has a block device that could not be opened alone: it, a partition of it, or the disk that it is a part of. `None`: it cannot be seen.
pub fn holder(path: &Path) -> Option<String> {
    let stat = rustix::fs::stat(path).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return None;
    }
    let relatives = relatives(&stat);
    let all =
        || std::iter::once((&stat, "it")).chain(relatives.iter().map(|(stat, what)| (stat, what.as_str())));
    let claimed = all().find_map(|(stat, what)| claimed(stat, what));
    let claimed = claimed.or_else(|| all().find_map(|(stat, what)| mounted_elsewhere(stat, what)));
    claimed
        .or_else(|| writer(&stat))
        .or_else(|| relatives.iter().find_map(|(stat, what)| Some(format!("{} has {what}", writer(stat)?))))
}

/// What holds a device in a way that needs no process.
fn claimed(stat: &Stat, what: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(place) = mounted(stat, &mounts) {
        return Some(format!("{what} is mounted on {place}"));
    }
    if let Some(system) = btrfs(stat) {
        return Some(format!("{what} is a device of the Btrfs file system {system}, which is mounted"));
    }
    let above = fs::read_dir(format!("{}/holders", sysfs(stat))).ok().and_then(|mut d| d.next()?.ok());
    if let Some(above) = above {
        let node = above.file_name().to_string_lossy().into_owned();
        let name = fs::read_to_string(format!("/sys/block/{node}/dm/name")).map(|n| n.trim().to_owned());
        return Some(format!("{} lies over {what}", name.unwrap_or(node)));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut spaces = swaps.lines().filter_map(|line| line.split_whitespace().next());
    spaces.any(|space| is_node_of(space, stat)).then(|| format!("{what} is swap space"))
}

/// Where a device is mounted, by a mountinfo (proc_pid_mountinfo(5)). File systems with numbers of their own (Btrfs) name their device.
fn mounted(stat: &Stat, mounts: &str) -> Option<String> {
    let number = format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(2);
        let is =
            words.next()? == number || system.split(' ').nth(1).is_some_and(|node| is_node_of(node, stat));
        is.then(|| words.nth(1).map(str::to_owned))?
    })
}

/// Where a device is mounted by processes for which other things are mounted than for this one.
fn mounted_elsewhere(stat: &Stat, what: &str) -> Option<String> {
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut known: Vec<PathBuf> = space("self").into_iter().collect();
    processes().find_map(|pid| {
        let space = space(&pid).filter(|space| !known.contains(space))?;
        known.push(space);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        let place = mounted(stat, &mounts)?;
        Some(format!("{what} is mounted on {place}, as process {pid} ({}) sees it", name_of(&pid)))
    })
}

/// The mounted Btrfs file system that a device belongs to: its mount names one of its devices only.
fn btrfs(stat: &Stat) -> Option<String> {
    fs::read_dir("/sys/fs/btrfs").ok()?.flatten().find_map(|system| {
        let mut devices = fs::read_dir(system.path().join("devices")).ok()?.flatten();
        let is = devices.any(|device| number_in(&device.path()) == Some(stat.st_rdev));
        is.then(|| system.file_name().to_string_lossy().into_owned())
    })
}

/// What the kernel holds together with a device: its partitions, or the disk that it is a part of.
fn relatives(stat: &Stat) -> Vec<(Stat, String)> {
    let Ok(folder) = fs::canonicalize(sysfs(stat)) else { return Vec::new() };
    let relative = |folder: &Path, what: &str| {
        let name = folder.file_name()?.to_string_lossy().into_owned();
        let mut relative = *stat;
        relative.st_rdev = number_in(folder)?;
        Some((relative, format!("{what}, {name},")))
    };
    if folder.join("partition").exists() {
        let disk = folder.parent().and_then(|disk| relative(disk, "the disk that it is a part of"));
        return disk.into_iter().collect();
    }
    let below = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = below.filter(|path| path.join("partition").exists());
    partitions.filter_map(|path| relative(&path, "a partition of it")).collect()
}

/// The number of the device whose folder in sysfs that is.
fn number_in(folder: &Path) -> Option<u64> {
    let number = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Whether that is the path of a node of the device.
fn is_node_of(node: &str, stat: &Stat) -> bool {
    node.starts_with("/dev/")
        && rustix::fs::stat(node).is_ok_and(|other| is_device(&other) && other.st_rdev == stat.st_rdev)
}

/// The folder of a block device in sysfs.
pub(super) fn sysfs(stat: &Stat) -> String {
    format!("/sys/dev/block/{}:{}", major(stat.st_rdev), minor(stat.st_rdev))
}

/// A loop device over a file or a block device.
pub(super) fn loop_over(stat: &Stat) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let below = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Which::known(below.trim_end_matches('\n')).is_some_and(|other| other.is(stat)).then_some(name)
    })
}

/// Which file or device that is.
struct Which {
    is_device: bool,
    /// Of a device its number, of a file its file system's, and its own.
    number: (u64, u64),
}

impl Which {
    fn of(stat: &Stat) -> Self {
        let is_device = is_device(stat);
        Self { is_device, number: if is_device { (stat.st_rdev, 0) } else { (stat.st_dev, stat.st_ino) } }
    }

    /// As far as the kernel knows: others have files open whose file system does not answer.
    fn known(path: &str) -> Option<Self> {
        let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO).ok()?;
        let is_device = FileType::from_raw_mode(found.stx_mode.into()) == FileType::BlockDevice;
        let number = if is_device {
            (makedev(found.stx_rdev_major, found.stx_rdev_minor), 0)
        } else {
            (makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)
        };
        Some(Self { is_device, number })
    }

    fn is(&self, stat: &Stat) -> bool {
        let other = Self::of(stat);
        self.is_device == other.is_device && self.number == other.number
    }
}

/// A file of a file system that another process has open.
struct Open {
    which: Which,
    pid: String,
    number: String,
}

thread_local! {
    /// What others have open, where many files are asked about at once.
    static OTHERS: RefCell<Option<Vec<Open>>> = const { RefCell::new(None) };
}

/// Opens many images: what other processes have open is looked up once for all of them. With 64 images that is most of a start.
pub fn all_at_once<R>(open: impl FnOnce() -> R) -> R {
    OTHERS.set(Some(others().collect()));
    let opened = open();
    OTHERS.set(None);
    opened
}

/// The numbers of all processes.
fn processes() -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").into_iter().flat_map(|all| all.take(PROCESSES_MAX)).flatten();
    let pids = processes.map(|process| process.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
}

/// What a process is called.
fn name_of(pid: &str) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// What other processes have open, as far as this one may see.
fn others() -> impl Iterator<Item = Open> {
    let own = std::process::id().to_string();
    processes().filter(move |pid| *pid != own).flat_map(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(move |descriptor| {
            let number = descriptor.file_name().to_string_lossy().into_owned();
            let link = format!("/proc/{pid}/fd/{number}");
            // What is no file of a file system is not asked about.
            fs::read_link(&link).ok().filter(|target| target.is_absolute())?;
            Some(Open { which: Which::known(&link)?, pid: pid.clone(), number })
        })
    })
}

/// Another process that has the file or device open for writing: as far as this one may see.
pub(super) fn writer(stat: &Stat) -> Option<String> {
    let find = |open: &Open| {
        let Open { which, pid, number } = open;
        if !which.is(stat) || !writes(&format!("/proc/{pid}/fdinfo/{number}")) {
            return None;
        }
        Some(format!("process {pid} ({})", name_of(pid)))
    };
    OTHERS.with_borrow(|known| match known {
        Some(known) => known.iter().find_map(find),
        None => others().find_map(|open| find(&open)),
    })
}

fn is_device(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice
}

fn writes(info: &str) -> bool {
    let info = fs::read_to_string(info).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 3 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number_and_by_the_device_that_it_names() {
        // Any node of any block device will do; where there is none there is nothing to look for.
        let nodes = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path());
        let mut devices = nodes.filter_map(|path| Some((rustix::fs::stat(&path).ok()?, path)));
        let Some((stat, node)) = devices.find(|(stat, _)| is_device(stat)) else { return };
        let number = format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
        let other = "21 1 0:33 / /sys rw shared:7 - sysfs sysfs rw\n";
        assert_eq!(mounted(&stat, other), None);
        let by_number = format!("{other}36 35 {number} / /mnt rw,noatime master:1 - ext4 /dev/gone rw\n");
        assert_eq!(mounted(&stat, &by_number).as_deref(), Some("/mnt"));
        let by_node = format!("{other}37 35 0:44 /sub /srv rw - btrfs {} rw,subvol=/sub\n", node.display());
        assert_eq!(mounted(&stat, &by_node).as_deref(), Some("/srv"));
    }
}
