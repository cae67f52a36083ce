//! The words of `--cap`: `NAME=SPEC`.
//!
//! ```text
//! pci:DDDD:BB:DD.F[,doorbell-buffers]
//! soft:IMAGE[,serial=SN][,lba=512|4096][,ro][,engine=auto|window|uring|threads][,preallocate][,pin]
//! soft:mem:SIZE[,…]
//! unix:PATH[,mode=0660][,user=U][,group=G]
//! tcp:ADDR:PORT[,public]
//! file:PATH                 (of `audit` also: file:PATH,required)
//! ```
//!
//! `fd=N` stands in the place of a path. A path that begins like something else is written with `./`; one with a
//! comma in it cannot be given, except to `file:`, which has no options.

mod soft;

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use self::soft::{decimal, soft};
use super::SpecError;

pub use self::soft::{Size, SoftOptions, SoftSource};

/// A `--cap` word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapWord {
    /// The capability's name.
    pub name: String,
    /// What it is.
    pub spec: Spec,
    /// All of it, as it was written.
    pub text: String,
}

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spec {
    /// A PCI function.
    Pci {
        /// `DDDD:BB:DD.F` in lower case.
        address: String,
        /// Whether doorbells are to be in memory, where the controller offers that.
        doorbell_buffers: bool,
    },
    /// The software controller.
    Soft {
        /// What it serves.
        source: SoftSource,
        /// How.
        options: SoftOptions,
    },
    /// A listening socket.
    Unix {
        /// Where.
        place: Place,
        /// For whom. Nothing with a descriptor.
        options: UnixOptions,
    },
    /// A listening TCP socket, at an address of this machine's alone unless it was said to be public.
    Tcp(SocketAddr),
    /// A memory file.
    File(Place),
    /// The file of the audit trail.
    Trail {
        /// Which.
        place: Place,
        /// Nothing is granted that is not written down.
        required: bool,
    },
    /// A socket that listens, or one that is connected already. No word says this: it is `--socket-path` and `--fd`.
    Peer(Place),
}

/// A path, or an inherited descriptor in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A path. Never empty.
    Path(PathBuf),
    /// A descriptor's number, 3 or above.
    Fd(RawFd),
}

/// Who may connect to a socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnixOptions {
    /// Permission bits, at most 0777; 0600 when not given.
    pub mode: Option<u32>,
    /// Owner: a name or a number.
    pub user: Option<String>,
    /// Group: a name or a number.
    pub group: Option<String>,
}

impl FromStr for CapWord {
    type Err = SpecError;

    fn from_str(word: &str) -> Result<Self, SpecError> {
        let (name, spec) = word.split_once('=').ok_or(SpecError::NoName)?;
        if name.is_empty() {
            return Err(SpecError::NoName);
        }
        if !is_name(name) {
            return Err(SpecError::BadName);
        }
        let spec = match spec.strip_prefix("file:") {
            Some(rest) if name == "audit" => trail(rest)?,
            _ => spec.parse()?,
        };
        Ok(Self { name: name.to_owned(), spec, text: word.to_owned() })
    }
}

/// Whether a word can name a capability: the convention separates names by colons, `--cap` ends them with `=`.
pub(super) fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.chars().any(|c| c.is_control() || c == ':' || c == '=')
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        let (kind, rest) = spec.split_once(':').unwrap_or((spec, ""));
        match kind {
            "pci" => pci(rest),
            "soft" => soft(rest),
            "unix" => unix(rest),
            "tcp" => tcp(rest),
            "file" => place(rest).map(Self::File),
            _ => Err(SpecError::UnknownKind(kind.to_owned())),
        }
    }
}

impl Spec {
    /// The inherited descriptor that the SPEC takes.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Soft { source: SoftSource::Image(Place::Fd(fd)), .. }
            | Self::Unix { place: Place::Fd(fd), .. }
            | Self::Peer(Place::Fd(fd))
            | Self::Trail { place: Place::Fd(fd), .. }
            | Self::File(Place::Fd(fd)) => Some(*fd),
            _ => None,
        }
    }
}

fn pci(rest: &str) -> Result<Spec, SpecError> {
    let (address, options) =
        rest.split_once(',').map_or((rest, None), |(address, rest)| (address, Some(rest)));
    let address = pci_address(address)?;
    let mut doorbell_buffers = None;
    for word in options.into_iter().flat_map(|options| options.split(',')) {
        match word {
            "doorbell-buffers" => once(&mut doorbell_buffers, "doorbell-buffers", true)?,
            _ => return Err(SpecError::UnknownOption(word.to_owned())),
        }
    }
    Ok(Spec::Pci { address, doorbell_buffers: doorbell_buffers.is_some() })
}

/// `DDDD:BB:DD.F`, hexadecimal. The device has five bits, the function three.
fn pci_address(word: &str) -> Result<String, SpecError> {
    let parse = || {
        let (domain, rest) = word.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        hexadecimal(domain, 4)?;
        hexadecimal(bus, 2)?;
        (hexadecimal(device, 2)? < 32 && hexadecimal(function, 1)? < 8).then(|| word.to_ascii_lowercase())
    };
    parse().ok_or_else(|| SpecError::BadPci(word.to_owned()))
}

