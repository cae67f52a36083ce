//! The words of `--cap`: `NAME=SPEC`.
//!
//! ```text
//! pci:DDDD:BB:DD.F
//! soft:IMAGE[,serial=SN][,lba=512|4096][,ro][,engine=auto|window|uring|threads][,preallocate][,pin]
//! soft:mem:SIZE[,…]
//! unix:PATH[,mode=0660][,user=U][,group=G]
//! file:PATH
//! ```
//!
//! `fd=N` stands in the place of a path. A path that begins like something else is written with `./`; one with a
//! comma in it cannot be given, except to `file:`, which has no options.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use super::SpecError;
use crate::storage::Engine;

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
    /// A PCI function, as `DDDD:BB:DD.F` in lower case.
    Pci(String),
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
    /// A memory file.
    File(Place),
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

/// What a software controller serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SoftSource {
    /// An image file or a block device.
    Image(Place),
    /// Memory that is zero at the start, of so many bytes: a whole number of blocks.
    Memory(u64),
}

/// How a software controller presents itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SoftOptions {
    /// Serial number: 1 to 20 printable ASCII characters, no space at either end.
    pub serial: Option<String>,
    /// Block size in bytes: 512 or 4096. When not given: that of a block device, else 512.
    pub lba: Option<u32>,
    /// The image is opened for reading only.
    pub read_only: bool,
    /// Who reaches the image.
    pub engine: Option<Engine>,
    /// Space for all of it is taken at start.
    pub preallocate: bool,
    /// Client memory is pinned, and known to the rings as it was then.
    pub pin: bool,
}

impl SoftOptions {
    /// The block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.lba.unwrap_or(512)
    }
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

/// A number of bytes, with a suffix K, M, G or T (powers of 1024, either case).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = SpecError;

    fn from_str(word: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::BadSize(word.to_owned());
        let (digits, shift) = match word.chars().last() {
            Some('k' | 'K') => (word.get(..word.len() - 1), 10),
            Some('m' | 'M') => (word.get(..word.len() - 1), 20),
            Some('g' | 'G') => (word.get(..word.len() - 1), 30),
            Some('t' | 'T') => (word.get(..word.len() - 1), 40),
            _ => (Some(word), 0),
        };
        let number: u64 = decimal(digits.ok_or_else(bad)?).ok_or_else(bad)?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

/// Digits only: `parse` alone would take a sign.
fn decimal(word: &str) -> Option<u64> {
    if word.bytes().all(|b| b.is_ascii_digit()) { word.parse().ok() } else { None }
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
        Ok(Self { name: name.to_owned(), spec: spec.parse()?, text: word.to_owned() })
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
            "pci" => pci(rest).map(Self::Pci),
            "soft" => soft(rest),
            "unix" => unix(rest),
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
            | Self::File(Place::Fd(fd)) => Some(*fd),
            _ => None,
        }
    }
}

