//! Tests of [`super`].

use std::fs::File;
use std::os::unix::net::UnixListener;

use super::*;
use crate::caps::NamedFd;
use crate::socket::ListenSpec;

#[derive(Default)]
struct Given {
    listen: Vec<NamedFd>,
    words: Vec<(RawFd, OwnedFd)>,
    other_pid: Option<u32>,
    caps: Vec<CapWord>,
    clients: Vec<String>,
    factories: Vec<String>,
    dataspaces: Vec<String>,
}

impl Given {
    fn named(mut self, name: &str, fd: impl Into<OwnedFd>) -> Self {
        self.listen.push(NamedFd { name: name.into(), fd: fd.into() });
        self
    }
    fn inherited(mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Self {
        self.words.push((number, fd.into()));
        self
    }
    fn cap(mut self, word: &str) -> Self {
        self.caps.push(word.parse().unwrap());
        self
    }
    fn client(mut self, name: &str) -> Self {
        self.clients.push(name.into());
        self
    }
    fn factory(mut self, name: &str) -> Self {
        self.factories.push(name.into());
        self
    }
    fn dataspace(mut self, name: &str) -> Self {
        self.dataspaces.push(name.into());
        self
    }
    fn gather(self) -> Result<Capabilities, CapError> {
        let inherited = Inherited {
            listen: self.listen,
            words: self.words,
            other_pid: self.other_pid,
            handed: Vec::new(),
        };
        Capabilities::gather(
            inherited,
            self.caps,
            &Wanted { clients: &self.clients, factories: &self.factories, dataspaces: &self.dataspaces },
        )
    }
    fn refusal(self) -> String {
        self.gather().unwrap_err().to_string()
    }
}

fn disk() -> Given {
    Given::default().cap("vbus=soft:mem:1M")
}

fn server() -> Given {
    disk().cap("svr=unix:/run/x/svr")
}

fn image() -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    (file, path)
}

fn stream() -> UnixListener {
    let folder = tempfile::tempdir().unwrap();
    UnixListener::bind(folder.path().join("s")).unwrap()
}

fn seqpacket() -> OwnedFd {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    ListenSpec { path, mode: 0o600, user: None, group: None }.listen(Kind::SeqPacket).unwrap()
}

fn serial(capabilities: &Capabilities, index: usize) -> &str {
    match &capabilities.controllers[index].kind {
        ControllerKind::Soft { serial, .. } => serial,
        ControllerKind::Pci { address, .. } => address,
    }
}

fn is_read_only(capabilities: &Capabilities, index: usize) -> bool {
    matches!(&capabilities.controllers[index].kind, ControllerKind::Soft { read_only: true, .. })
}

#[test]
fn controllers_come_in_order_with_serials_of_their_own() {
    let (file, path) = image();
    let capabilities = server()
        .named("vbus", file.reopen().unwrap())
        .cap("vbus=pci:0000:01:00.0")
        .cap(&format!("vbus=soft:{path},serial=MINE,lba=4096"))
        .cap("vbus=soft:mem:1M,ro")
        .gather()
        .unwrap();
    let serials: Vec<_> = (0..5).map(|index| serial(&capabilities, index)).collect();
    assert_eq!(serials, ["soft0", "soft1", "0000:01:00.0", "MINE", "soft3"]);
    assert!(!is_read_only(&capabilities, 3) && is_read_only(&capabilities, 4));
}

#[test]
fn two_controllers_with_one_serial_are_refused() {
    let given = server().cap("vbus=soft:mem:1M,serial=soft0");
    assert_eq!(
        given.refusal(),
        "vbus=soft:mem:1M and vbus=soft:mem:1M,serial=soft0 have the same serial number `soft0`: give one of them another (serial=SN)"
    );
}

#[test]
fn an_image_that_is_open_for_reading_only_is_read_only() {
    let (file, path) = image();
    let read = File::open(file.path()).unwrap();
    assert!(is_read_only(&server().named("vbus", read).gather().unwrap(), 0));
    let capabilities = server()
        .cap("vbus=soft:fd=9,ro")
        .inherited(9, file.reopen().unwrap())
        .cap(&format!("vbus=soft:{path},ro"))
        .gather()
        .unwrap();
    assert!(is_read_only(&capabilities, 1) && is_read_only(&capabilities, 2));
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    assert_eq!(
        server().named("vbus", writer).refusal(),
        "capability `vbus`: it is a pipe, and must be a PCI function, an image file or a block device: pci:DDDD:BB:DD.F or soft:IMAGE"
    );
    assert!(server().cap("vbus=soft:/dev/null").refusal().contains("it is a character device"));
    assert!(
        server()
            .cap("vbus=soft:/no/such/image")
            .refusal()
            .contains("cannot open /no/such/image: No such file")
    );
    assert!(server().cap("vbus=unix:/run/s").refusal().contains("it is a socket (unix:)"));
}

#[test]
fn a_fifo_in_the_place_of_an_image_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let given = server().cap(&format!("vbus=soft:{}", path.display()));
    assert!(given.refusal().contains("it is a pipe"));
}

