//! Authority divided and taken back (DESIGN 2.2, "Attenuated factories").
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use nvme_policy::{
    Access, BlockSize, Dataspaces, Extent, FactoryRequest, Label, Namespace, PartitionId, Policy,
    SessionRequest, Trusted,
};
use nvme_session::factory::{
    AdoptedFactory, Catalogue, CatalogueConfig, CreateError, FACTORIES_MAX, FACTORY_DEPTH_MAX, FactoryId,
    HeldDevice, Minted, NamespaceEntry, PartitionEntry, Protection, SessionId,
};
use nvme_session::operation::Limits;
use proptest::prelude::*;

const A: Namespace = Namespace { controller: 0, nsid: 1 };
const B: Namespace = Namespace { controller: 1, nsid: 1 };
const LIMITS: Limits = Limits {
    transfer_blocks: 256,
    discard_blocks: 8,
    discard_granularity: 0,
    write_zeroes_blocks: 8,
    volatile_cache: true,
    unmaps_to_zeroes: false,
};
const SERVER: FactoryId = FactoryId::SERVER;

const ACCES: i32 = 13;
const AGAIN: i32 = 11;
const NOMEM: i32 = 12;
const BUSY: i32 = 16;
const NODEV: i32 = 19;
const INVAL: i32 = 22;

fn sized(ns: Namespace, blocks: u64) -> Extent {
    Extent::whole(ns, blocks, BlockSize::B512).unwrap()
}

fn entry(ns: Namespace) -> NamespaceEntry {
    NamespaceEntry::new(if ns == A { "SA" } else { "SB" }, sized(ns, 1000), LIMITS, false)
}

fn part(ns: Namespace, number: u32, label: &str, first: u64, blocks: u64) -> PartitionEntry {
    let id = format!("00000000-0000-0000-0000-{:04x}{first:08x}", number + u32::from(ns.controller) * 256);
    PartitionEntry {
        number,
        id: PartitionId::parse(&id).unwrap(),
        label: Label::new(label).unwrap(),
        extent: sized(ns, 1000).part(first, blocks).unwrap(),
        read_only: None,
    }
}

fn table_a() -> Vec<PartitionEntry> {
    vec![part(A, 1, "root", 100, 100), part(A, 2, "home", 200, 100), part(A, 3, "swap", 300, 100)]
}

fn catalogue_of(sessions_max: usize) -> Catalogue {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max });
    c.set_namespace(entry(A), table_a());
    c.set_namespace(entry(B), vec![part(B, 1, "data", 100, 100)]);
    c.set_scanned();
    c
}

fn catalogue() -> Catalogue {
    catalogue_of(64)
}

fn delegate(c: &mut Catalogue, at: FactoryId, words: &str) -> Result<FactoryId, CreateError> {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    c.delegate(at, &FactoryRequest::from_words(words, &Trusted::NONE).unwrap())
}

fn create(c: &mut Catalogue, at: FactoryId, words: &str) -> Result<Minted, CreateError> {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    c.create_at(at, &SessionRequest::from_words(words, &Trusted::NONE).unwrap())
}

fn errno<T: std::fmt::Debug>(r: Result<T, CreateError>) -> i32 {
    r.unwrap_err().errno().number()
}

fn place(m: &Minted) -> (Namespace, u64, u64, Access) {
    let e = m.grant().extent();
    (e.namespace(), e.first(), e.blocks(), m.grant().access())
}

#[test]
fn a_factory_mints_what_it_holds_and_nothing_else() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root device=SB:n1 read-only").unwrap();
    for (name, of) in [
        ("root", (A, 100, 100)),
        ("SA:n1:1", (A, 100, 100)),
        ("SB:n1", (B, 0, 1000)),
        ("SB:n1:1", (B, 100, 100)),
        ("data", (B, 100, 100)),
    ] {
        let m = create(&mut c, f, &format!("device={name} read-only")).unwrap();
        assert_eq!(place(&m), (of.0, of.1, of.2, Access::ReadOnly), "{name}");
        assert_eq!(m.factory(), f);
        c.end(m.session());
    }
}

