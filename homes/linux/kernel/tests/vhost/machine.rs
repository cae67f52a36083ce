//! The vhost-user machine, message by message.

use crate::support::*;
use nvme_linux::vhost::wire::{FrontendReq as R, HEADER, VhostUserProtocolFeatures as Protocol};
use nvme_linux::vhost::{Call, Incoming, Machine, ProtocolError, Refusal, Reply, Request, Stage, Why};

fn call(machine: &mut Machine, bytes: &[u8], files: usize) -> Call {
    match tell(machine, bytes, events(files)) {
        Ok(Some(Incoming::Request(request))) => {
            let reply = match request.call {
                Call::GetRingBase { .. } => Reply::RingBase(0),
                Call::GetConfig { len, .. } => Reply::Config(vec![0; len as usize]),
                _ => Reply::Done,
            };
            machine.reply(request.token, reply).unwrap();
            request.call
        }
        other => panic!("{other:?}"),
    }
}

fn refused(machine: &mut Machine, bytes: &[u8], files: usize) -> Why {
    match tell(machine, bytes, events(files)) {
        Ok(Some(Incoming::Refused(Refusal { why, .. }))) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_offered_is_what_the_contract_says() {
    let mut m = Machine::new(FEATURES);
    assert!(tell(&mut m, &message(R::GET_FEATURES, false, &[]), vec![]).unwrap().is_none());
    assert_eq!(number(&mut m), FEATURES | PROTOCOL_FEATURES);
    assert!(tell(&mut m, &message(R::GET_PROTOCOL_FEATURES, false, &[]), vec![]).unwrap().is_none());
    assert_eq!(number(&mut m), ALL_PROTOCOL);
    set_protocol(&mut m, ALL_PROTOCOL);
    assert!(tell(&mut m, &message(R::GET_QUEUE_NUM, false, &[]), vec![]).unwrap().is_none());
    assert_eq!(number(&mut m), 256);
    assert!(tell(&mut m, &message(R::GET_MAX_MEM_SLOTS, false, &[]), vec![]).unwrap().is_none());
    assert_eq!(number(&mut m), 512);
}

#[test]
fn features_that_are_not_offered_are_refused() {
    let mut m = ready();
    let log_all = FEATURES | 1 << 26;
    assert_eq!(
        refused(&mut m, &message(R::SET_FEATURES, true, &u64s(&[log_all])), 0),
        Why::Features(1 << 26)
    );
    assert_eq!(number(&mut m), 1);
    let status = ALL_PROTOCOL | Protocol::STATUS.bits();
    let why = refused(&mut m, &message(R::SET_PROTOCOL_FEATURES, true, &u64s(&[status])), 0);
    assert_eq!(why, Why::Features(Protocol::STATUS.bits()));
    assert_eq!((m.features(), m.protocol_features().bits()), (FEATURES, ALL_PROTOCOL), "the old ones stay");
}

#[test]
fn rings_start_enabled_only_without_the_protocol_features_bit() {
    let mut m = ready();
    assert!(!m.rings_start_enabled());
    let Call::SetFeatures(bits) = call(&mut m, &message(R::SET_FEATURES, false, &u64s(&[FEATURES])), 0)
    else {
        panic!()
    };
    assert_eq!(bits, FEATURES);
    assert!(m.rings_start_enabled());
    let enable = message(R::SET_VRING_ENABLE, true, &u32s(&[0, 1]));
    assert_eq!(refused(&mut m, &enable, 0), Why::NotNegotiated);
}

#[test]
fn a_device_with_fewer_queues_says_so_and_has_no_more() {
    let mut m = Machine::new(FEATURES).with_queues(21);
    set_protocol(&mut m, ALL_PROTOCOL);
    tell(&mut m, &message(R::GET_QUEUE_NUM, false, &[]), vec![]).unwrap();
    assert_eq!(number(&mut m), 21);
    call(&mut m, &message(R::SET_VRING_NUM, true, &u32s(&[20, 256])), 0);
    assert_eq!(number(&mut m), 0);
    for kind in [R::SET_VRING_NUM, R::SET_VRING_BASE] {
        assert_eq!(refused(&mut m, &message(kind, true, &u32s(&[21, 256])), 0), Why::Ring(21));
        assert_eq!(number(&mut m), 1);
    }
    for kind in [R::SET_VRING_CALL, R::SET_VRING_ERR, R::SET_VRING_KICK] {
        assert_eq!(refused(&mut m, &message(kind, true, &u64s(&[21 | 1 << 8])), 0), Why::Ring(21));
        assert_eq!(number(&mut m), 1);
    }
}

#[test]
fn an_acknowledgement_comes_when_it_was_negotiated_and_asked_for() {
    for (protocol, need_reply, want) in
        [(ALL_PROTOCOL, true, true), (ALL_PROTOCOL, false, false), (0, true, false)]
    {
        let mut m = Machine::new(FEATURES);
        set_protocol(&mut m, protocol);
        call(&mut m, &message(R::SET_VRING_NUM, need_reply, &u32s(&[3, 256])), 0);
        assert_eq!(answer(&mut m), want.then(|| (R::SET_VRING_NUM.into(), u64s(&[0]))));
    }
}

#[test]
fn the_message_that_negotiates_acknowledgements_is_acknowledged() {
    let mut m = Machine::new(FEATURES);
    assert!(
        tell(&mut m, &message(R::SET_PROTOCOL_FEATURES, true, &u64s(&[ALL_PROTOCOL])), vec![])
            .unwrap()
            .is_none()
    );
    assert_eq!(number(&mut m), 0);
}

#[test]
fn a_failure_is_acknowledged_or_ends_the_connection() {
    let bad = u32s(&[0, 3]);
    let mut m = ready();
    assert_eq!(refused(&mut m, &message(R::SET_VRING_NUM, true, &bad), 0), Why::RingSize(3));
    assert_eq!(number(&mut m), 1);
    call(&mut m, &message(R::SET_VRING_NUM, true, &u32s(&[0, 4])), 0);
    assert_eq!(number(&mut m), 0, "the connection goes on");

    let end = ProtocolError::Refused(Refusal { request: R::SET_VRING_NUM.into(), why: Why::RingSize(3) });
    assert_eq!(tell(&mut m, &message(R::SET_VRING_NUM, false, &bad), vec![]).unwrap_err(), end);
    assert_eq!((m.next().unwrap_err(), m.wanted()), (end, 0), "for good");
    let mut m = Machine::new(FEATURES);
    assert_eq!(
        tell(&mut m, &message(R::SET_VRING_NUM, true, &bad), vec![]).unwrap_err(),
        end,
        "before REPLY_ACK"
    );
}

#[test]
fn a_failure_of_the_server_takes_the_same_ways() {
    let mut m = ready();
    let Ok(Some(Incoming::Request(r))) = tell(&mut m, &message(R::RESET_DEVICE, true, &[]), vec![]) else {
        panic!()
    };
    m.reply(r.token, Reply::Failed).unwrap();
    assert_eq!(number(&mut m), 1);
    let Ok(Some(Incoming::Request(r))) = tell(&mut m, &message(R::RESET_DEVICE, false, &[]), vec![]) else {
        panic!()
    };
    m.reply(r.token, Reply::Failed).unwrap();
    assert!(matches!(m.next(), Err(ProtocolError::Refused(Refusal { why: Why::Failed, .. }))));
}

#[test]
fn one_request_is_outstanding_and_is_answered_once() {
    let mut m = ready();
    let get = message(R::GET_VRING_BASE, false, &u32s(&[7, 99]));
    let Ok(Some(Incoming::Request(r))) = tell(&mut m, &get, vec![]) else { panic!() };
    assert_eq!((m.wanted(), m.stage()), (0, Stage::Working));
    assert!(m.next().unwrap().is_none());
    m.reply(r.token, Reply::Done).unwrap_err();
    m.reply(r.token, Reply::RingBase(0xffff)).unwrap();
    m.reply(r.token, Reply::RingBase(1)).unwrap_err();
    assert_eq!(m.wanted(), 0, "the answer goes out first");
    assert_eq!(answer(&mut m), Some((R::GET_VRING_BASE.into(), u32s(&[7, 0xffff]))));
    assert_eq!(m.wanted(), 12);
    assert_eq!(m.feed(&[0; 13], vec![]), Err(ProtocolError::NotWanted));
}

#[test]
fn a_header_that_is_wrong_ends_the_connection_before_its_payload() {
    for (header, error) in [
        ([1, 0, 0], ProtocolError::Version(0)),
        ([1, 2, 0], ProtocolError::Version(2)),
        ([1, 5, 0], ProtocolError::Flags(5)),
        ([1, 17, 0], ProtocolError::Flags(17)),
        ([5, 1, 4109], ProtocolError::TooLong(4109)),
        ([5, 1, u32::MAX], ProtocolError::TooLong(u32::MAX)),
    ] {
        let mut m = Machine::new(FEATURES);
        assert_eq!(m.feed(&u32s(&header), vec![]), Err(error));
        assert_eq!(m.next().unwrap_err(), error);
    }
}

#[test]
fn a_half_message_and_a_half_handshake_want_a_deadline() {
    let mut m = Machine::new(FEATURES);
    assert_eq!((m.stage(), m.wants_deadline()), (Stage::Untouched, false));
    let owner = message(R::SET_OWNER, false, &[]);
    m.feed(&owner[..5], vec![]).unwrap();
    assert_eq!((m.stage(), m.wants_deadline()), (Stage::MidMessage, true));
    assert!(m.next().unwrap().is_none());
    m.feed(&owner[5..], vec![]).unwrap();
    m.next().unwrap();
    assert_eq!((m.stage(), m.wants_deadline()), (Stage::Ready, false));

    let mut m = Machine::new(FEATURES);
    tell(&mut m, &message(R::GET_FEATURES, false, &[]), vec![]).unwrap();
    assert_eq!(m.stage(), Stage::MidMessage, "the client has yet to read its answer");
    number(&mut m);
    assert_eq!((m.stage(), m.wants_deadline()), (Stage::Handshake, true));
}

#[test]
fn a_session_starts_with_an_owner_and_the_next_one_finds_nothing_of_it() {
    let owner = message(R::SET_OWNER, true, &[]);
    let features = message(R::SET_FEATURES, false, &u64s(&[FEATURES]));
    let protocol = message(R::SET_PROTOCOL_FEATURES, false, &u64s(&[ALL_PROTOCOL]));
    let mut m = Machine::new(FEATURES);
    // The first, whatever came before it, has nothing to clear away.
    tell(&mut m, &protocol, vec![]).unwrap();
    call(&mut m, &features, 0);
    assert!(tell(&mut m, &owner, vec![]).unwrap().is_none());
    assert_eq!((number(&mut m), m.features()), (0, FEATURES));
    let reset_owner = message(R::RESET_OWNER, true, &[]);
    assert!(tell(&mut m, &reset_owner, vec![]).unwrap().is_none(), "back-ends are to ignore it");
    assert_eq!((number(&mut m), m.features()), (0, FEATURES));

    // As QEMU begins again: what it negotiated before it is the new session's.
    tell(&mut m, &protocol, vec![]).unwrap();
    assert!(matches!(call(&mut m, &owner, 0), Call::StartSession));
    assert_eq!(number(&mut m), 0, "it is acknowledged");
    assert_eq!((m.features(), m.protocol_features().bits()), (0, ALL_PROTOCOL));
    assert!(m.rings_start_enabled() && m.stage() == Stage::Ready);

    // As others do: first the owner, and then what it can.
    call(&mut m, &features, 0);
    assert!(matches!(call(&mut m, &owner, 0), Call::StartSession));
    assert_eq!(number(&mut m), 0, "who asked had negotiated that");
    assert_eq!((m.features(), m.protocol_features().bits()), (0, 0));
    assert!(matches!(call(&mut m, &owner, 0), Call::StartSession));
    assert_eq!(answer(&mut m), None, "nobody has negotiated that");
}

#[test]
fn whatever_is_wrong_with_a_message_is_named() {
    const OK: [u64; 4] = [0, 0x1000, 0x7000_0000, 0];
    let one = |region: [u64; 4]| u64s(&[&[0][..], &region].concat());
    let config = |offset, size, flags, bytes| [u32s(&[offset, size, flags]), vec![0; bytes]].concat();
    let end = u64::MAX;
    for (request, payload, files, want) in [
        (R::SET_OWNER, vec![0], 0, Why::Size(1)),
        (R::SET_OWNER, vec![], 1, Why::Descriptors(1)),
        (R::SET_FEATURES, vec![0; 7], 0, Why::Size(7)),
        (R::SET_FEATURES, u64s(&[0]), 1, Why::Descriptors(1)),
        (R::SET_VRING_NUM, u32s(&[0]), 0, Why::Size(4)),
        (R::SET_VRING_NUM, u32s(&[256, 4]), 0, Why::Ring(256)),
        (R::SET_VRING_NUM, u32s(&[u32::MAX, 4]), 0, Why::Ring(u32::MAX)),
        (R::SET_VRING_NUM, u32s(&[0, 0]), 0, Why::RingSize(0)),
        (R::SET_VRING_NUM, u32s(&[0, 2048]), 0, Why::RingSize(2048)),
        (R::SET_VRING_NUM, u32s(&[0, 0x1_0100]), 0, Why::RingSize(0x1_0100)),
        (R::SET_VRING_BASE, u32s(&[0, 0x1_0000]), 0, Why::RingBase(0x1_0000)),
        (R::SET_VRING_ENABLE, u32s(&[0, 2]), 0, Why::Value(2)),
        (R::SET_VRING_ADDR, [u32s(&[0, 1]), u64s(&[0; 4])].concat(), 0, Why::Value(1)),
        (R::SET_VRING_ADDR, [u32s(&[0, 0]), u64s(&[8, 0, 0, 0])].concat(), 0, Why::RingAlignment),
        (R::SET_VRING_ADDR, [u32s(&[0, 0]), u64s(&[0, 2, 0, 0])].concat(), 0, Why::RingAlignment),
        (R::SET_VRING_ADDR, [u32s(&[0, 0]), u64s(&[0, 0, 1, 0])].concat(), 0, Why::RingAlignment),
        (R::SET_VRING_ADDR, [u32s(&[300, 0]), u64s(&[0; 4])].concat(), 0, Why::Ring(300)),
        (R::SET_VRING_KICK, u64s(&[0]), 0, Why::Descriptors(0)),
        (R::SET_VRING_KICK, u64s(&[0]), 2, Why::Descriptors(2)),
        (R::SET_VRING_CALL, u64s(&[0x100]), 1, Why::Descriptors(1)),
        (R::SET_VRING_ERR, u64s(&[0x200]), 1, Why::Value(0x200)),
        (R::SET_MEM_TABLE, vec![0; 7], 0, Why::Size(7)),
        (R::SET_MEM_TABLE, table(2, &[OK]), 1, Why::RegionCount(2)),
        (R::SET_MEM_TABLE, table(0, &[OK]), 1, Why::RegionCount(0)),
        (R::SET_MEM_TABLE, table(u32::MAX, &[OK]), 1, Why::RegionCount(u32::MAX)),
        (R::SET_MEM_TABLE, table(65, &[OK; 65]), 64, Why::RegionCount(65)),
        (R::SET_MEM_TABLE, table(1, &[OK]), 0, Why::Descriptors(0)),
        (R::SET_MEM_TABLE, table(1, &[OK]), 2, Why::Descriptors(2)),
        (R::SET_MEM_TABLE, table(1, &[[0, 0, 0, 0]]), 1, Why::RegionRange),
        (R::ADD_MEM_REG, one(OK), 0, Why::Descriptors(0)),
        (R::ADD_MEM_REG, one(OK), 2, Why::Descriptors(2)),
        (R::ADD_MEM_REG, u64s(&OK), 1, Why::Size(32)),
        (R::ADD_MEM_REG, one([end, 1, 0, 0]), 1, Why::RegionRange),
        (R::ADD_MEM_REG, one([0, 0x1000, end - 0xfff, 0]), 1, Why::RegionRange),
        (R::ADD_MEM_REG, one([0, end, 0, 1]), 1, Why::RegionRange),
        (R::REM_MEM_REG, one(OK), 2, Why::Descriptors(2)),
        (R::GET_CONFIG, config(0, 0, 0, 0), 0, Why::ConfigRange),
        (R::GET_CONFIG, config(0, 8, 0, 7), 0, Why::Size(19)),
        (R::GET_CONFIG, config(4096, 1, 0, 1), 0, Why::ConfigRange),
        (R::GET_CONFIG, config(u32::MAX, 8, 0, 8), 0, Why::ConfigRange),
        (R::SET_CONFIG, config(0, 1, 3, 1), 0, Why::Value(3)),
        (R::SET_CONFIG, config(0, 1, 0, 1), 1, Why::Descriptors(1)),
        (R::SET_BACKEND_REQ_FD, vec![], 0, Why::Descriptors(0)),
        (R::SET_LOG_BASE, u64s(&[0, 0]), 1, Why::NotOffered),
        (R::SET_LOG_FD, vec![], 1, Why::NotOffered),
        (R::GET_INFLIGHT_FD, vec![0; 24], 0, Why::Ring(0)),
        (R::GET_INFLIGHT_FD, vec![0; 21], 0, Why::Size(21)),
        (R::GET_INFLIGHT_FD, inflight(0, 0, 257, 128), 0, Why::Ring(257)),
        (R::GET_INFLIGHT_FD, inflight(0, 0, 1, 96), 0, Why::RingSize(96)),
        (R::GET_INFLIGHT_FD, inflight(0, 0, 1, 2048), 0, Why::RingSize(2048)),
        (R::GET_INFLIGHT_FD, inflight(0, 0, 1, 128), 1, Why::Descriptors(1)),
        (R::SET_INFLIGHT_FD, inflight(2112, 0, 1, 128), 0, Why::Descriptors(0)),
        (R::SET_INFLIGHT_FD, inflight(2111, 0, 1, 128), 1, Why::InflightRange),
        (R::SET_INFLIGHT_FD, inflight(4223, 0, 2, 128), 1, Why::InflightRange),
        (R::SET_INFLIGHT_FD, inflight(2112, u64::MAX - 2111, 1, 128), 1, Why::InflightRange),
        (R::SET_STATUS, u64s(&[0]), 0, Why::NotOffered),
        (R::VRING_KICK, u32s(&[0, 0]), 0, Why::NotOffered),
        (R::POSTCOPY_ADVISE, vec![], 0, Why::NotOffered),
    ] {
        let mut m = ready();
        let why = refused(&mut m, &message(request, true, &payload), files);
        assert_eq!(why, want, "{request:?} {payload:x?} {files}");
        assert!(answer(&mut m).is_some());
        // And the connection goes on.
        call(&mut m, &message(R::RESET_DEVICE, false, &[]), 0);
    }
}

#[test]
fn memory_for_what_is_in_flight_goes_out_with_a_reply_as_long_as_the_request() {
    for len in [24, 20] {
        let mut m = ready();
        let payload = inflight(0, 0, 2, 128);
        let asked = message(R::GET_INFLIGHT_FD, false, &payload[..len]);
        let token = match tell(&mut m, &asked, vec![]) {
            Ok(Some(Incoming::Request(Request {
                token,
                call: Call::GetInflight { rings: 2, size: 128 },
            }))) => token,
            other => panic!("{other:?}"),
        };
        assert!(m.outgoing_file().is_none());
        m.reply_inflight(token, events(1).remove(0)).unwrap();
        assert!(m.outgoing_file().is_some());
        let sent = m.outgoing().to_vec();
        assert_eq!(sent.len(), HEADER + len);
        // A head and 128 states of 16 bytes each, in whole cache lines; two of them.
        assert_eq!(sent[HEADER..HEADER + 20], inflight(2 * 2112, 0, 2, 128)[..20]);
        m.sent(1);
        assert!(m.outgoing_file().is_none(), "once");
        m.sent(sent.len());
        let mut m = ready();
        let Ok(Some(Incoming::Request(Request { token, .. }))) = tell(&mut m, &asked, vec![]) else {
            panic!()
        };
        m.reply(token, Reply::Failed).unwrap();
        assert_eq!(m.outgoing()[HEADER..], vec![0; len], "none is to be had, and the connection goes on");
    }
}

#[test]
fn a_request_that_nobody_knows_is_refused() {
    let mut m = ready();
    assert_eq!(refused(&mut m, &raw(0, 9, &[]), 0), Why::NotOffered);
    assert_eq!(number(&mut m), 1);
    assert_eq!(refused(&mut m, &raw(0xffff_ffff, 9, &[1, 2, 3]), 2), Why::NotOffered);
    assert_eq!(number(&mut m), 1);
    assert!(tell(&mut m, &raw(0xffff_ffff, 1, &[]), vec![]).is_err());
}

#[test]
fn a_request_needs_its_feature() {
    for (request, payload, files, feature) in [
        (R::GET_QUEUE_NUM, vec![], 0, Protocol::MQ),
        (R::GET_MAX_MEM_SLOTS, vec![], 0, Protocol::CONFIGURE_MEM_SLOTS),
        (R::ADD_MEM_REG, u64s(&[0, 0, 1, 0, 0]), 1, Protocol::CONFIGURE_MEM_SLOTS),
        (R::REM_MEM_REG, u64s(&[0, 0, 1, 0, 0]), 0, Protocol::CONFIGURE_MEM_SLOTS),
        (R::GET_CONFIG, [u32s(&[0, 1, 0]), vec![0]].concat(), 0, Protocol::CONFIG),
        (R::SET_CONFIG, [u32s(&[0, 1, 0]), vec![0]].concat(), 0, Protocol::CONFIG),
        (R::RESET_DEVICE, vec![], 0, Protocol::RESET_DEVICE),
        (R::SET_BACKEND_REQ_FD, vec![], 1, Protocol::BACKEND_REQ),
        (R::GET_INFLIGHT_FD, inflight(0, 0, 1, 128), 0, Protocol::INFLIGHT_SHMFD),
        (R::SET_INFLIGHT_FD, inflight(2112, 0, 1, 128), 1, Protocol::INFLIGHT_SHMFD),
    ] {
        let message = message(request, false, &payload);
        let mut m = Machine::new(FEATURES);
        set_protocol(&mut m, ALL_PROTOCOL & !feature.bits());
        let why = Why::NotNegotiated;
        let want = ProtocolError::Refused(Refusal { request: request.into(), why });
        assert_eq!(tell(&mut m, &message, events(files)).unwrap_err(), want);
        let mut m = Machine::new(FEATURES);
        set_protocol(&mut m, feature.bits());
        assert!(tell(&mut m, &message, events(files)).is_ok(), "{request:?} with its feature");
    }
}

#[test]
fn calls_hold_what_the_client_said() {
    let mut m = ready();
    let two = table(2, &[[0, 0xa_0000, 0x7f00_0000, 0], [0xc_0000, 0x1000, 0x7f0c_0000, 0xc_0000]]);
    let Call::SetMemTable(regions) = call(&mut m, &message(R::SET_MEM_TABLE, false, &two), 2) else {
        panic!()
    };
    assert_eq!(regions.len(), 2);
    let r = regions[1].region;
    assert_eq!((r.guest, r.size, r.user, r.offset), (0xc_0000, 0x1000, 0x7f0c_0000, 0xc_0000));
    let none = call(&mut m, &message(R::SET_MEM_TABLE, false, &table(0, &[])), 0);
    assert!(matches!(none, Call::SetMemTable(regions) if regions.is_empty()));

    let addresses = [u32s(&[255, 0]), u64s(&[0x1000, 0x3000, 0x2000, 0])].concat();
    let got = call(&mut m, &message(R::SET_VRING_ADDR, false, &addresses), 0);
    assert!(matches!(got, Call::SetRingAddresses { ring: 255, desc: 0x1000, avail: 0x2000, used: 0x3000 }));
    let got = call(&mut m, &message(R::SET_VRING_KICK, false, &u64s(&[9])), 1);
    assert!(matches!(got, Call::SetKick { ring: 9, event: Some(_) }));
    let got = call(&mut m, &message(R::SET_VRING_CALL, false, &u64s(&[0x1ff])), 0);
    assert!(matches!(got, Call::SetCall { ring: 255, event: None }));
    let got = call(&mut m, &message(R::REM_MEM_REG, false, &u64s(&[0, 1, 2, 3, 4])), 1);
    assert!(matches!(got, Call::RemoveRegion(r) if (r.guest, r.size, r.user) == (1, 2, 3)));
    let got = call(&mut m, &message(R::SET_CONFIG, false, &[u32s(&[32, 1, 1]), vec![7]].concat()), 0);
    assert!(matches!(got, Call::SetConfig { offset: 32, data } if data == [7]));
    let got = call(&mut m, &message(R::SET_VRING_NUM, false, &u32s(&[1, 1024])), 0);
    assert!(matches!(got, Call::SetRingSize { ring: 1, size: 1024 }));
}

#[test]
fn a_read_of_configuration_space_fails_by_an_answer_without_bytes() {
    let mut m = ready();
    let get = message(R::GET_CONFIG, false, &[u32s(&[4, 8, 0]), vec![0; 8]].concat());
    for (reply, want) in [
        (Reply::Config(vec![7; 8]), [u32s(&[4, 8, 0]), vec![7; 8]].concat()),
        (Reply::Failed, u32s(&[0, 0, 0])),
    ] {
        let Ok(Some(Incoming::Request(r))) = tell(&mut m, &get, vec![]) else { panic!() };
        m.reply(r.token, Reply::Config(vec![0; 9])).unwrap_err();
        m.reply(r.token, reply).unwrap();
        assert_eq!(answer(&mut m), Some((R::GET_CONFIG.into(), want)));
    }
}

#[test]
fn descriptors_of_a_refused_message_are_closed() {
    for (bytes, files) in [
        (message(R::SET_OWNER, true, &[]), 1),
        (message(R::SET_MEM_TABLE, true, &table(3, &[[0, 4096, 0, 0]; 3])), 2),
        (raw(77, 9, &[1]), 5),
        (message(R::SET_VRING_KICK, true, &u64s(&[0x100])), 1),
        (raw(1, 2, &[]), 3),
        (message(R::SET_OWNER, true, &[]), 65),
    ] {
        let mut m = ready();
        let (file, closed) = canary();
        let copies = (0..files).map(|_| file.try_clone().unwrap()).collect();
        drop(file);
        assert!(!closed());
        let told = tell(&mut m, &bytes, copies);
        assert!(matches!(told, Ok(Some(Incoming::Refused(_))) | Err(_)));
        assert!(closed(), "{bytes:x?}");
    }
}

#[test]
fn a_machine_that_is_dropped_closes_what_came_with_a_half_message() {
    let mut m = ready();
    let (file, closed) = canary();
    m.feed(&message(R::SET_VRING_KICK, false, &u64s(&[0]))[..12], vec![file]).unwrap();
    assert!(!closed());
    drop(m);
    assert!(closed());
}
