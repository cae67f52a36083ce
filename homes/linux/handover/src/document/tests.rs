use proptest::prelude::*;

use super::*;
use crate::kept::{Crash, Gate, KeptFactory, KeptServer, KeptSession, Shelf, Shelved, Store};
use crate::state::{
    Caller, Ceiling, Connection, Counters, Device, Drained, Factory, Holding, Identity, Inflight, Journals,
    Left, Lost, Machine, Mapped, Memory, Policy, Rate, Ring, Session,
};

fn files(count: &mut u32) -> File {
    *count += 1;
    File(*count - 1)
}

fn factory(file: &mut u32) -> Factory {
    Factory {
        number: 1,
        parent: 0,
        capability: Some("tenant".into()),
        ceiling: Ceiling {
            read_only: true,
            ds_max: 1,
            dataspaces: Some(vec!["ram".into()]),
            rate: Rate { iops: Some(7), bytes: None },
            sessions: Some(2),
            factories: 0,
            memory: None,
            all: Rate::default(),
        },
        tag: Some("t".into()),
        holdings: vec![Holding { name: "SN:n1".into(), read_only: true, device: None }],
        lifetime: Some(files(file)),
        listener: Some(files(file)),
        connection: Some(files(file)),
        cookies: vec![3],
    }
}

/// A state with so many sessions, and how many descriptors it names.
fn state(sessions: u64, bytes: Vec<u8>, number: u64) -> (State, usize) {
    let mut count = 0;
    let session = |n: u64| {
        let file = &mut count;
        let ring = Ring {
            index: 0,
            size: Some(128),
            addresses: Some((number, 1, 2)),
            base: 7,
            enabled: true,
            runs: true,
            kick: Some(files(file)),
            call: Some(files(file)),
            error: None,
        };
        let connection = Connection {
            socket: files(file),
            channel: None,
            change_pending: false,
            peer: None,
            accepted: false,
            yields: false,
            machine: Machine { input: bytes.clone(), files: vec![files(file)], ..Machine::default() },
            features: number,
            memory: vec![Memory { guest: 0, user: 1, len: 4096, offset: 0, file: 0 }],
            files: vec![files(file)],
            inflight: Some(Inflight { file: files(file), offset: 0, rings: 1, size: 128 }),
            journals: vec![Journals { first: 16, file: files(file) }],
            rings: vec![ring],
        };
        Session {
            number: n + 1,
            client: None,
            factory: 0,
            device: Device {
                serial: "SN 1:2".into(),
                place: None,
                identity: Identity::default(),
                nsid: 1,
                block_size: 512,
                first: 0,
                blocks: number,
                partition: None,
            },
            policy: Policy {
                device: "SN 1:2:n1".into(),
                read_only: false,
                ds_max: 2,
                dataspaces: None,
                rate: Rate::default(),
                tag: None,
            },
            rate: Rate::default(),
            owner: None,
            since: number,
            cookies: vec![number],
            lifetime: Some(files(file)),
            listener: Some(files(file)),
            waiting: vec![files(file)],
            counters: vec![Counters { queue: 0, words: vec![number, 1] }],
            barred: false,
            write_back: true,
            connection: Some(connection),
        }
    };
    let sessions = (0..sessions).map(session).collect();
    let caller = Caller { factory: 0, socket: files(&mut count) };
    let factories = vec![factory(&mut count)];
    let lost = vec![Lost { serial: "SN 1:2".into(), errno: 5 }];
    let drained = vec![Drained { serial: Some("SN".into()), blocks: Some((1, number, 2)) }];
    let (next_session, callers) = (number, vec![caller]);
    let mut shelf =
        || Shelf { reader: files(&mut count), writer: files(&mut count), version: number, messages: 1 };
    let (own, kept) = (shelf(), [shelf(), shelf()]);
    let [sessions_of, factories_of] = kept.map(|shelf| vec![Shelved { number, slot: 1, told: true, shelf }]);
    let store = Some(Store {
        board: files(&mut count),
        own,
        gates: vec![Gate { serial: None, file: files(&mut count) }],
        crashes: Vec::new(),
        sessions: sessions_of,
        factories: factories_of,
    });
    let left = Left {
        file: files(&mut count),
        at: 4096,
        tail: 15,
        head: 1,
        phase: number.is_multiple_of(2),
        events: vec![3, 16],
        pairs: 2,
        live: vec![1, 2],
    };
    let mapped = |word: &str, left| Mapped { word: word.into(), ranges: vec![(4096, number)], left };
    let mapped = vec![mapped("vbus=pci:0000:01:00.0", Some(left)), mapped("vbus=pci:0000:02:00.0", None)];
    let state = State {
        stands_still: 10_000,
        mapped,
        next_session,
        next_factory: 1,
        head: None,
        factories,
        sessions,
        callers,
        lost,
        drained,
        store,
    };
    (state, count as usize)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        sessions in 0..5_u64,
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        number: u64,
    ) {
        let (state, count) = state(sessions, bytes, number);
        let written = state.write().unwrap();
        prop_assert_eq!(State::read(&written, count).unwrap(), state);
        prop_assert!(count == 0 || State::read(&written, count - 1).is_err(), "a descriptor is missing");
        prop_assert!(State::read(&written, count + 1).is_err(), "a descriptor has no name");
    }

    #[test]
    fn what_is_kept_of_a_session_a_factory_and_a_server_is_read(bytes: Vec<u8>, number: u64) {
        let (mut state, _) = state(1, bytes, number);
        let (mut count, mut server) = (0, 3);
        let session = state.sessions.remove(0);
        let kept = KeptSession { slot: 7, session };
        kept.files().iter().for_each(|_| count += 1);
        let written = kept.write().unwrap();
        prop_assert_eq!(KeptSession::read(&written, count).unwrap(), kept);
        prop_assert!(KeptServer::read(&written, count).is_err() && State::read(&written, count).is_err());
        let kept = KeptFactory { slot: 8, factory: factory(&mut 0) };
        let (written, count) = (kept.write().unwrap(), kept.files().len());
        prop_assert_eq!(KeptFactory::read(&written, count).unwrap(), kept);
        prop_assert!(KeptFactory::read(&written, count + 1).is_err());
        prop_assert!(KeptSession::read(&written, count).is_err());
        let capabilities = vec![Capability { name: "svr".into(), word: None, file: files(&mut server) }];
        let of_the_operator = Factory { lifetime: None, listener: None, connection: None, ..factory(&mut 0) };
        let kept = KeptServer {
            capabilities,
            hardware: vec!["vbus=pci:0000:01:00.0".into()],
            board: File(0),
            gates: vec![Gate { serial: Some("SN".into()), file: File(1) }, Gate { serial: None, file: File(2) }],
            next_session: number,
            next_factory: 1,
            factories: vec![of_the_operator],
            drained: state.drained,
            crashes: vec![Crash { session: 1, client: None, factory: 0, at: number }],
        };
        let written = kept.write().unwrap();
        prop_assert_eq!(KeptServer::read(&written, 4).unwrap(), kept);
        prop_assert!(KeptServer::read(&written, 3).is_err());
    }

    #[test]
    fn no_bytes_are_taken_for_what_they_are_not(bytes: Vec<u8>, count in 0..9_usize) {
        prop_assert!(State::read(&bytes, count).is_err() && Capabilities::read(&bytes, count).is_err());
    }

    #[test]
    fn a_document_that_is_cut_is_none(at in 0..4000_usize) {
        let (state, count) = state(2, vec![1, 2, 3], 9);
        let written = state.write().unwrap();
        let cut = written.get(..at.min(written.len() - 1)).unwrap();
        prop_assert!(State::read(cut, count).is_err());
    }
}