/// What is not held gets one and the same answer, whether it exists or not.
#[test]
fn nothing_is_learnt_of_what_a_factory_does_not_hold() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root factories=1").unwrap();
    // Held by somebody else, free, of another kind of name, ambiguous elsewhere, and not there at all.
    create(&mut c, SERVER, "device=home").unwrap();
    let names = ["home", "swap", "SA:n1", "SA:n1:2", "SB:n1", "data", "nothing", "SX:n9", "SA:n1:9"];
    let answer = |r: CreateError| (r.errno(), r.to_string());
    let all: Vec<_> =
        names.iter().map(|n| answer(create(&mut c, f, &format!("device={n}")).unwrap_err())).collect();
    assert_eq!(all[0].0.number(), ACCES);
    assert!(all.iter().all(|a| *a == all[0]), "{all:?}");
    let all: Vec<_> =
        names.iter().map(|n| answer(delegate(&mut c, f, &format!("device={n}")).unwrap_err())).collect();
    assert!(all.iter().all(|a| *a == all[0] && a.0.number() == ACCES), "{all:?}");
}

#[test]
fn a_session_that_asks_for_more_than_reading_is_refused_and_not_given_less() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root read-only").unwrap();
    let why = create(&mut c, f, "device=root").unwrap_err();
    assert_eq!(why.errno().number(), ACCES);
    assert!(why.to_string().contains("read-only"), "{why}");
    assert_eq!(errno(delegate(&mut c, f, "device=root")), ACCES);
    // A writer's factory mints both.
    let f = delegate(&mut c, SERVER, "device=root").unwrap();
    let m = create(&mut c, f, "device=root read-only").unwrap();
    assert_eq!(errno(create(&mut c, f, "device=root")), BUSY);
    c.end(m.session());
    assert_eq!(place(&create(&mut c, f, "device=root").unwrap()).3, Access::ReadWrite);
}

/// A mark that is taken away later gives no more than there was when the factory was made.
#[test]
fn what_could_only_be_read_then_is_not_written_later() {
    let mut c = catalogue();
    let marked = |read_only| vec![PartitionEntry { read_only, ..part(A, 1, "root", 100, 100) }];
    c.set_namespace(entry(A), marked(Some(Protection::Attribute)));
    let f = delegate(&mut c, SERVER, "device=root").unwrap();
    assert_eq!(errno(create(&mut c, f, "device=root")), ACCES);
    c.set_namespace(entry(A), marked(None));
    assert_eq!(errno(create(&mut c, f, "device=root")), ACCES);
    assert!(create(&mut c, f, "device=root read-only").is_ok());
}

#[test]
fn a_mark_that_comes_later_counts() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root").unwrap();
    let marked = PartitionEntry { read_only: Some(Protection::Attribute), ..part(A, 1, "root", 100, 100) };
    c.set_namespace(entry(A), vec![marked]);
    assert_eq!(errno(create(&mut c, f, "device=root")), ACCES);
    assert!(create(&mut c, f, "device=root read-only").is_ok());
}

/// Somebody who may write the whole disk rewrites its table: the factory holds the blocks that it was made of.
#[test]
fn a_rewritten_table_moves_nothing_that_a_factory_holds() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root").unwrap();
    let writer = create(&mut c, SERVER, "device=SA:n1").unwrap();
    assert_eq!(errno(create(&mut c, f, "device=root")), BUSY);
    let ended = c.end(writer.session());
    assert_eq!(ended.rescan, Some(A));
    assert_eq!(errno(create(&mut c, f, "device=root")), AGAIN, "the table may have been rewritten");
    // The name is elsewhere now, and larger.
    c.set_namespace(entry(A), vec![part(A, 1, "root", 500, 400)]);
    let m = create(&mut c, f, "device=root").unwrap();
    assert_eq!(place(&m), (A, 100, 100, Access::ReadWrite));
    // Whoever holds the whole disk meets it there.
    assert_eq!(errno(create(&mut c, SERVER, "device=SA:n1 read-only")), BUSY);
    assert_eq!(errno(create(&mut c, f, "device=SA:n1:2")), ACCES);
}