fn hexadecimal(word: &str, digits: usize) -> Option<u32> {
    let good = word.len() == digits && word.bytes().all(|b| b.is_ascii_hexdigit());
    if good { u32::from_str_radix(word, 16).ok() } else { None }
}

fn place(word: &str) -> Result<Place, SpecError> {
    if let Some(number) = word.strip_prefix("fd=") {
        let fd = decimal(number).and_then(|n| RawFd::try_from(n).ok()).filter(|fd| *fd >= 3);
        return fd.map(Place::Fd).ok_or_else(|| SpecError::BadFd(number.to_owned()));
    }
    if word.is_empty() || word.contains('\0') {
        return Err(SpecError::NoPath);
    }
    Ok(Place::Path(word.into()))
}

/// `PATH[,required]`: a path that ends like that cannot be given.
fn trail(rest: &str) -> Result<Spec, SpecError> {
    let (rest, required) = match rest.strip_suffix(",required") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    Ok(Spec::Trail { place: place(rest)?, required })
}

fn unix(rest: &str) -> Result<Spec, SpecError> {
    let mut words = rest.split(',');
    let place = place(words.next().unwrap_or_default())?;
    let mut options = UnixOptions::default();
    for word in words {
        match word.split_once('=') {
            Some(("mode", mode)) => once(&mut options.mode, "mode", check_mode(mode)?)?,
            Some(("user", user)) => once(&mut options.user, "user", not_empty("user", user)?)?,
            Some(("group", group)) => once(&mut options.group, "group", not_empty("group", group)?)?,
            _ => return Err(SpecError::UnknownOption(word.to_owned())),
        }
        if matches!(place, Place::Fd(_)) {
            let name = if options.mode.is_some() {
                "mode"
            } else if options.user.is_some() {
                "user"
            } else {
                "group"
            };
            return Err(SpecError::NotWithFd(name));
        }
    }
    Ok(Spec::Unix { place, options })
}

fn tcp(rest: &str) -> Result<Spec, SpecError> {
    let (address, public) = rest.strip_suffix(",public").map_or((rest, false), |address| (address, true));
    let parsed: SocketAddr = address.parse().map_err(|_| SpecError::BadTcp(address.to_owned()))?;
    if public || parsed.ip().is_loopback() {
        Ok(Spec::Tcp(parsed))
    } else {
        Err(SpecError::NotPublic(address.to_owned()))
    }
}

fn check_mode(word: &str) -> Result<u32, SpecError> {
    let octal = (1..=4).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit());
    let mode = if octal { u32::from_str_radix(word, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| SpecError::BadMode(word.to_owned()))
}

fn not_empty(name: &'static str, word: &str) -> Result<String, SpecError> {
    if word.is_empty() { Err(SpecError::Empty(name)) } else { Ok(word.to_owned()) }
}