/// `DDDD:BB:DD.F`, hexadecimal. The device has five bits, the function three.
fn pci(word: &str) -> Result<String, SpecError> {
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

fn soft(rest: &str) -> Result<Spec, SpecError> {
    let mut words = rest.split(',');
    let first = words.next().unwrap_or_default();
    let mut options = SoftOptions::default();
    for word in words {
        match word.split_once('=') {
            Some(("serial", serial)) => once(&mut options.serial, "serial", check_serial(serial)?)?,
            Some(("lba", "512")) => once(&mut options.lba, "lba", 512)?,
            Some(("lba", "4096")) => once(&mut options.lba, "lba", 4096)?,
            Some(("lba", other)) => return Err(SpecError::BadLba(other.to_owned())),
            None if word == "ro" && options.read_only => return Err(SpecError::Twice("ro")),
            None if word == "ro" => options.read_only = true,
            Some(("engine", word)) => {
                let engine = Engine::from_word(word).ok_or_else(|| SpecError::BadEngine(word.to_owned()))?;
                once(&mut options.engine, "engine", engine)?;
            }
            None if word == "preallocate" && options.preallocate => {
                return Err(SpecError::Twice("preallocate"));
            }
            None if word == "preallocate" => options.preallocate = true,
            None if word == "pin" && options.pin => return Err(SpecError::Twice("pin")),
            None if word == "pin" => options.pin = true,
            _ if matches!(word, "read-only" | "readonly" | "--readonly" | "--read-only" | "read_only") => {
                return Err(SpecError::MeantRo(word.to_owned()));
            }
            _ => return Err(SpecError::UnknownOption(word.to_owned())),
        }
    }
    let source = match first.strip_prefix("mem:") {
        Some(size) => {
            let (Size(size), block) = (size.parse()?, options.block_size());
            if options.engine.is_some() || options.preallocate || options.pin {
                return Err(SpecError::NotOfMemory);
            }
            if size == 0 || size % u64::from(block) != 0 {
                return Err(SpecError::BadMemorySize { size, block });
            }
            SoftSource::Memory(size)
        }
        None => SoftSource::Image(place(first)?),
    };
    Ok(Spec::Soft { source, options })
}

fn check_serial(word: &str) -> Result<String, SpecError> {
    // NVM Express Base 2.0, figure 275, Serial Number: 20 bytes of ASCII, padded with spaces.
    let good = (1..=20).contains(&word.len())
        && word.bytes().all(|b| (0x20..0x7f).contains(&b))
        && word.trim_matches(' ') == word;
    if good { Ok(word.to_owned()) } else { Err(SpecError::BadSerial(word.to_owned())) }
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

    fn spec(word: &str) -> Result<Spec, SpecError> {
        word.parse()
    }

    fn path(word: &str) -> Place {
        Place::Path(word.into())
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
        assert_eq!(spec("pci:0000:01:00.0"), Ok(Spec::Pci("0000:01:00.0".into())));
        assert_eq!(spec("pci:00AB:fF:1f.7"), Ok(Spec::Pci("00ab:ff:1f.7".into())));
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
            "0000:01:00.0,ro",
        ] {
            assert_eq!(spec(&format!("pci:{bad}")), Err(SpecError::BadPci(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_software_controller_has_its_options_in_any_order() {
        let options = SoftOptions {
            serial: Some("AB 12".into()),
            lba: Some(4096),
            read_only: true,
            engine: Some(Engine::Threads),
            preallocate: true,
            pin: true,
        };
        let wanted = Ok(Spec::Soft { source: SoftSource::Image(path("/d/i.img")), options });
        assert_eq!(spec("soft:/d/i.img,serial=AB 12,lba=4096,ro,engine=threads,preallocate,pin"), wanted);
        assert_eq!(spec("soft:/d/i.img,pin,preallocate,engine=threads,ro,lba=4096,serial=AB 12"), wanted);
        assert_eq!(spec("soft:x,ro,ro"), Err(SpecError::Twice("ro")));
        assert_eq!(spec("soft:x,lba=512,lba=4096"), Err(SpecError::Twice("lba")));
        assert_eq!(spec("soft:x,serial=a,serial=a"), Err(SpecError::Twice("serial")));
        assert_eq!(spec("soft:x,lba=1024"), Err(SpecError::BadLba("1024".into())));
        assert_eq!(spec("soft:x,preallocate,preallocate"), Err(SpecError::Twice("preallocate")));
        assert_eq!(spec("soft:x,pin,ro,pin"), Err(SpecError::Twice("pin")));
        assert_eq!(spec("soft:mem:1M,pin"), Err(SpecError::NotOfMemory));
        assert_eq!(spec("soft:x,engine=aio"), Err(SpecError::BadEngine("aio".into())));
        assert_eq!(spec("soft:mem:1M,engine=uring"), Err(SpecError::NotOfMemory));
        for engine in [Engine::Auto, Engine::Window, Engine::Uring, Engine::Threads] {
            assert!(spec(&format!("soft:x,engine={}", engine.word())).is_ok());
        }
        for word in ["read-only", "readonly", "--readonly"] {
            let error = spec(&format!("soft:x,{word}")).unwrap_err();
            assert_eq!(error, SpecError::MeantRo(word.into()));
            assert!(error.to_string().ends_with("did you mean ro?"));
        }
        assert_eq!(spec("soft:x,rw"), Err(SpecError::UnknownOption("rw".into())));
        assert_eq!(spec("soft:x,ro=1"), Err(SpecError::UnknownOption("ro=1".into())));
        assert_eq!(spec("soft:x,"), Err(SpecError::UnknownOption(String::new())));
        assert_eq!(spec("soft:"), Err(SpecError::NoPath));
        assert_eq!(spec("soft"), Err(SpecError::NoPath));
    }

    #[test]
    fn serial_numbers_fit_the_controllers_field() {
        for bad in ["", " a", "a ", "123456789012345678901", "ä", "a\tb"] {
            assert_eq!(
                spec(&format!("soft:x,serial={bad}")),
                Err(SpecError::BadSerial(bad.into())),
                "{bad:?}"
            );
        }
        assert!(spec("soft:x,serial=12345678901234567890").is_ok());
        assert!(spec("soft:x,serial=a:b=c").is_ok());
    }

    #[test]
    fn memory_disks_are_a_whole_number_of_blocks() {
        let memory = |word: &str| match spec(word).unwrap() {
            Spec::Soft { source: SoftSource::Memory(size), .. } => size,
            other => panic!("{other:?}"),
        };
        assert_eq!(memory("soft:mem:512"), 512);
        assert_eq!(memory("soft:mem:64K"), 65536);
        assert_eq!(memory("soft:mem:3m,lba=4096"), 3 << 20);
        assert_eq!(memory("soft:mem:2G"), 2 << 30);
        assert_eq!(spec("soft:mem:0"), Err(SpecError::BadMemorySize { size: 0, block: 512 }));
        assert_eq!(spec("soft:mem:513"), Err(SpecError::BadMemorySize { size: 513, block: 512 }));
        assert_eq!(spec("soft:mem:512,lba=4096"), Err(SpecError::BadMemorySize { size: 512, block: 4096 }));
        assert_eq!(
            spec("soft:./mem:x"),
            spec("soft:./mem:x,lba=512").map(|_| Spec::Soft {
                source: SoftSource::Image(path("./mem:x")),
                options: SoftOptions::default()
            })
        );
    }

    #[test]
    fn sizes_do_not_wrap_and_have_no_sign() {
        assert_eq!("1T".parse(), Ok(Size(1 << 40)));
        assert_eq!("16777215T".parse(), Ok(Size(16_777_215 << 40)));
        for bad in ["", "K", "-1", "+1", "1 K", "1KB", "0x10", "16777216T", "18446744073709551616", "1é", "é"]
        {
            assert_eq!(bad.parse::<Size>(), Err(SpecError::BadSize(bad.into())), "{bad}");
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
    fn a_file_has_no_options_so_its_path_may_hold_a_comma() {
        assert_eq!(spec("file:/dev/shm/a,ro"), Ok(Spec::File(path("/dev/shm/a,ro"))));
        assert_eq!(spec("file:"), Err(SpecError::NoPath));
        assert_eq!(spec("file:a\0b"), Err(SpecError::NoPath));
    }
}