#[test]
fn the_partitions_of_a_whole_namespace_are_within_it_as_they_come() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=SA:n1").unwrap();
    c.set_namespace(entry(A), vec![part(A, 7, "new", 700, 100)]);
    assert_eq!(place(&create(&mut c, f, "device=new").unwrap()), (A, 700, 100, Access::ReadWrite));
    assert_eq!(errno(create(&mut c, f, "device=data")), ACCES);
}

#[test]
fn a_namespace_grows_under_its_factory_and_a_partition_does_not() {
    let mut c = catalogue();
    let whole = delegate(&mut c, SERVER, "device=SA:n1").unwrap();
    let one = delegate(&mut c, SERVER, "device=swap").unwrap();
    c.keep_namespaces(0, &[sized(A, 2000)]);
    c.set_namespace(
        NamespaceEntry::new("SA", sized(A, 2000), LIMITS, false),
        vec![part(A, 3, "swap", 300, 600)],
    );
    let m = create(&mut c, one, "device=swap").unwrap();
    assert_eq!(place(&m), (A, 300, 100, Access::ReadWrite));
    c.end(m.session());
    assert_eq!(place(&create(&mut c, whole, "device=SA:n1").unwrap()), (A, 0, 2000, Access::ReadWrite));
}

#[test]
fn what_goes_and_comes_back_is_had_again_and_its_stand_in_is_not() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=root").unwrap();
    c.remove_controller(0);
    assert_eq!(errno(create(&mut c, f, "device=root")), NODEV);
    assert_eq!(errno(create(&mut c, f, "device=home")), ACCES);
    let shown: Vec<HeldDevice> = c.factory(f).unwrap().devices().collect();
    assert_eq!(
        shown,
        [HeldDevice { name: "partlabel:root".into(), extent: None, access: Access::ReadWrite }]
    );
    // Another drive with a partition of that name.
    let other = Namespace { controller: 2, nsid: 1 };
    c.set_namespace(
        NamespaceEntry::new("SC", sized(other, 1000), LIMITS, false),
        vec![part(other, 1, "root", 100, 100)],
    );
    assert_eq!(errno(create(&mut c, f, "device=root")), NODEV);
    // The same drive, by another index.
    let back = Namespace { controller: 3, nsid: 1 };
    let table = table_a()
        .into_iter()
        .map(|p| PartitionEntry { extent: sized(back, 1000).part(p.extent.first(), 100).unwrap(), ..p });
    c.set_namespace(NamespaceEntry::new("SA", sized(back, 1000), LIMITS, false), table.collect());
    assert_eq!(place(&create(&mut c, f, "device=root").unwrap()), (back, 100, 100, Access::ReadWrite));
}

#[test]
fn an_operator_s_factory_waits_for_a_device_that_is_absent() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 8 });
    let asked = FactoryRequest::from_words(["device=root", "device=later"], &Trusted::NONE).unwrap();
    let f = c.delegate_at_start(&asked).unwrap();
    c.set_namespace(entry(A), table_a());
    c.set_scanned();
    assert!(create(&mut c, f, "device=root").is_ok());
    assert_eq!(errno(create(&mut c, f, "device=later")), NODEV);
    c.set_namespace(entry(B), vec![part(B, 1, "later", 100, 100)]);
    let m = create(&mut c, f, "device=later").unwrap();
    assert_eq!(place(&m).0, B);
    // It is bound now: another of its name is none of its.
    c.end(m.session());
    c.remove_controller(1);
    let other = Namespace { controller: 2, nsid: 1 };
    c.set_namespace(
        NamespaceEntry::new("SC", sized(other, 1000), LIMITS, false),
        vec![part(other, 1, "later", 100, 100)],
    );
    assert_eq!(errno(create(&mut c, f, "device=later")), NODEV);
    // Through `create` an absent device is refused at once.
    assert_eq!(errno(delegate(&mut c, SERVER, "device=absent")), NODEV);
}