#[test]
fn sockets_are_made_later_or_checked_now() {
    let capabilities = disk()
        .cap("svr=unix:/run/x/svr,mode=0660,group=0")
        .cap("c1=unix:fd=7")
        .inherited(7, stream())
        .client("c1")
        .named("ctl", stream())
        .gather()
        .unwrap();
    let svr = capabilities.svr.unwrap();
    let wanted = ListenSpec { path: "/run/x/svr".into(), mode: 0o660, user: None, group: Some(0) };
    assert!(matches!(svr.kind, ListenerKind::Make(spec) if spec == wanted));
    assert_eq!(svr.socket, Kind::SeqPacket);
    assert_eq!(capabilities.clients[0].socket, Kind::Stream);
    assert_eq!(capabilities.ctl.unwrap().socket, Kind::Stream);
}

#[test]
fn an_inherited_socket_becomes_non_blocking() {
    let capabilities = disk().client("c").named("c", stream()).gather().unwrap();
    let socket = capabilities.clients.into_iter().next().unwrap().open().unwrap();
    assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn sockets_of_the_wrong_type_are_refused_by_name() {
    assert_eq!(
        disk().named("svr", stream()).refusal(),
        "capability `svr`: it is an AF_UNIX SOCK_STREAM socket that listens, and must be a listening AF_UNIX \
         SOCK_SEQPACKET socket: unix:PATH"
    );
    let (file, _) = image();
    assert!(disk().client("c").named("c", file.into_file()).refusal().contains("it is a file, and must be"));
    assert!(server().named("ctl", seqpacket()).refusal().contains("must be a listening AF_UNIX SOCK_STREAM"));
    assert!(disk().client("c").cap("c=file:/dev/shm/x").refusal().contains("a memory file (file:)"));
}

#[test]
fn an_unknown_owner_is_refused() {
    let given = disk().cap("svr=unix:/run/s,user=no-such-user");
    assert!(given.refusal().contains("there is no user `no-such-user`"));
}

#[test]
fn dataspaces_are_opened_and_a_name_given_twice_is_one() {
    let (file, path) = image();
    let capabilities = server()
        .dataspace("ram")
        .dataspace("rom")
        .dataspace("ram")
        .cap(&format!("ram=file:{path}"))
        .named("rom", File::open(file.path()).unwrap())
        .gather()
        .unwrap();
    let names: Vec<_> = capabilities.dataspaces.iter().map(|d| (d.name.as_str(), d.writable)).collect();
    assert_eq!(names, [("ram", true), ("rom", false)]);
    assert!(server().dataspace("d").cap("d=file:/tmp").refusal().contains("d`: "));
}

#[test]
fn what_nobody_uses_is_refused_by_name() {
    let (file, path) = image();
    assert!(server().cap(&format!("rma=file:{path}")).refusal().starts_with("capability `rma` is not used"));
    assert!(server().named("", file.into_file()).refusal().starts_with("capability `` is not used"));
}

#[test]
fn what_may_exist_once_is_refused_twice() {
    assert_eq!(server().cap("svr=unix:/run/b").refusal(), "capability `svr` is given more than once");
    let given = disk().client("c").cap("c=unix:/run/a").named("c", stream());
    assert_eq!(given.refusal(), "capability `c` is given more than once");
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let mut given = Given::default().cap("svr=unix:/run/s");
    given.other_pid = Some(12);
    assert_eq!(
        given.refusal(),
        "capability `vbus` is missing: pass it by name, or give --cap vbus=pci:DDDD:BB:DD.F or --cap vbus=soft:IMAGE \
         (LISTEN_PID=12 is not this process, so LISTEN_FDS was not used)"
    );
    assert!(disk().refusal().starts_with("capability `svr` is missing"));
    assert!(disk().client("c").refusal().starts_with("capability `c` is missing"));
    assert!(server().dataspace("d").refusal().starts_with("capability `d` is missing"));
    assert!(disk().client("c").cap("c=unix:/run/c").gather().unwrap().svr.is_none());
    assert!(disk().factory("f").refusal().starts_with("capability `f` is missing"));
}

#[test]
fn a_factory_has_a_socket_of_packets_and_needs_no_svr() {
    let made = disk().factory("f").cap("f=unix:/run/f,mode=0660").factory("g").named("g", seqpacket());
    let capabilities = made.gather().unwrap();
    let names: Vec<&str> = capabilities.factories.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["f", "g"]);
    assert!(capabilities.svr.is_none() && capabilities.factories.iter().all(|f| f.socket == Kind::SeqPacket));
    assert_eq!(capabilities.sockets(), ["f at /run/f", "g, inherited"]);
    let streams = disk().factory("f").named("f", stream());
    assert!(matches!(streams.gather(), Err(CapError::WrongKind { .. })));
}

#[test]
fn a_name_is_one_thing() {
    assert!(matches!(server().client("svr").gather(), Err(CapError::Ambiguous(_))));
    assert!(matches!(server().dataspace("vbus").gather(), Err(CapError::Ambiguous(_))));
    assert!(matches!(server().client("x").dataspace("x").gather(), Err(CapError::Ambiguous(_))));
    assert!(matches!(server().client("x").client("x").gather(), Err(CapError::Ambiguous(_))));
    for other in [server().client("x"), server().factory("x"), server().dataspace("x")] {
        assert!(matches!(other.factory("x").gather(), Err(CapError::Ambiguous(_))));
    }
}
