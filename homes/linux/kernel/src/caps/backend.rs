//! One disk for one client: the capabilities of a program that is started as QEMU's documentation has it (`--blk-file`).

use std::path::Path;

use super::spec::{CapWord, Place, SoftOptions, SoftSource, Spec};

/// The capabilities of a disk and of the socket of its client, which is called `client`.
pub fn backend(disk: &Path, read_only: bool, client: &str, socket: Place) -> [CapWord; 2] {
    let options = SoftOptions { serial: Some(serial(disk)), read_only, ..SoftOptions::default() };
    let source = SoftSource::Image(Place::Path(disk.into()));
    let disk = CapWord {
        name: "vbus".to_owned(),
        text: format!("--blk-file {}", disk.display()),
        spec: Spec::Soft { source, options },
    };
    let text = match &socket {
        Place::Path(path) => format!("--socket-path {}", path.display()),
        Place::Fd(number) => format!("--fd {number}"),
    };
    [disk, CapWord { name: client.to_owned(), text, spec: Spec::Peer(socket) }]
}

/// The serial number of a disk that has no other: a guest that has two of them must be able to tell them apart, each time it
/// starts. By its path, as FNV-1a in hexadecimal.
pub fn serial(disk: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;

    let path = std::path::absolute(disk).unwrap_or_else(|_| disk.to_owned());
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_the_same_number_each_time_and_no_other_has_it() {
        assert_eq!(serial(Path::new("/a")), serial(Path::new("/a")));
        assert_ne!(serial(Path::new("/a")), serial(Path::new("/b")));
        // FNV-1a of the one byte.
        assert_eq!(serial(Path::new("/")), "af63a24c860189fe");
        assert!(serial(Path::new("x")).len() == 16);
    }
}