#[test]
fn candidates_are_the_factory_s_own() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 8 });
    for ns in [A, B, Namespace { controller: 2, nsid: 1 }] {
        let serial = ["SA", "SB", "SC"][usize::from(ns.controller)];
        c.set_namespace(
            NamespaceEntry::new(serial, sized(ns, 1000), LIMITS, false),
            vec![part(ns, 1, "root", 100, 100)],
        );
    }
    c.set_scanned();
    let f = delegate(&mut c, SERVER, "device=SA:n1 device=SB:n1").unwrap();
    let why = create(&mut c, f, "device=root").unwrap_err();
    assert_eq!(why.errno().number(), INVAL);
    let text = why.to_string();
    assert!(text.contains("SA:n1:1") && text.contains("SB:n1:1") && !text.contains("SC"), "{text}");
    // Whoever holds one of them names it without doubt.
    let f = delegate(&mut c, SERVER, "device=SB:n1:1").unwrap();
    assert_eq!(place(&create(&mut c, f, "device=root").unwrap()).0, B);
}

#[test]
fn one_device_is_not_held_twice() {
    let mut c = catalogue();
    assert_eq!(errno(delegate(&mut c, SERVER, "device=root device=SA:n1:1")), INVAL);
    assert!(delegate(&mut c, SERVER, "device=root device=SA:n1").is_ok());
}

#[test]
fn a_quota_counts_all_that_is_minted_below() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=SA:n1 read-only sessions=3 factories=2").unwrap();
    let g = delegate(&mut c, f, "device=root read-only factories=1").unwrap();
    let h = delegate(&mut c, g, "device=root read-only sessions=1").unwrap();
    assert_eq!(errno(delegate(&mut c, f, "device=root read-only")), NOMEM);
    assert_eq!(errno(delegate(&mut c, g, "device=root read-only")), NOMEM);
    assert_eq!(errno(delegate(&mut c, h, "device=root read-only")), NOMEM);
    let words = "device=root read-only";
    let first = create(&mut c, h, words).unwrap();
    assert_eq!(errno(create(&mut c, h, words)), NOMEM);
    create(&mut c, g, words).unwrap();
    create(&mut c, f, words).unwrap();
    assert_eq!(errno(create(&mut c, f, words)), NOMEM);
    assert_eq!(errno(create(&mut c, g, words)), NOMEM);
    c.end(first.session());
    create(&mut c, g, words).unwrap();
}

#[test]
fn factories_stand_eight_deep_and_are_sixty_four_in_all() {
    let mut c = catalogue();
    let mut at = SERVER;
    for depth in 0..FACTORY_DEPTH_MAX {
        at = delegate(&mut c, at, &format!("device=root factories={}", 60 - depth)).unwrap();
    }
    assert_eq!(errno(delegate(&mut c, at, "device=root")), NOMEM);
    while c.factories().count() < FACTORIES_MAX {
        delegate(&mut c, SERVER, "device=root").unwrap();
    }
    assert_eq!(errno(delegate(&mut c, SERVER, "device=root")), NOMEM);
    // The deepest one mints within all of them.
    assert_eq!(place(&create(&mut c, at, "device=root").unwrap()), (A, 100, 100, Access::ReadWrite));
}

