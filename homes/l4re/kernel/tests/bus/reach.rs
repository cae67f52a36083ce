//! What a controller reaches of memory.

use nvme_l4re::bus::Options;
use nvme_l4re::chunk::chunk_size;
use nvme_l4re::kernel::L4Error;
use nvme_l4re::model::bus::{Bus, Shape};
use nvme_platform::{DmaError, DmaRights, PAGE};

use crate::rig::{Driven, add, all, one};

const RW: DmaRights = DmaRights::ReadWrite;
const MIB: usize = 1 << 20;

fn bus() -> (Bus, Driven) {
    let bus = Bus::new(16);
    add(&bus, "first", Shape::default(), Some(7));
    let (mut driven, _) = one(&bus, Options::default());
    driven.ready();
    (bus, driven)
}

#[test]
fn a_chunk_is_mapped_once_whoever_wants_what_of_it() {
    COLLISIONS.into_iter().for_each(mapped_once);
}

fn mapped_once(collision: Option<L4Error>) {
    let (bus, mut driven) = bus();
    bus.set_collision(collision);
    let before = bus.mappings(Some(7)).len();
    let dataspace = bus.dataspace(2 * MIB, u64::MAX);
    let all = bus.attach(dataspace, 0, 2 * MIB);
    let part = bus.attach(dataspace, MIB as u64, PAGE);
    let dma = driven.controller.device().dma();
    let first = dma.reserve(&all, RW).unwrap();
    let second = dma.reserve(&part, DmaRights::Read).unwrap();
    let third = dma.reserve(&all, RW).unwrap();
    assert_eq!((second.0, third), (first.0 + MIB as u64, first));
    dma.map(first, &all.sub(0, MIB).unwrap(), RW).unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), before + 1);
    // It stays until the last has gone.
    dma.unmap(first, 2 * MIB as u64).unwrap();
    dma.unmap(second, PAGE as u64).unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), before + 1);
    dma.unmap(first, 2 * MIB as u64).unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), before);
    assert_eq!(dma.unmap(first, 2 * MIB as u64), Err(DmaError::BadRange));
    assert_eq!(dma.map(first, &all, RW), Err(DmaError::BadRange));
}

#[test]
fn what_is_mapped_is_known_though_its_capability_was_given_back() {
    let (bus, mut driven) = bus();
    let dataspace = bus.dataspace(MIB, u64::MAX);
    let other = bus.dataspace(MIB, u64::MAX);
    let window = bus.attach(dataspace, 0, MIB);
    let dma = driven.controller.device().dma();
    let at = dma.reserve(&window, RW).unwrap();
    let again = bus.attach(dataspace, 0, MIB);
    nvme_l4re::bus::DriverDataspaces::release(&bus, dataspace);
    drop(window);
    assert_eq!(dma.reserve(&again, RW).unwrap(), at);
    let window = bus.attach(other, 0, MIB);
    assert_ne!(dma.reserve(&window, RW).unwrap(), at);
}

/// What L4Re answers when something is mapped that is mapped already: until May 2026, since then, and since then without an IOMMU.
const COLLISIONS: [Option<L4Error>; 3] = [Some(L4Error(-17)), Some(L4Error(-99)), None];

#[test]
fn memory_that_was_deleted_under_its_user_is_in_nobodys_way() {
    COLLISIONS.into_iter().for_each(deleted_under_its_user);
}

fn deleted_under_its_user(collision: Option<L4Error>) {
    let (bus, mut driven) = bus();
    bus.set_collision(collision);
    let before = bus.mappings(Some(7)).len();
    let dataspace = bus.dataspace(MIB, u64::MAX);
    let window = bus.attach(dataspace, 0, MIB);
    let dma = driven.controller.device().dma();
    let old = dma.reserve(&window, RW).unwrap();
    // L4Re gives the same memory to somebody else.
    let next = bus.delete_and_reuse(dataspace);
    let theirs = bus.attach(next, 0, MIB);
    let new = dma.reserve(&theirs, RW).unwrap();
    // Where nobody says that it was another's, that is taken away when the other gives it back.
    assert_eq!(bus.mappings(Some(7)).len(), before + 1 + usize::from(collision.is_none()));
    // Whoever had it gives it back, and takes nothing away.
    dma.unmap(old, MIB as u64).unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), before + 1);
    dma.unmap(new, MIB as u64).unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), before);
    // What is gone is not taken for what is there.
    assert_eq!(dma.reserve(&window, RW), Err(DmaError::BadRange));
}

#[test]
fn capability_slots_come_back() {
    let (bus, mut driven) = bus();
    let dataspace = bus.dataspace(MIB, u64::MAX);
    let before = bus.slots();
    for _ in 0..3 {
        let window = bus.attach(dataspace, 0, MIB);
        let dma = driven.controller.device().dma();
        let at = dma.reserve(&window, RW).unwrap();
        dma.unmap(at, MIB as u64).unwrap();
    }
    assert_eq!(bus.slots(), before);
}

