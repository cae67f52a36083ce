//! A client that does anything that it can, in any order, beside one that wants to be served.

use nvme_l4re::model::{CallId, Kind, Said, Task, TaskCap};
use nvme_mem::Window;
use proptest::prelude::*;

use crate::driver::*;
use crate::rig::*;

/// What a hostile client does next.
#[derive(Clone, Debug)]
enum Act {
    /// Says anything, with any of its capabilities.
    Say(i64, Vec<u64>, Option<(usize, bool)>),
    /// Registers a dataspace of its own.
    Register(usize, u64, u64, u64),
    /// Asks for a status.
    Status(u32),
    /// Sets a queue up, at any addresses.
    Queue(u16, [u64; 3], u16, u64),
    /// Writes into the configuration page.
    Scribble(usize, Vec<u8>),
    /// Writes into its memory: rings, descriptors, headers.
    Write(usize, usize, Vec<u8>),
    /// Does all that a good driver does to begin.
    Begin,
    /// A request that is whole, of that kind, there on the disk, with data there and that long.
    Request(u32, u64, u64, u32),
    /// Writes a descriptor that means something, and makes it available.
    Offer(u16, u64, u32, u16, u16),
    Kick,
    /// Takes one of its dataspaces away from everybody.
    Destroy(usize),
    /// Lets time pass.
    Wait(u64),
}

/// Where it has its memory, as a rule.
const HOME: u64 = 2 << 20;
const LEN: usize = 64 << 10;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..LEN as u64).prop_map(|at| HOME + (at & !0xff)),
        1 => Just(HOME - 16),
        1 => Just(HOME + LEN as u64 - 16),
        1 => any::<u64>(),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let word = prop_oneof![3 => 0..8u64, 1 => (0..8u64, 0..20u64).prop_map(|(op, arg)| op | arg << 32), 1 => any::<u64>()];
    let protocol =
        prop_oneof![4 => Just(0), 2 => Just(-1), 1 => Just(-21), 1 => Just(-15), 1 => any::<i64>()];
    let bytes = proptest::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        3 => (protocol, proptest::collection::vec(word, 0..8), proptest::option::of((0..9usize, any::<bool>())))
            .prop_map(|(protocol, words, cap)| Act::Say(protocol, words, cap)),
        3 => (0..4usize, address(), 0..LEN as u64, 0..2 * LEN as u64)
            .prop_map(|(ds, base, offset, size)| Act::Register(ds, base, offset, size)),
        1 => (0..4usize).prop_map(|ds| Act::Register(ds, HOME, 0, LEN as u64)),
        4 => prop_oneof![Just(0), Just(1), Just(3), Just(11), Just(15), any::<u32>()].prop_map(Act::Status),
        3 => (prop_oneof![Just(256u16), Just(8), any::<u16>()], [address(), address(), address()], 0..3u16, 0..2u64)
            .prop_map(|(num, at, ready, index)| Act::Queue(num, at, ready, index)),
        2 => Just(Act::Queue(256, [HOME, HOME + 0x1000, HOME + 0x2000], 1, 0)),
        2 => (0..4096usize, bytes.clone()).prop_map(|(at, bytes)| Act::Scribble(at, bytes)),
        2 => (0..4usize, 0..LEN, bytes).prop_map(|(ds, at, bytes)| Act::Write(ds, at, bytes)),
        6 => (0..256u16, address(), prop_oneof![Just(16), Just(1), Just(512), Just(4096), any::<u32>()], 0..8u16, 0..300u16)
            .prop_map(|(at, addr, len, flags, next)| Act::Offer(at, addr, len, flags, next)),
        4 => Just(Act::Begin),
        8 => (prop_oneof![6 => 0..2u32, 1 => 0..14u32], prop_oneof![4 => 0..64u64, 1 => any::<u64>()], address(),
            prop_oneof![4 => Just(512u32), 4 => Just(4096), 1 => any::<u32>()])
            .prop_map(|(kind, sector, addr, len)| Act::Request(kind, sector, addr, len)),
        3 => Just(Act::Kick),
        1 => (0..4usize).prop_map(Act::Destroy),
        1 => (0..3_000u64).prop_map(Act::Wait),
    ]
}

struct Hostile {
    task: Task,
    session: TaskCap,
    dataspaces: Vec<(TaskCap, Window)>,
    caps: Vec<TaskCap>,
    page: Window,
    kick: TaskCap,
    offered: u16,
    calls: Vec<CallId>,
}

impl Hostile {
    fn new(rig: &mut Rig) -> Self {
        let (task, session) = rig.client(&["device=evil:n1", "ds-max=3"]);
        let driver = Driver::connect(rig, task, session);
        let Driver { task, page, kick, irq, .. } = driver;
        driver_features(&page);
        let kinds = [Kind::Memory, Kind::Memory, Kind::ReadOnly, Kind::Foreign];
        let dataspaces: Vec<_> = kinds
            .map(|kind| {
                let ds = task.dataspace(kind, LEN);
                (ds, task.window(ds))
            })
            .into();
        let mut caps: Vec<TaskCap> = dataspaces.iter().map(|(ds, _)| *ds).collect();
        caps.extend([session, kick, irq, task.other(), task.irq()]);
        Self { task, session, dataspaces, caps, page, kick, offered: 0, calls: Vec::new() }
    }

    fn call(&mut self, said: Said) {
        self.calls.push(self.task.call(self.session, said));
    }

    fn desc(&self, at: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let (memory, at) = (&self.dataspaces[0].1, 16 * usize::from(at));
        memory.write(at, &addr.to_le_bytes()).unwrap();
        memory.write(at + 8, &len.to_le_bytes()).unwrap();
        memory.write(at + 12, &flags.to_le_bytes()).unwrap();
        memory.write(at + 14, &next.to_le_bytes()).unwrap();
    }