#[test]
fn what_is_taken_back_mints_no_more_and_goes_children_first() {
    let mut c = catalogue();
    let f = delegate(&mut c, SERVER, "device=SA:n1 factories=4").unwrap();
    let g = delegate(&mut c, f, "device=root factories=1").unwrap();
    let h = delegate(&mut c, g, "device=root").unwrap();
    let other = delegate(&mut c, SERVER, "device=root").unwrap();
    let [a, b] = [create(&mut c, h, "device=root read-only"), create(&mut c, f, "device=home read-only")]
        .map(Result::unwrap);
    let undisturbed = create(&mut c, other, "device=root read-only").unwrap();
    let mut to_end = c.end_factory(f);
    to_end.sort();
    assert_eq!(to_end, [a.session(), b.session()]);
    for at in [f, g, h] {
        assert_eq!(errno(create(&mut c, at, "device=root read-only")), ACCES);
        assert_eq!(errno(delegate(&mut c, at, "device=root read-only")), ACCES);
    }
    // Only a factory below which nothing is left has gone.
    assert_eq!(c.take_ended_factories(), []);
    c.end(b.session());
    assert_eq!(c.take_ended_factories(), []);
    c.end(a.session());
    assert_eq!(c.take_ended_factories(), [h, g, f]);
    assert_eq!(c.take_ended_factories(), []);
    assert!(c.factory(f).is_none() && c.factory(other).is_some());
    assert!(c.holders(undisturbed.grant().extent()).any(|h| h.session == Some(undisturbed.session())));
    // The server's own is nobody's to take back.
    assert_eq!(c.end_factory(SERVER), Vec::<SessionId>::new());
    assert!(create(&mut c, SERVER, "device=home").is_ok());
}

#[test]
fn one_factory_cannot_take_all_the_room_there_is() {
    let mut c = catalogue_of(16);
    let f = delegate(&mut c, SERVER, "device=root read-only").unwrap();
    let g = delegate(&mut c, SERVER, "device=root read-only").unwrap();
    let words = "device=root read-only";
    let taken = (0..16).take_while(|_| create(&mut c, f, words).is_ok()).count();
    assert!((8..16).contains(&taken), "{taken}");
    for at in [g, SERVER] {
        assert!(create(&mut c, at, words).is_ok());
    }
    // With nobody else there, all of it is the server's own.
    let mut c = catalogue_of(16);
    assert_eq!((0..20).filter(|_| create(&mut c, SERVER, words).is_ok()).count(), 16);
}

/// One tenant takes what it can while there is nobody else. Who is given a factory afterwards finds a share in what is left.
#[test]
fn who_comes_later_has_a_share_of_what_is_left() {
    let words = "device=root read-only";
    let mut c = catalogue_of(16);
    let f = delegate(&mut c, SERVER, words).unwrap();
    let taken = std::iter::from_fn(|| create(&mut c, f, words).ok()).count();
    assert_eq!(taken, 12);
    let [g, h] = [(); 2].map(|()| delegate(&mut c, SERVER, words).unwrap());
    assert_eq!(errno(create(&mut c, f, words)), NOMEM, "it has more than its share");
    let sessions = [g, h, SERVER, g].map(|at| create(&mut c, at, words).unwrap());
    // Now there is no room at all, and whoever leaves makes some for those that have less than their share.
    for at in [f, g, h, SERVER] {
        assert_eq!(errno(create(&mut c, at, words)), NOMEM);
    }
    c.end(sessions[0].session());
    assert_eq!(errno(create(&mut c, f, words)), NOMEM);
    assert!(create(&mut c, h, words).is_ok());
}