#[test]
fn a_range_over_two_chunks_is_refused_and_one_in_each_is_not() {
    let (bus, mut driven) = bus();
    let chunk = chunk_size(0) as usize;
    let dataspace = bus.dataspace(chunk + MIB, u64::MAX);
    let dma = driven.controller.device().dma();
    let both = bus.attach(dataspace, (chunk - PAGE) as u64, 2 * PAGE);
    assert_eq!(dma.reserve(&both, RW), Err(DmaError::BadRange));
    let last = dma.reserve(&both.sub(0, PAGE).unwrap(), RW).unwrap();
    let next = dma.reserve(&both.sub(PAGE, PAGE).unwrap(), RW).unwrap();
    let of = |at: u64| bus.mappings(Some(7)).iter().find(|m| m.3 <= at && at < m.3 + m.2).copied();
    assert_eq!(of(last.0).map(|m| (m.1, m.2)), Some((0, chunk as u64)));
    assert_eq!(of(next.0).map(|m| (m.1, m.2)), Some((chunk as u64, MIB as u64)));
}

#[test]
fn memory_in_pieces_is_refused_where_nothing_puts_it_together() {
    let (bus, mut driven) = bus();
    let before = (bus.mappings(Some(7)).len(), bus.slots());
    let dataspace = bus.dataspace(MIB, PAGE as u64);
    let window = bus.attach(dataspace, 0, MIB);
    let dma = driven.controller.device().dma();
    assert_eq!(dma.reserve(&window, RW), Err(DmaError::NoAddresses));
    drop(window);
    nvme_l4re::bus::DriverDataspaces::release(&bus, dataspace);
    assert_eq!((bus.mappings(Some(7)).len(), bus.slots()), before);
}

#[test]
fn memory_that_is_no_dataspace_is_refused() {
    let (_, mut driven) = bus();
    let window = nvme_mem::heap(PAGE).unwrap();
    assert_eq!(driven.controller.device().dma().reserve(&window, RW), Err(DmaError::BadRange));
}

#[test]
fn a_device_that_is_cut_off_reaches_nothing_of_a_client() {
    let (bus, mut driven) = bus();
    let own = bus.mappings(Some(7)).len();
    let dataspace = bus.dataspace(MIB, u64::MAX);
    let window = bus.attach(dataspace, 0, MIB);
    let at = driven.controller.device().dma().reserve(&window, RW).unwrap();
    driven.controller.cut_off().unwrap();
    assert_eq!(bus.mappings(Some(7)).len(), own);
    assert!(bus.is_unassigned(Some(7)));
    let device = driven.controller.device();
    assert_eq!(device.registers().read32(0), u32::MAX);
    assert_eq!(device.dma().reserve(&window, RW), Err(DmaError::Gone));
    assert_eq!(device.dma().unmap(at, MIB as u64), Err(DmaError::Gone));
    assert!(device.pool().allocate(1).is_err());
}

#[test]
fn controllers_of_one_domain_share_what_is_mapped_and_one_keeps_it_when_the_other_is_cut_off() {
    let bus = Bus::new(16);
    add(&bus, "first", Shape::default(), None);
    add(&bus, "second", Shape::default(), None);
    let mut found: Vec<_> =
        all(&bus, Options::default()).into_iter().map(|f| Driven::new(f.ok().unwrap().device)).collect();
    found.iter_mut().for_each(Driven::ready);
    let dataspace = bus.dataspace(MIB, u64::MAX);
    let window = bus.attach(dataspace, 0, MIB);
    let before = bus.mappings(None).len();
    let at: Vec<_> =
        found.iter_mut().map(|d| d.controller.device().dma().reserve(&window, RW).unwrap()).collect();
    assert_eq!((at[0], bus.mappings(None).len()), (at[1], before + 1));
    found[0].controller.cut_off().unwrap();
    assert_eq!(bus.mappings(None).len(), before + 1);
    assert!(!bus.is_unassigned(None), "the other one needs it");
    found[1].controller.device().dma().unmap(at[1], MIB as u64).unwrap();
    assert_eq!(bus.mappings(None).len(), before);
}

#[test]
fn a_device_that_was_pulled_out_can_be_cut_off() {
    let bus = Bus::new(16);
    let (handle, _) = add(&bus, "first", Shape::default(), None);
    let (mut driven, _) = one(&bus, Options::default());
    driven.ready();
    bus.pull(handle);
    assert!(driven.controller.cut_off().is_ok());
}

#[test]
fn the_drivers_memory_is_cleared_when_it_is_given_out_again() {
    let (_, mut driven) = bus();
    let pool = driven.controller.device().pool();
    let memory = pool.allocate(3).unwrap();
    assert_eq!(memory.window().len(), 3 * PAGE);
    let at = memory.iova();
    memory.window().fill(0, 3 * PAGE, 0xff).unwrap();
    pool.recycle(memory);
    let memory = pool.allocate(3).unwrap();
    assert_eq!((memory.iova(), memory.window().load32(8)), (at, Ok(0)));
    assert!(pool.allocate(1000).unwrap().window().len() == 1000 * PAGE);
    assert!(pool.allocate(0).is_err());
}

#[test]
fn what_is_left_of_a_slab_is_given_to_whoever_fits_there() {
    let (_, mut driven) = bus();
    let pool = driven.controller.device().pool();
    // More than is left of whatever was begun, twice.
    let first = pool.allocate(32).unwrap();
    let (big, next) = (pool.allocate(20).unwrap(), pool.allocate(20).unwrap());
    let small = pool.allocate(12).unwrap();
    // No dataspace was taken for it: those of the model lie one above the other.
    let end = next.iova().0 + next.window().len() as u64;
    assert!(big.iova().0 < end && small.iova().0 <= end, "{big:?} {next:?} {small:?}");
    let large = pool.allocate(63).unwrap();
    assert_eq!((first.window().len(), large.window().len()), (32 * PAGE, 63 * PAGE));
}
