//! The file of the audit trail.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat};

use super::CapError;
use super::kind::describe;

/// What it has to be.
pub(super) const TRAIL: &str = "a file with a name, open for appending: file:PATH[,required]";
const NAME: &str = "audit";

/// The file of an audit trail: a regular one with a name, open for appending; and for reading, unless it was empty.
#[derive(Debug)]
pub struct TrailFile {
    /// The file.
    pub file: OwnedFd,
    /// Nothing is granted that is not written down.
    pub required: bool,
    /// How the operator wrote it, for messages.
    pub origin: String,
}

impl TrailFile {
    /// It is appended to, however it was opened.
    pub(super) fn new(file: OwnedFd, required: bool, origin: String) -> Result<Self, CapError> {
        check(&file).map_err(|found| CapError::WrongKind { name: NAME.to_owned(), found, wanted: TRAIL })?;
        let appends = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::APPEND));
        appends.map_err(|error| CapError::System { name: NAME.to_owned(), error: error.into() })?;
        Ok(Self { file, required, origin })
    }

    /// Opens one that the operator named, or makes it. Never waits for a pipe's other end.
    pub(super) fn open(path: &Path) -> Result<OwnedFd, CapError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| CapError::Open {
            name: NAME.to_owned(),
            path: path.display().to_string(),
            error: error.into(),
        })
    }
}

/// The file of an audit trail: a regular file that a name leads to, open for writing; and for reading, unless there is nothing
/// in it yet. Else: what it is.
fn check(fd: impl AsFd) -> Result<(), String> {
    let fd = fd.as_fd();
    let stat = fstat(fd).map_err(|error| error.to_string())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(describe(kind));
    }
    if stat.st_nlink == 0 {
        return Err("a file that no name leads to any more".to_owned());
    }
    let flags = fcntl_getfl(fd).map_err(|error| error.to_string())?;
    match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => Err("a file opened with O_PATH".to_owned()),
        OFlags::RDWR => Ok(()),
        OFlags::WRONLY if stat.st_size == 0 => Ok(()),
        OFlags::WRONLY => Err("a file with something in it that is open for writing only".to_owned()),
        _ => Err("a file open for reading only".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_trail_is_a_file_that_can_be_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let write_only = || File::options().append(true).create(true).open(&path).unwrap();
        assert_eq!(check(write_only()), Ok(()));
        assert_eq!(check(File::options().read(true).append(true).open(&path).unwrap()), Ok(()));
        assert_eq!(check(File::open(&path).unwrap()), Err("a file open for reading only".to_owned()));
        std::fs::write(&path, "{").unwrap();
        let found = check(write_only()).unwrap_err();
        assert_eq!(found, "a file with something in it that is open for writing only");
        let gone = write_only();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(check(gone), Err("a file that no name leads to any more".to_owned()));
        assert_eq!(check(rustix::pipe::pipe().unwrap().1), Err("a pipe".to_owned()));
        assert_eq!(check(File::open(folder.path()).unwrap()), Err("a directory".to_owned()));
        assert_eq!(check(File::create("/dev/full").unwrap()), Err("a character device".to_owned()));
    }
}