#[test]
fn another_version_another_kind_and_a_field_that_is_not_known_are_refused() {
    let (state, count) = state(1, Vec::new(), 3);
    let text = String::from_utf8(state.write().unwrap()).unwrap();
    assert!(State::read(text.as_bytes(), count).is_ok());
    let read = |text: String| State::read(text.as_bytes(), count);
    for version in [0, VERSION + 1, u32::MAX] {
        let other = text.replacen(&format!(" {VERSION}\n"), &format!(" {version}\n"), 1);
        assert!(matches!(read(other), Err(Unreadable::Version(v)) if v == version));
    }
    assert!(matches!(read(text.replacen("state", "capabilities", 1)), Err(Unreadable::Kind)));
    assert!(matches!(
        read(text.replacen("{\"next_session\"", "{\"new\":1,\"next_session\"", 1)),
        Err(Unreadable::Text(_))
    ));
    assert!(matches!(read(text.replacen("\"runs\":true,", "", 1)), Err(Unreadable::Text(_))));
}

#[test]
fn all_that_a_function_has_is_named() {
    let function = Function {
        word: "vbus=pci:0000:01:00.0".into(),
        container: File(0),
        group: File(1),
        device: File(2),
        interrupts: "MSI-X".into(),
        vectors: vec![File(5), File(6)],
        request: Some(File(3)),
        error: Some(File(4)),
    };
    let document = Capabilities { functions: vec![function], ..Capabilities::default() };
    let written = document.write().unwrap();
    assert_eq!(Capabilities::read(&written, 7).unwrap(), document);
    for count in [6, 8] {
        assert!(matches!(Capabilities::read(&written, count), Err(Unreadable::Files(..))));
    }
}

#[test]
fn a_descriptor_is_named_once() {
    let capability = |file| Capability { name: "svr".into(), word: None, file: File(file) };
    let of = |files: &[u32]| {
        let capabilities = files.iter().map(|f| capability(*f)).collect();
        let document = Capabilities { capabilities, ..Capabilities::default() };
        Capabilities::read(&document.write().unwrap(), 2)
    };
    assert!(of(&[0, 1]).is_ok() && of(&[1, 0]).is_ok());
    for wrong in [&[0, 0][..], &[0], &[0, 1, 1], &[0, 2], &[]] {
        assert!(matches!(of(wrong), Err(Unreadable::Files(..))), "{wrong:?}");
    }
}