    fn make_available(&mut self, head: u16) {
        let memory = &self.dataspaces[0].1;
        memory.store16(0x1004 + 2 * usize::from(self.offered % 256), head).unwrap();
        self.offered = self.offered.wrapping_add(1);
        memory.store16(0x1002, self.offered).unwrap();
    }

    fn act(&mut self, rig: &mut Rig, act: &Act) {
        match act {
            Act::Say(protocol, words, cap) => {
                let cap = cap.and_then(|(at, right)| Some((*self.caps.get(at)?, right)));
                self.call(Said { cap, ..said(*protocol, words) });
            }
            Act::Register(ds, base, offset, size) => {
                self.call(register(self.caps[*ds], *base, *offset, *size));
            }
            Act::Status(status) => self.call(said(0, &[u64::from(*status) << 32])),
            Act::Queue(num, at, ready, index) => {
                self.page.store16(at::QUEUE + 2, *num).unwrap();
                for (place, addr) in at.iter().enumerate() {
                    self.page.write(at::QUEUE + 8 + 8 * place, &addr.to_le_bytes()).unwrap();
                }
                self.page.store16(at::QUEUE + 4, *ready).unwrap();
                self.call(said(0, &[1 | index << 32]));
            }
            Act::Scribble(at, bytes) => {
                let end = bytes.len().min(4096 - at);
                self.page.write(*at, &bytes[..end]).unwrap();
            }
            Act::Write(ds, at, bytes) => {
                let end = bytes.len().min(LEN - at);
                self.dataspaces[*ds].1.write(*at, &bytes[..end]).unwrap();
            }
            Act::Begin => {
                self.act(rig, &Act::Status(0));
                self.act(rig, &Act::Status(3));
                self.act(rig, &Act::Register(0, HOME, 0, LEN as u64));
                rig.settle();
                self.dataspaces[0].1.fill(0, 0x3000, 0).unwrap();
                self.offered = 0;
                self.act(rig, &Act::Queue(256, [HOME, HOME + 0x1000, HOME + 0x2000], 1, 0));
                rig.settle();
                driver_features(&self.page);
                self.act(rig, &Act::Status(11));
                self.act(rig, &Act::Status(15));
                rig.settle();
            }
            Act::Request(kind, sector, addr, len) => {
                let memory = &self.dataspaces[0].1;
                // Chains begin at each fourth descriptor, and have their header and status behind the rings.
                let head = self.offered % 64 * 4;
                let header = 0x3000 + 32 * usize::from(head);
                memory.write(header, &u64::from(*kind).to_le_bytes()).unwrap();
                memory.write(header + 8, &sector.to_le_bytes()).unwrap();
                self.desc(head, HOME + header as u64, 16, 1, head + 1);
                self.desc(head + 1, *addr, *len, 1, head + 2);
                self.desc(head + 2, HOME + header as u64 + 16, 1, 2, 0);
                self.make_available(head);
                self.task.trigger(self.kick);
            }
            Act::Offer(at, addr, len, flags, next) => {
                self.desc(*at, *addr, *len, *flags, *next);
                self.make_available(*at);
            }
            Act::Kick => self.task.trigger(self.kick),
            Act::Destroy(ds) => self.task.destroy(self.caps[*ds]),
            Act::Wait(millis) => rig.pass_time(MS * u32::try_from(*millis).unwrap()),
        }
    }
}

/// Acknowledges what is offered, so that more can go wrong.
fn driver_features(page: &Window) {
    for at in [0, 4] {
        let word = page.load32(at::DEVICE_FEATURES + at).unwrap();
        page.store32(at::DRIVER_FEATURES + at, word).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn whatever_a_client_does_others_are_served_and_nothing_of_it_is_left(
        acts in proptest::collection::vec(act(), 1..60)
    ) {
        let disks = [disk(), disk()];
        let devices = vec![soft("evil", &disks[0]), soft("good", &disks[1])];
        let mut rig = Rig::start("", devices, |_, _| {}).unwrap();
        let (task, session) = rig.client(&["device=good:n1"]);
        let mut bystander = Driver::setup(&mut rig, task, session, 1 << 20);
        rig.settle();
        let before = (rig.model.slots(), rig.model.attachments());
        let mut hostile = Hostile::new(&mut rig);
        for act in &acts {
            hostile.act(&mut rig, act);
            rig.turn();
            prop_assert!(hostile.dataspaces[2].1.load32(0x8000).is_ok());
        }
        bystander.serves(&mut rig, 1);
        // Whatever was asked is answered, but for what nobody waits for.
        rig.pass_time(SECOND);
        for call in &hostile.calls {
            prop_assert!(hostile.task.answer(*call).is_some());
        }
        hostile.task.die();
        rig.pass_time(SECOND);
        bystander.serves(&mut rig, 2);
        prop_assert_eq!((rig.model.slots(), rig.model.attachments()), before);
        let (task, session) = rig.client(&["device=evil:n1"]);
        Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 3);
    }
}

#[test]
fn an_interrupt_that_is_taken_note_of_while_a_call_waits_keeps_no_caller() {
    let disks = [disk()];
    let mut rig = Rig::start("", vec![soft("evil", &disks[0])], |_, _| {}).unwrap();
    let mut hostile = Hostile::new(&mut rig);
    for act in [Act::Register(0, HOME, 0, 1), Act::Say(-1, vec![4], None)] {
        hostile.act(&mut rig, &act);
        rig.turn();
    }
    rig.pass_time(SECOND);
    let answers: Vec<_> = hostile.calls.iter().map(|call| hostile.task.answer(*call)).collect();
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
}