/// What a tenant took while it was alone is his after an upgrade as well, though others have a share of their own by now.
#[test]
fn the_next_server_goes_on_with_all_sessions_whatever_is_kept_for_others() {
    let words = "device=root read-only";
    let mut c = catalogue_of(16);
    let f = delegate(&mut c, SERVER, words).unwrap();
    let taken: Vec<Minted> = std::iter::from_fn(|| create(&mut c, f, words).ok()).collect();
    assert_eq!(taken.len(), 12);
    for _ in 0..2 {
        delegate(&mut c, SERVER, words).unwrap();
    }
    let mut next = catalogue_of(16);
    for view in c.factories() {
        let adopted = AdoptedFactory {
            number: view.id().number(),
            parent: view.parent(),
            ceiling: *view.ceiling(),
            tag: view.tag().cloned(),
            holdings: c.holdings(view.id()),
        };
        next.adopt_factory(adopted).unwrap();
    }
    let adopt = |next: &mut Catalogue, m: &Minted, number: u64| {
        let at = c.placed(m.session()).unwrap();
        next.adopt(number, m.policy(), next.factory_numbered(f.number()).unwrap(), &at, false)
    };
    for minted in &taken {
        let again = adopt(&mut next, minted, minted.session().number()).unwrap();
        assert_eq!(place(&again), place(minted));
    }
    // It is given no more by that.
    let f = next.factory_numbered(f.number()).unwrap();
    assert_eq!(errno(create(&mut next, f, words)), NOMEM);
    for number in 100..104 {
        adopt(&mut next, &taken[0], number).unwrap();
    }
    assert_eq!(errno(adopt(&mut next, &taken[0], 104)), NOMEM, "there is no room at all");
}

/// What its maker was allowed is no business of who has a part of it.
#[test]
fn a_quota_above_is_not_told_to_those_below() {
    let mut c = catalogue();
    let words = "device=root read-only";
    let f = delegate(&mut c, SERVER, &format!("{words} sessions=3 factories=3")).unwrap();
    let g = delegate(&mut c, f, &format!("{words} factories=2")).unwrap();
    let h = delegate(&mut c, f, words).unwrap();
    (0..3).for_each(|_| drop(create(&mut c, h, words).unwrap()));
    delegate(&mut c, f, words).unwrap();
    let says = |why: CreateError| {
        assert_eq!(why.errno().number(), NOMEM, "{why}");
        why.to_string()
    };
    for text in [says(create(&mut c, g, words).unwrap_err()), says(delegate(&mut c, g, words).unwrap_err())] {
        assert!(text.contains("above") && !text.contains(|c: char| c.is_ascii_digit()), "{text}");
    }
    for text in [says(create(&mut c, f, words).unwrap_err()), says(delegate(&mut c, f, words).unwrap_err())] {
        assert!(text.contains("3 at most"), "{text}");
    }
}

#[test]
fn a_policy_that_was_admitted_carries_all_that_was_said() {
    let mut c = catalogue();
    let names = ["ram"];
    let asked = SessionRequest::from_words(
        ["device=root", "ds=ram", "iops=10", "bytes=1M", "name=VM 7"],
        &Trusted { names: &names, held: Dataspaces::ALL },
    );
    let m = c.create_at(SERVER, &asked.unwrap()).unwrap();
    let policy: &Policy = m.policy();
    assert!(policy.dataspaces().admits(Some(0)) && !policy.dataspaces().admits(Some(1)));
    assert_eq!((policy.rate().iops.unwrap().get(), policy.rate().bytes.unwrap().get()), (10, 1 << 20));
    assert_eq!(policy.tag().unwrap().as_str(), "VM 7");
}

const DEVICES: [&str; 6] = ["SA:n1", "SB:n1", "root", "home", "swap", "data"];

#[derive(Clone, Debug)]
enum Step {
    Delegate(usize, Vec<usize>, bool),
    Create(usize, usize, bool),
    EndSession(usize),
    EndFactory(usize),
    Table(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6_usize, proptest::collection::vec(0..6_usize, 1..3), any::<bool>())
            .prop_map(|(at, devices, ro)| Step::Delegate(at, devices, ro)),
        6 => (0..6_usize, 0..6_usize, any::<bool>()).prop_map(|(at, device, ro)| Step::Create(at, device, ro)),
        2 => (0..8_usize).prop_map(Step::EndSession),
        1 => (0..6_usize).prop_map(Step::EndFactory),
        1 => (0..3_u8).prop_map(Step::Table),
    ]
}

