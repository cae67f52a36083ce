//! Arbitrary bytes in arbitrary cuts.

use crate::support::*;
use crate::target::vhost;
use nvme_linux::vhost::wire::FrontendReq as R;
use nvme_linux::vhost::{Call, Incoming, Machine, Reply};
use proptest::prelude::*;

/// A conversation that is right, as far as its numbers are.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        any::<u64>().prop_map(|v| message(R::SET_VRING_KICK, true, &u64s(&[v & 0x1ff]))),
        (0..300u32, 0..2000u32).prop_map(|(i, n)| message(R::SET_VRING_NUM, true, &u32s(&[i, n]))),
        (0..3u32, 0..3usize).prop_map(|(n, have)| {
            message(R::SET_MEM_TABLE, true, &table(n, &[[0, 0x1000, 0, 0]; 3][..have]))
        }),
        (0..70u32).prop_map(|n| message(
            R::GET_CONFIG,
            true,
            &[u32s(&[0, n, 0]), vec![0; n as usize]].concat()
        )),
        Just(message(R::GET_FEATURES, false, &[])),
        (any::<u32>(), 0..16u32, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(r, f, p)| raw(
            r % 50,
            f,
            &p
        )),
    ];
    prop::collection::vec(one, 0..12).prop_map(|messages| {
        let mut all = message(R::SET_PROTOCOL_FEATURES, false, &u64s(&[ALL_PROTOCOL]));
        all.extend(messages.concat());
        all
    })
}

/// Puts a steering byte of the target before each cut.
fn steered(script: &[u8], steer: &[u8]) -> Vec<u8> {
    let mut steer = steer.iter().copied().cycle();
    let mut out = vec![];
    for piece in script.chunks(12) {
        out.push(steer.next().unwrap_or(0) & !1);
        out.extend_from_slice(piece);
    }
    out
}

/// What a machine makes of a conversation in these cuts.
fn outcome(script: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut m, mut cuts, mut rest, mut seen) =
        (Machine::new(FEATURES), cuts.iter().copied().cycle(), script, vec![]);
    while !rest.is_empty() {
        let n = cuts.next().unwrap_or(1).min(m.wanted()).min(rest.len());
        let (now, later) = rest.split_at(n);
        rest = later;
        if let Err(e) = m.feed(now, vec![]) {
            seen.push(format!("{e:?}"));
            break;
        }
        match m.next() {
            Ok(Some(Incoming::Request(request))) => {
                seen.push(format!("{:?}", request.call));
                let reply = match request.call {
                    Call::GetRingBase { .. } => Reply::RingBase(1),
                    Call::GetConfig { len, .. } => Reply::Config(vec![1; len as usize]),
                    _ => Reply::Done,
                };
                m.reply(request.token, reply).unwrap();
            }
            Ok(Some(Incoming::Refused(refusal))) => seen.push(format!("{refusal:?}")),
            Ok(None) => {}
            Err(e) => {
                seen.push(format!("{e:?}"));
                break;
            }
        }
        seen.push(format!("{:?}", m.outgoing()));
        seen.retain(|s| s != "[]");
        m.sent(usize::MAX);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        vhost(&bytes);
    }

    #[test]
    fn no_conversation_panics_or_grows(script in script(), steer in prop::collection::vec(any::<u8>(), 1..20)) {
        vhost(&steered(&script, &steer));
    }

    #[test]
    fn a_conversation_does_not_depend_on_its_cuts(script in script(), cuts in prop::collection::vec(1..30usize, 1..10)) {
        prop_assert_eq!(outcome(&script, &cuts), outcome(&script, &[usize::MAX]));
    }

    #[test]
    fn no_descriptor_outlives_its_machine(script in script(), files in prop::collection::vec(0..4usize, 1..10)) {
        let (file, closed) = canary();
        let (mut m, mut files, mut rest) = (Machine::new(FEATURES), files.iter().copied().cycle(), &script[..]);
        while !rest.is_empty() && m.wanted() > 0 {
            let (now, later) = rest.split_at(m.wanted().min(rest.len()));
            rest = later;
            let files = (0..files.next().unwrap_or(0)).map(|_| file.try_clone().unwrap()).collect();
            if m.feed(now, files).is_err() {
                break;
            }
            if let Ok(Some(Incoming::Request(request))) = m.next() {
                let _ = m.reply(request.token, Reply::Failed);
            }
            m.sent(usize::MAX);
        }
        prop_assert!(!closed());
        drop((file, m));
        prop_assert!(closed());
    }
}
