//! What clients and operators write.

use nvme_policy::{
    Access, BlockSize, Ceiling, CommandLine, Dataspaces, DeviceName, Dialect, Extent, FactoryRequest,
    Identity, Namespace, NotConfined, PartitionId, PartitionIdentity, Policy, SessionRequest, Trusted,
};

/// Nothing that is not printable reaches a terminal or a log.
fn printable(message: &impl ToString) {
    let message = message.to_string();
    assert!(!message.chars().any(char::is_control) && message.len() < 500, "{message:?}");
}

/// Words of `create()`, separated by NUL.
pub fn policy_words(data: &[u8]) {
    let words = || data.split(|&b| b == 0);
    let count = |word: &[u8]| words().filter(|w| w.starts_with(word)).count();
    match Policy::from_words(words()) {
        Ok(policy) => {
            let (device, ds_max, read_only) = (count(b"device="), count(b"ds-max="), count(b"read-only"));
            assert!(device == 1 && ds_max <= 1 && read_only <= 1);
            let others = count(b"iops=") + count(b"bytes=") + count(b"name=");
            assert_eq!(device + ds_max + read_only + others, words().count());
            assert_eq!(policy.access() == Access::ReadOnly, read_only == 1);
            assert!((1..=256).contains(&policy.ds_max().get()));
            printable(policy.device());
        }
        Err(refusal) => printable(&refusal),
    }
}

/// Words of `create()` for a factory and then, behind an empty word, of a session or factory that is asked for there: it has no more.
pub fn factory_words(data: &[u8]) {
    let names = ["one", "two", "three"];
    let trusted = |held| Trusted { names: &names, held };
    let mut words = data.split(|&b| b == 0);
    let first: Vec<&[u8]> = words.by_ref().take_while(|word| !word.is_empty()).collect();
    let second: Vec<&[u8]> = words.collect();
    let all = trusted(Dataspaces::ALL);
    let made = FactoryRequest::from_words(first, &all).and_then(|asked| {
        assert!((1..=16).contains(&asked.devices().len()));
        Ceiling::SERVER.below(&asked)
    });
    let ceiling = match made {
        Ok(ceiling) => ceiling,
        Err(refusal) => return printable(&refusal),
    };
    let held = trusted(ceiling.dataspaces());
    match SessionRequest::from_words(second.iter().copied(), &held).and_then(|asked| ceiling.admit(&asked)) {
        Ok(policy) => assert!(ceiling.holds(&policy)),
        Err(refusal) => printable(&refusal),
    }
    let below =
        FactoryRequest::from_words(second.iter().copied(), &held).and_then(|asked| ceiling.below(&asked));
    match below {
        Ok(below) => assert_eq!(below.meet(&ceiling), below),
        Err(refusal) => printable(&refusal),
    }
}

/// A home that takes all options.
const ALL: Dialect = Dialect {
    options: &[
        "cap",
        "poll-us",
        "workers",
        "mem-max",
        "sessions-max",
        "help",
        "version",
        "blk-file",
        "socket-path",
        "fd",
        "read-only",
        "print-capabilities",
    ],
    reserved: &["ctl"],
};

/// Arguments, separated by NUL. A home refuses the options that it does not have; all else is the same.
pub fn command_line(data: &[u8]) {
    let args = || data.split(|&b| b == 0);
    let all = CommandLine::parse(args(), ALL);
    match &all {
        Ok(line) => {
            let names = line.clients.iter().map(|client| client.cap).chain(line.trusted.iter().copied());
            let mut names: Vec<_> = names.collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
            assert!(line.extra.backend.is_none() || line.clients.is_empty());
            assert!(line.clients.iter().all(|client| (1..=256).contains(&client.policy.ds_max().get())));
        }
        Err(error) => printable(error),
    }
    match CommandLine::parse(args(), Dialect::COMMON) {
        Ok(line) => {
            assert!(line.ask.is_none() && line.extra == Default::default());
            // A client may have the name `ctl` here.
            if let Ok(all) = all {
                assert_eq!(line, all);
            }
        }
        Err(error) => printable(&error),
    }
}

/// A word, and a partition whose label and whose controller's serial number it is: it names one of the two at most.
pub fn device_name(data: &[u8]) {
    let Ok(word) = core::str::from_utf8(data) else { return };
    let id = PartitionId::Mbr { disk: 0xffff_fffe, number: 255 };
    let labelled = PartitionIdentity { number: 1, id, label: word };
    let by_label = Identity { serial: "", place: None, nsid: 1, partition: Some(labelled) };
    match DeviceName::parse(word) {
        Ok(name) => {
            printable(&name);
            if name.matches(&by_label) {
                assert!(PartitionId::parse(word).is_none());
                assert!(!word.starts_with("partuuid:") && !word.starts_with("partlabel:"));
            }
            // Without what is escaped for the eye, a name that is shown can be typed.
            let shown = name.to_string();
            if shown.is_ascii() && !shown.contains("\\u{") {
                assert_eq!(DeviceName::parse(&shown).as_ref(), Ok(&name));
            }
        }
        Err(why) => printable(&why),
    }
}

/// Numbers for an extent and a request: the request lies inside, or is refused.
pub fn extent(data: &[u8]) {
    let mut numbers = data.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap_or_default()));
    let mut number = || numbers.next().unwrap_or_default();
    let size = if number() & 1 == 0 { BlockSize::B512 } else { BlockSize::B4096 };
    let namespace = Namespace { controller: 0, nsid: 1 };
    let Some(whole) = Extent::whole(namespace, number(), size) else { return };
    let extent = whole.part(number(), number()).unwrap_or(whole);
    let bytes_of = |first: u64, blocks: u64| {
        let first = u128::from(first) << size.shift();
        first..first + (u128::from(blocks) << size.shift())
    };
    let (disk, inner) = (bytes_of(0, whole.blocks()), bytes_of(extent.first(), extent.blocks()));
    assert!(inner.start < inner.end && inner.end <= disk.end && whole.overlaps(&extent));
    let (sector, bytes) = (number(), number());
    let start = inner.start + u128::from(sector) * 512;
    let asked = start..start + u128::from(bytes);
    match extent.confine(sector, bytes) {
        Ok(range) => {
            assert_eq!(bytes_of(range.first(), range.blocks()), asked);
            assert!(asked.end <= inner.end && bytes > 0);
            let (first, blocks) = (range.first(), range.blocks());
            if let Ok((a, b)) = range.split_at(number()) {
                assert!(a.first() == first && b.first() == first + a.blocks());
                assert!(a.blocks() > 0 && b.blocks() > 0 && a.blocks() + b.blocks() == blocks);
            }
        }
        Err(NotConfined::Empty) => assert_eq!(bytes, 0),
        Err(NotConfined::Outside) => assert!(asked.end > inner.end),
        Err(NotConfined::Misaligned) => assert!((asked.start | asked.end) % u128::from(size.bytes()) != 0),
    }
}
