//! What the command line gives to tenants: factories, and of trusted memory a part.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::message::RegionWords;
use nvme_client::{Client, Error, Factory, Options, socket};
use nvme_linux::socket::{Kind, ListenSpec};

use crate::disk;
use crate::server::{Bench, WAIT, wait_until};

const EACCES: i32 = -13;
const ENODEV: i32 = -19;

fn tenant(bench: &Bench, name: &str) -> Factory {
    Factory::connect_retry(bench.path(name), WAIT).unwrap()
}

fn code(reply: nvme_client::Result<OwnedFd>) -> i32 {
    match reply {
        Err(Error::Create { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tenant_of_the_command_line_has_what_its_factory_holds_and_nobody_needs_svr() {
    let bench = Bench::new();
    let (disk, socket) = (bench.disk(), bench.socket("blue"));
    let words = "--factory blue --device partlabel:attack --device partlabel:after --readonly --ds-max 4 --sessions 2 \
                 --factories 1 --iops 1000 --bytes 1M --iops-all 2000 --bytes-all 2M";
    let words: Vec<&str> = [disk.as_str(), &socket].into_iter().chain(words.split_whitespace()).collect();
    let mut server = bench.start(&words, &[], &[]);
    let blue = tenant(&bench, "blue");
    let words = ["device=attack", "read-only", "ds-max=4"];
    let mut client = Client::from_fd(blue.create(&words, None).unwrap(), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert!(client.write(0, &[0; 512]).is_err(), "it is read-only");
    for more in [
        &["device=attack"][..],
        &["device=before", "read-only"],
        &["device=SN 1:2:n1", "read-only"],
        &["device=after", "read-only", "ds-max=5"],
        &["device=after", "read-only", "iops=1001"],
        &["device=after", "read-only", "bytes=2M"],
    ] {
        assert_eq!(code(blue.create(more, None)), EACCES, "{more:?}");
    }
    let listing = blue.list().unwrap();
    for there in [
        "\"name\":\"blue\"",
        "\"sessions_max\":2",
        "\"factories_max\":1",
        "\"iops\":1000",
        "\"bytes_all\":2097152",
    ] {
        assert!(listing.contains(there), "{there} in {listing}");
    }
    // It lasts: whoever comes later has it, too.
    drop((client, blue));
    drop(tenant(&bench, "blue").create(&["device=after", "read-only"], None).unwrap());
    server.says("blue");
    assert_eq!(server.stop(), 0);
    assert!(!server.said().contains("anomal"), "{}", server.said());
}

#[test]
fn a_factory_s_socket_comes_by_the_socket_activation_convention() {
    let bench = Bench::new();
    let path = bench.path("t").display().to_string();
    let office = ListenSpec::parse(&path).unwrap().listen(Kind::SeqPacket).unwrap();
    let disk = bench.disk();
    let words = [disk.as_str(), "--factory", "tenant", "--device", "attack"];
    let mut server = bench.start(&words, &[("tenant", office.as_fd())], &[]);
    let session = tenant(&bench, "t").create(&["device=attack"], None).unwrap();
    Client::from_fd(session, &Options::default()).unwrap().write(0, &[7; 512]).unwrap();
    assert_eq!(server.stop(), 0);
}

/// A whole-disk writer makes the partition that a factory waits for; and what has its name afterwards is none of it.
#[test]
fn a_device_that_is_absent_is_warned_of_and_had_when_it_appears() {
    let bench = Bench::new();
    let socket = bench.socket("t");
    let words = [socket.as_str(), "--factory", "t", "--device", "later", "--device", "attack"];
    let mut server = bench.serve(&words);
    let t = tenant(&bench, "t");
    assert_eq!(code(t.create(&["device=later"], None)), ENODEV);
    server.says("no such device: partlabel:later; it can be had when that changes");
    drop(t.create(&["device=attack"], None).unwrap());
    let rewrite = |labels| {
        let session = bench.create(&["device=SN 1:2:n1"]);
        let mut client = Client::from_fd(session, &Options::default()).unwrap();
        for (at, chunk) in disk::image_of(512, labels).chunks(64 << 10).enumerate() {
            client.write(at as u64 * 128, chunk).unwrap();
        }
    };
    rewrite(["before", "attack", "later", "bystander"]);
    server.says("partlabel:later is there, and can be had");
    let at = |session: OwnedFd| {
        let mut bytes = vec![0; 4096];
        Client::from_fd(session, &Options::default()).unwrap().read(0, &mut bytes).unwrap();
        bytes
    };
    assert!(at(t.create(&["device=later"], None).unwrap()) == disk::pattern(3 * disk::PART, 4096));
    rewrite(["later", "attack", "other", "bystander"]);
    let mut session = None;
    wait_until("the blocks that it was bound to", || {
        session = t.create(&["device=later"], None).ok();
        session.is_some()
    });
    assert!(at(session.unwrap()) == disk::pattern(3 * disk::PART, 4096));
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_is_wrong_of_a_factory_or_a_dataspace_is_said_by_name_before_anything_is_served() {
    let bench = Bench::new();
    std::fs::write(bench.path("ram"), [0; 4096]).unwrap();
    let (disk, svr, t) = (bench.disk(), bench.socket("svr"), bench.socket("t"));
    let ram = format!("--cap=ram=file:{}", bench.path("ram").display());
    for (words, named) in [
        (&["--factory", "t"][..], "t"),
        (&["--factory", "t", "--device", "attack", "--ds", "ram"], "--ds \"ram\""),
        (&["--factory", "t", "--device", "attack", "-d", "ram", "--ds", "rom"], "--ds \"rom\""),
        (&["--factory", "t", "--device", "attack", "--sessions", "0"], "--sessions \"0\""),
        (&["--factory", "t", "--device", "attack", "--device", "attack"], "\"attack\": said twice"),
        (
            &["--factory", "t", "--device", "attack", "--factory", "t", "--device", "after"],
            "\"t\": said twice",
        ),
        (
            &["--factory", "t", "--device", "attack", "--factory", "u", "--device", "x"],
            "capability `u` is missing",
        ),
        (&["--factory", "u", "--device", "attack"], "capability `t` is not used"),
        (
            &["--factory", "t", "--device", "attack", "--client", "c", "--device", "x"],
            "capability `c` is missing",
        ),
        (&["--client", "t", "--device", "attack", "--ds", "rom"], "--ds \"rom\""),
        (&["--client", "t", "--device", "attack", "--sessions", "2"], "--sessions"),
        (&["--sessions", "2"], "--sessions"),
        (&["--ds", "ram"], "--ds"),
    ] {
        let mut all = vec![disk.as_str(), &svr, &t];
        all.extend(words.iter().copied());
        if words.contains(&"ram") && words.contains(&"-d") {
            all.push(&ram);
        }
        let mut server = bench.start(&all, &[], &[]);
        assert_eq!(server.wait(), 2, "{words:?}: {}", server.said());
        assert!(server.said().contains(named), "{words:?}: {}", server.said());
        assert!(!bench.path("svr").exists() && !bench.path("t").exists(), "{words:?}: it served");
    }
}

/// Memory files `one`, `two` and `three`, all trusted; the first also under another name.
struct Memory {
    caps: Vec<String>,
    files: Vec<OwnedFd>,
}

const LEN: u64 = 1 << 16;

impl Memory {
    fn new(bench: &Bench) -> Self {
        let mut memory = Self { caps: Vec::new(), files: Vec::new() };
        for name in ["one", "two", "three"] {
            let path = bench.path(name);
            std::fs::write(&path, [0; LEN as usize]).unwrap();
            memory.files.push(File::options().read(true).write(true).open(&path).unwrap().into());
            memory.caps.push(format!("--cap={name}=file:{}", path.display()));
        }
        memory.caps.push(format!("--cap=alias=file:{}", bench.path("one").display()));
        memory
    }

    /// Which of the files that session registers; and nothing else.
    fn taken_by(&self, session: OwnedFd) -> Vec<usize> {
        let options = Options { scratch: 0, queues: 0, ..Options::default() };
        let client = Client::negotiate(session, nvme_client::Memory::new(), &options).unwrap();
        let takes = |file: &OwnedFd| {
            let words = RegionWords { guest: 0, size: LEN, user: 1 << 40, offset: 0 };
            let taken = client.front.add_mem_reg(words, file.as_fd()).is_ok();
            if taken {
                client.front.rem_mem_reg(words).unwrap();
            }
            taken
        };
        assert!(!takes(&nvme_client::memfd(LEN, false).unwrap()), "it is none of the trusted ones");
        (0..self.files.len()).filter(|at| takes(&self.files[*at])).collect()
    }
}

#[test]
fn a_static_client_and_a_tenant_register_the_dataspaces_that_they_were_given() {
    let bench = Bench::new();
    let memory = Memory::new(&bench);
    let (c, d, t) = (bench.socket("c"), bench.socket("d"), bench.socket("t"));
    let mut words: Vec<&str> = memory.caps.iter().map(String::as_str).collect();
    // Named before it is trusted; and by the other name of a file.
    words.extend(["--client", "c", "--device", "attack", "--ds", "two", "--ds-max", "9"]);
    words.extend(["--client", "d", "--device", "after", "--ds", "alias"]);
    words.extend(["-d", "one", "-d", "two", "-d", "three", "-d", "alias"]);
    words.extend(["--factory", "t", "--device", "before", "--ds", "alias", "--ds", "three"]);
    words.extend([c.as_str(), &d, &t]);
    let mut server = bench.serve(&words);
    let connected = |name: &str| {
        // It is there a moment before anybody listens.
        socket::connect_retry(&bench.path(name), WAIT).unwrap()
    };
    assert_eq!(memory.taken_by(connected("c")), [1]);
    assert_eq!(memory.taken_by(connected("d")), [0], "a file is trusted by all of its names");
    let t = tenant(&bench, "t");
    let mint = |words: &[&str]| {
        t.create(&[&["device=before", "read-only"], words].concat(), None)
            .map(|session| memory.taken_by(session))
    };
    assert_eq!(mint(&[]).unwrap(), [0, 2]);
    assert_eq!(mint(&["ds=three"]).unwrap(), [2]);
    assert_eq!(mint(&["ds=alias"]).unwrap(), [0]);
    // By the name that it was given, and none else: one answer for what there is and what there is not.
    let said = |words: &[&str]| match mint(words) {
        Err(Error::Create { code, message }) => (code, message),
        other => panic!("{other:?}"),
    };
    let (code, message) = said(&["ds=one"]);
    assert_eq!(code, EACCES);
    for name in ["two", "four", "Three", "three ", "alia"] {
        let (code, other) = said(&[&format!("ds={name}")]);
        assert_eq!((code, other.replace(name, "one")), (EACCES, message.clone()));
    }
    // The server's own holds all of it.
    let own = bench.create(&["device=before", "read-only", "ds=one", "ds=two"]);
    assert_eq!(memory.taken_by(own), [0, 1]);
    assert_eq!(server.stop(), 0);
}

/// A factory eight deep costs what the server's own does, and nobody is slow: printed, and held in one run, each the best of many.
#[test]
fn a_session_through_a_factory_eight_deep_costs_at_most_a_fifth_more() {
    let bench = Bench::new();
    let mut server = bench.serve(&["-q"]);
    let own = bench.factory();
    let mut chain: Vec<(Factory, OwnedFd)> = Vec::new();
    for depth in 0..8 {
        let words = ["device=attack", "read-only", &format!("factories={}", 7 - depth)];
        let maker = chain.last().map_or(&own, |(factory, _)| factory);
        let [factory, lifetime] =
            <[OwnedFd; 2]>::try_from(maker.request("factory", &words, None).unwrap().fds).unwrap();
        chain.push((Factory::from_fd(factory, WAIT), lifetime));
    }
    let deep = &chain[7].0;
    let round = |factory: &Factory| {
        let begun = Instant::now();
        for _ in 0..4 {
            drop(factory.create(&["device=attack", "read-only"], None).unwrap());
        }
        begun.elapsed() / 4
    };
    let mut best = [Duration::MAX; 2];
    let ratio = |best: [Duration; 2]| best[1].as_secs_f64() / best[0].as_secs_f64();
    // More rounds only where the machine was busy.
    for at in 0..20_000 {
        best = [best[0].min(round(&own)), best[1].min(round(deep))];
        if at >= 200 && ratio(best) <= 1.2 {
            break;
        }
    }
    let a_second = 1.0 / best[0].as_secs_f64();
    println!(
        "create and close: {:?} at svr ({a_second:.0} a second), {:?} eight deep: {:.2}",
        best[0],
        best[1],
        ratio(best)
    );
    assert!(ratio(best) <= 1.2, "{best:?}");
    assert_eq!(server.stop(), 0);
}