/// Blocks with the right to change them, as a model of what a factory held when it was made.
type Held = Vec<(Namespace, u64, u64, bool)>;

fn within(held: &Held, m: (Namespace, u64, u64, Access)) -> bool {
    held.iter().any(|(ns, first, blocks, rw)| {
        *ns == m.0 && *first <= m.1 && m.1 + m.2 <= first + blocks && (*rw || m.3 == Access::ReadOnly)
    })
}

proptest! {
    /// Whatever is asked for in whatever order, and however the tables are rewritten: what is minted lies in what each factory above it
    /// held when that was made, and nothing is minted through what was taken back.
    #[test]
    fn nothing_is_minted_outside_of_what_a_factory_held_when_it_was_made(steps in proptest::collection::vec(step(), 1..60)) {
        let mut c = catalogue();
        let all: Held = vec![(A, 0, 1000, true), (B, 0, 1000, true)];
        let mut made: Vec<(FactoryId, Option<usize>, Held, bool)> = vec![(SERVER, None, all, false)];
        let mut live: Vec<SessionId> = Vec::new();
        for step in steps {
            match step {
                Step::Delegate(at, devices, ro) => {
                    let at = at % made.len();
                    let words: Vec<String> = devices.iter().map(|d| format!("device={}", DEVICES[*d]))
                        .chain(ro.then(|| "read-only".into())).chain(["factories=9".into()]).collect();
                    let Ok(asked) = FactoryRequest::from_words(words.iter().map(String::as_str), &Trusted::NONE) else { continue };
                    let Ok(id) = c.delegate(made[at].0, &asked) else { continue };
                    prop_assert!(!made[at].3);
                    let held: Held = c.factory(id).unwrap().devices().map(|d| {
                        let e = d.extent.unwrap();
                        (e.namespace(), e.first(), e.blocks(), d.access == Access::ReadWrite)
                    }).collect();
                    for h in &held {
                        let access = if h.3 { Access::ReadWrite } else { Access::ReadOnly };
                        prop_assert!(within(&made[at].2, (h.0, h.1, h.2, access)), "{:?} of {:?}", h, made[at].2);
                    }
                    made.push((id, Some(at), held, false));
                }
                Step::Create(at, device, ro) => {
                    let at = at % made.len();
                    let words = format!("device={}{}", DEVICES[device], if ro { " read-only" } else { "" });
                    let Ok(m) = create(&mut c, made[at].0, &words) else { continue };
                    prop_assert!(!made[at].3, "minted through what was taken back");
                    let mut link = Some(at);
                    while let Some(up) = link {
                        prop_assert!(within(&made[up].2, place(&m)), "{:?} outside of {:?}", place(&m), made[up].2);
                        link = made[up].1;
                    }
                    live.push(m.session());
                }
                Step::EndSession(at) if !live.is_empty() => {
                    let id = live.swap_remove(at % live.len());
                    if let Some(ns) = c.end(id).rescan {
                        let table = if ns == A { table_a() } else { vec![part(B, 1, "data", 100, 100)] };
                        c.set_namespace(entry(ns), table);
                    }
                }
                Step::EndFactory(at) if at % made.len() > 0 => {
                    let id = made[at % made.len()].0;
                    for session in c.end_factory(id) {
                        if let Some(ns) = c.end(session).rescan {
                            let table = if ns == A { table_a() } else { vec![part(B, 1, "data", 100, 100)] };
                            c.set_namespace(entry(ns), table);
                        }
                        live.retain(|l| *l != session);
                    }
                    let gone = c.take_ended_factories();
                    for (id, _, _, ended) in &mut made {
                        *ended |= gone.contains(id);
                    }
                }
                Step::Table(way) => {
                    let table = match way {
                        0 => table_a(),
                        1 => vec![part(A, 1, "root", 500, 400), part(A, 2, "home", 10, 50)],
                        _ => Vec::new(),
                    };
                    c.set_namespace(entry(A), table);
                }
                _ => {}
            }
        }
    }
}