fn once<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), SpecError> {
    if place.is_some() {
        return Err(SpecError::Twice(name));
    }
    *place = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn spec(word: &str) -> Result<Spec, SpecError> {
        word.parse()
    }

    pub(super) fn path(word: &str) -> Place {
        Place::Path(word.into())
    }

    #[test]
    fn a_tcp_socket_is_this_machine_s_alone_unless_it_is_said_to_be_public() {
        assert_eq!(spec("tcp:127.0.0.1:9000"), Ok(Spec::Tcp(([127, 0, 0, 1], 9000).into())));
        assert!(spec("tcp:[::1]:9000").is_ok() && spec("tcp:0.0.0.0:9000,public").is_ok());
        for (word, wrong) in [
            ("tcp:0.0.0.0:9000", SpecError::NotPublic("0.0.0.0:9000".into())),
            ("tcp:192.0.2.1:80", SpecError::NotPublic("192.0.2.1:80".into())),
            ("tcp:localhost:80", SpecError::BadTcp("localhost:80".into())),
            ("tcp:127.0.0.1", SpecError::BadTcp("127.0.0.1".into())),
            ("tcp:127.0.0.1:1,publik", SpecError::BadTcp("127.0.0.1:1,publik".into())),
        ] {
            assert_eq!(spec(word), Err(wrong));
        }
    }

    #[test]
    fn a_word_is_a_name_and_a_spec() {
        let word: CapWord = "vbus=soft:a=b.img".parse().unwrap();
        assert_eq!(word.name, "vbus");
        assert_eq!(
            word.spec,
            Spec::Soft { source: SoftSource::Image(path("a=b.img")), options: SoftOptions::default() }
        );
        assert_eq!("soft:x".parse::<CapWord>(), Err(SpecError::NoName));
        assert_eq!("=soft:x".parse::<CapWord>(), Err(SpecError::NoName));
        assert_eq!("a:b=soft:x".parse::<CapWord>(), Err(SpecError::BadName));
        assert_eq!("a\n=soft:x".parse::<CapWord>(), Err(SpecError::BadName));
        assert_eq!(format!("{}=soft:x", "n".repeat(256)).parse::<CapWord>(), Err(SpecError::BadName));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        assert_eq!(spec("nvme:x"), Err(SpecError::UnknownKind("nvme".into())));
        assert_eq!(spec(""), Err(SpecError::UnknownKind(String::new())));
        assert_eq!(spec("Soft:x"), Err(SpecError::UnknownKind("Soft".into())));
    }

    #[test]
    fn pci_addresses_are_exact() {
        let pci =
            |address: &str, doorbell_buffers| Ok(Spec::Pci { address: address.into(), doorbell_buffers });
        assert_eq!(spec("pci:0000:01:00.0"), pci("0000:01:00.0", false));
        assert_eq!(spec("pci:00AB:fF:1f.7"), pci("00ab:ff:1f.7", false));
        assert_eq!(spec("pci:0000:01:00.0,doorbell-buffers"), pci("0000:01:00.0", true));
        for (option, why) in [
            ("ro", SpecError::UnknownOption("ro".into())),
            ("", SpecError::UnknownOption(String::new())),
            ("doorbell-buffers=1", SpecError::UnknownOption("doorbell-buffers=1".into())),
            ("doorbell-buffers,doorbell-buffers", SpecError::Twice("doorbell-buffers")),
        ] {
            assert_eq!(spec(&format!("pci:0000:01:00.0,{option}")), Err(why), "{option}");
        }
        for bad in [
            "01:00.0",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "000:01:00.0",
            "0000:1:00.0",
            "0000:01:00.0x",
            "0000:01:0g.0",
            "+000:01:00.0",
            "",
            "fd=5",
        ] {
            assert_eq!(spec(&format!("pci:{bad}")), Err(SpecError::BadPci(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_descriptor_stands_in_the_place_of_a_path() {
        assert_eq!(spec("soft:fd=5").unwrap().fd(), Some(5));
        assert_eq!(spec("unix:fd=7").unwrap().fd(), Some(7));
        assert_eq!(spec("file:fd=9").unwrap().fd(), Some(9));
        assert_eq!(spec("soft:fd=5,ro").unwrap().fd(), Some(5));
        assert_eq!(spec("file:./fd=9"), Ok(Spec::File(path("./fd=9"))));
        for bad in ["", "2", "0", "-3", "+3", "x", "2147483648"] {
            assert_eq!(spec(&format!("unix:fd={bad}")), Err(SpecError::BadFd(bad.into())), "{bad}");
        }
    }

    #[test]
    fn sockets_have_a_mode_and_an_owner() {
        let options = UnixOptions { mode: Some(0o660), user: Some("kvm".into()), group: Some("107".into()) };
        assert_eq!(
            spec("unix:/run/s,mode=0660,user=kvm,group=107"),
            Ok(Spec::Unix { place: path("/run/s"), options })
        );
        assert_eq!(spec("unix:s"), Ok(Spec::Unix { place: path("s"), options: UnixOptions::default() }));
        for bad in ["", "8", "01000", "00660", "-1", "0o660", "rw"] {
            assert_eq!(spec(&format!("unix:s,mode={bad}")), Err(SpecError::BadMode(bad.into())), "{bad}");
        }
        assert_eq!(spec("unix:s,user="), Err(SpecError::Empty("user")));
        assert_eq!(spec("unix:s,mode=600,mode=600"), Err(SpecError::Twice("mode")));
        assert_eq!(spec("unix:s,ro"), Err(SpecError::UnknownOption("ro".into())));
        assert_eq!(spec("unix:fd=7,group=g"), Err(SpecError::NotWithFd("group")));
        assert_eq!(spec("unix:"), Err(SpecError::NoPath));
    }

    #[test]
    fn the_file_of_an_audit_trail_may_be_required() {
        let audit = |word: &str| format!("audit=file:{word}").parse::<CapWord>().map(|word| word.spec);
        assert_eq!(audit("/var/a"), Ok(Spec::Trail { place: path("/var/a"), required: false }));
        assert_eq!(audit("a,b,required"), Ok(Spec::Trail { place: path("a,b"), required: true }));
        assert_eq!(audit("fd=7,required").unwrap().fd(), Some(7));
        assert_eq!(audit(",required"), Err(SpecError::NoPath));
        assert_eq!("other=file:a,required".parse::<CapWord>().unwrap().spec, Spec::File(path("a,required")));
    }

    #[test]
    fn a_file_has_no_options_so_its_path_may_hold_a_comma() {
        assert_eq!(spec("file:/dev/shm/a,ro"), Ok(Spec::File(path("/dev/shm/a,ro"))));
        assert_eq!(spec("file:"), Err(SpecError::NoPath));
        assert_eq!(spec("file:a\0b"), Err(SpecError::NoPath));
    }
}
