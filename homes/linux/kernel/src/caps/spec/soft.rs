//! The words of a software controller: `soft:IMAGE[,…]`, `soft:mem:SIZE[,…]`.

use std::str::FromStr;

use super::{Place, Spec, once, place};
use crate::caps::SpecError;
use crate::storage::Engine;

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
pub(super) fn decimal(word: &str) -> Option<u64> {
    if word.bytes().all(|b| b.is_ascii_digit()) { word.parse().ok() } else { None }
}

pub(super) fn soft(rest: &str) -> Result<Spec, SpecError> {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{path, spec};
    use super::*;

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
}
