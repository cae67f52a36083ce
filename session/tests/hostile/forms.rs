//! One request in many forms: what it comes to does not depend on how its header, its data and its status are divided into
//! descriptors, or on whether those lie in the ring or in an indirect table, and in which order.

use nvme_policy::{Access, BlockSize};
use nvme_session::blk::features;
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{Direction, Next, Request};
use proptest::prelude::*;

use crate::driver::*;

/// A request, without its form.
#[derive(Clone, Debug)]
struct Asked {
    kind: u32,
    sector: u64,
    /// The data's address, length and flag.
    addr: u64,
    len: u32,
    write: bool,
    /// What is there, for a discard.
    segment: (u64, u32, u32),
    read_only: bool,
    by_request: bool,
    big_blocks: bool,
    durable: bool,
}

/// Where header and data are divided.
#[derive(Clone, Debug)]
struct Form {
    indirect: bool,
    /// Behind the first descriptor the last of the chain comes first in the table.
    backwards: bool,
    header: Vec<u32>,
    data: Vec<u32>,
}

/// One operation: name, place, bytes of it that are not asked for, memory (no two parts of which adjoin), whether it must be
/// durable at once.
type One = (&'static str, (u64, u64), u32, Vec<(u64, u64)>, bool);

/// What it came to.
#[derive(PartialEq, Debug)]
enum Came {
    Operations(Vec<One>),
    /// A status, the used length, and what is in memory then.
    Status(u8, u32, Vec<u8>),
}

/// Cuts `len` bytes at these places: the lengths of the pieces.
fn pieces(len: u32, cuts: &[u32]) -> Vec<u32> {
    let mut at: Vec<u32> = cuts.iter().map(|cut| cut % (len + 1)).collect();
    at.sort_unstable();
    at.push(len);
    let mut before = 0;
    at.into_iter().map(|end| end - std::mem::replace(&mut before, end)).collect()
}

fn what(request: &Request) -> One {
    let (name, durable) = match request.operation() {
        Operation::Read(_) => ("read", false),
        Operation::Write { fua, .. } => ("write", *fua),
        Operation::Flush { .. } => ("flush", false),
        Operation::Discard { .. } => ("discard", false),
        Operation::WriteZeroes { fua, .. } => ("zeroes", *fua),
        Operation::ReadPart(_) => ("read-part", false),
        Operation::WritePart { fua, .. } => ("write-part", *fua),
    };
    let skip = match request.operation() {
        Operation::ReadPart(part) | Operation::WritePart { part, .. } => part.skip(),
        _ => 0,
    };
    let mut memory: Vec<(u64, u64)> = vec![];
    for (at, len) in ranges(request) {
        match memory.last_mut() {
            Some((start, all)) if *start + *all == at => *all += u64::from(len),
            _ => memory.push((at, len.into())),
        }
    }
    (name, place(request), skip, memory, durable)
}

/// Asks in that form. Head 0; the chain has room for all that `pieces` makes.
fn ask(asked: &Asked, form: &Form) -> Came {
    let mut d = Driver::with(|c| {
        c.features |= features::INDIRECT_DESC;
        c.direction = if asked.by_request { Direction::ByRequest } else { Direction::AsFlagged };
        c.write_back = !asked.durable;
        let access = if asked.read_only { Access::ReadOnly } else { Access::ReadWrite };
        c.grant = grant(access, if asked.big_blocks { BlockSize::B4096 } else { BlockSize::B512 });
    });
    d.header(HEAD, asked.kind, asked.sector);
    d.put(HEAD + 16, &[UNSET]);
    let (first, sectors, flags) = asked.segment;
    let segment = [first.to_le_bytes(), (u64::from(sectors) | u64::from(flags) << 32).to_le_bytes()].concat();
    for (i, byte) in segment.iter().enumerate() {
        let at = asked.addr.wrapping_add(i as u64);
        if (RAM..DATA_END).contains(&at) {
            d.put(at, &[*byte]);
        }
    }
    let mut list = vec![];
    let mut at = HEAD;
    for len in pieces(16, &form.header) {
        list.push((at, len, 0));
        at += u64::from(len);
    }
    at = asked.addr;
    for len in pieces(asked.len, &form.data) {
        list.push((at, len, if asked.write { WRITE } else { 0 }));
        at = at.wrapping_add(u64::from(len));
    }
    list.push((HEAD + 16, 1, WRITE));
    let last = list.len() as u16 - 1;
    let place = |i: u16| if form.backwards && i > 0 { last + 1 - i } else { i };
    for (i, (addr, len, flags)) in (0..).zip(list) {
        let (flags, next) = if i == last { (flags, 0) } else { (flags | NEXT, place(i + 1)) };
        let one = desc(addr, len, flags, next);
        if form.indirect { d.set_indirect(place(i), one) } else { d.set_desc(place(i), one) }
    }
    if form.indirect {
        d.set_desc(0, desc(TABLE, 16 * (u32::from(last) + 1), INDIRECT, 0));
    }
    d.offer(0);
    let mut taken = vec![];
    loop {
        match d.next() {
            Next::Request(request) => taken.push(request),
            Next::Again => {}
            Next::Idle => break,
            Next::Broken(why) => panic!("{why}: every one of them has a status byte"),
        }
    }
    let mut came: Vec<One> = taken.iter().map(what).collect();
    for request in taken {
        if let Some(flush) = d.complete(request, Outcome::Done) {
            came.push(what(&flush));
            d.complete(flush, Outcome::Done);
        }
    }
    let used = d.used();
    assert_eq!((d.queue.bytes_held(), d.queue.in_flight()), (0, 0));
    match used[..] {
        [(0, written)] if came.is_empty() => Came::Status(d.status(0), written, d.get(DATA - 32, 64)),
        _ => Came::Operations(came),
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let kind = prop_oneof![
        4 => Just(IN), 4 => Just(OUT),
        3 => prop::sample::select(vec![FLUSH, GET_ID, DISCARD, WRITE_ZEROES]), 1 => 0_u32..20,
    ];
    // In one region, over two, where nothing is, where nothing may be written, and at the ends.
    let addr = prop_oneof![
        4 => Just(DATA), 2 => (0_u64..8).prop_map(|i| DATA - 4 * i), 1 => Just(ROM),
        1 => prop::sample::select(vec![DATA_END - 512, DATA_END - 8, DATA_END, 0, u64::MAX - 511, u64::MAX - 8]),
    ];
    let len = prop_oneof![4 => Just(512_u32), 2 => Just(4096_u32), 2 => Just(16_u32), 1 => 0_u32..9000];
    let sector = prop_oneof![6 => (0_u64..9).prop_map(|i| i * 8), 2 => 0_u64..70, 1 => any::<u64>()];
    let segment = (
        prop_oneof![3 => (0_u64..8).prop_map(|i| i * 8), 1 => 0_u64..66],
        prop_oneof![3 => Just(8_u32), 1 => 0_u32..20],
        prop_oneof![6 => Just(0_u32), 1 => 0_u32..4],
    );
    let mode = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (kind, sector, addr, len, segment, mode, 0_u8..5).prop_map(
        |(kind, sector, addr, len, segment, (wrong, by_request, big_blocks, durable, other), rare)| Asked {
            kind,
            sector,
            addr,
            len: if matches!(kind, DISCARD | WRITE_ZEROES) && rare != 1 { 16 } else { len },
            // The right way, as a rule.
            write: matches!(kind, IN | GET_ID) != (wrong && other),
            segment,
            read_only: rare == 0,
            by_request,
            big_blocks,
            durable,
        },
    )
}

fn form() -> impl Strategy<Value = Form> {
    let cuts = |most| prop::collection::vec(any::<u32>(), 0..most);
    (any::<(bool, bool)>(), cuts(4), cuts(6)).prop_map(|((indirect, backwards), header, data)| Form {
        indirect,
        backwards,
        header,
        data,
    })
}

/// The form that most drivers give a request.
fn usual(indirect: bool) -> Form {
    Form { indirect, backwards: false, header: vec![], data: vec![] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_comes_to_the_same_in_whatever_form_it_is_asked(asked in asked(), forms in prop::collection::vec(form(), 1..4)) {
        let came = ask(&asked, &usual(false));
        prop_assert_eq!(&ask(&asked, &usual(true)), &came);
        prop_assert_eq!(&ask(&asked, &Form { backwards: true, ..usual(true) }), &came);
        for form in forms {
            prop_assert_eq!(&ask(&asked, &form), &came, "{:?}", form);
        }
    }
}

#[test]
fn the_requests_above_are_served_and_refused_in_every_way() {
    // Otherwise the property would hold for want of variety.
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let (mut runner, mut seen) = (TestRunner::deterministic(), std::collections::BTreeMap::new());
    for _ in 0..2048 {
        let name = match ask(&asked().new_tree(&mut runner).unwrap().current(), &usual(true)) {
            Came::Operations(all) => all.first().map_or("nothing", |(name, ..)| name),
            Came::Status(OK, ..) => "ok",
            Came::Status(IOERR, ..) => "ioerr",
            Came::Status(..) => "unsupp",
        };
        *seen.entry(name).or_insert(0) += 1;
    }
    let names =
        ["discard", "flush", "ioerr", "ok", "read", "read-part", "unsupp", "write", "write-part", "zeroes"];
    assert!(seen.keys().copied().eq(names) && seen.values().all(|count| *count > 20), "{seen:?}");
}
