//! What a client may register, and what becomes of it.

use nvme_mem::heap;
use nvme_platform::Iova;
use nvme_policy::{Dataspaces, DsMax, Errno};
use nvme_session::dataspace::{
    Claim, File, FileId, MemoryChange, Plan, Registry, RegistryConfig, RegistryError as E,
};
use nvme_session::memory::{REGIONS_MAX, SLOTS_MAX};
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn registry(ds_max: u16, memory_max: u64, trusted_only: bool) -> Registry {
    Registry::new(RegistryConfig {
        ds_max: DsMax::new(ds_max).unwrap(),
        memory_max,
        trusted_only,
        dataspaces: Dataspaces::ALL,
    })
}

fn file(inode: u64) -> File {
    File { id: FileId(1, inode), size: 1 << 30, writable: true, memory: true, trusted: Dataspaces::NONE }
}

/// `pages` pages at page `at`, in the file at the same place.
fn claim(at: u64, pages: u64) -> Claim {
    Claim { guest: at * PAGE, user: (1 << 40) + at * PAGE, len: pages * PAGE, offset: at * PAGE }
}

fn map(r: &mut Registry, slot: u16, pages: u64) {
    let window = heap((pages * PAGE) as usize).unwrap();
    r.mapped(slot, window, Iova(0xab_0000_0000 + (u64::from(slot) << 24))).unwrap();
}

/// Plans a change and applies it.
fn change(r: &mut Registry, change: &MemoryChange, room: usize) -> Result<Plan, E> {
    let plan = r.plan(change, room)?;
    r.apply(&plan, room)?;
    Ok(plan)
}

/// A slot is set aside; nothing is mapped yet.
fn begin(r: &mut Registry, claim: Claim, file: File) -> Result<u16, E> {
    change(r, &MemoryChange::Add(claim, file), usize::MAX).map(|plan| plan.new_regions()[0].slot)
}

fn add(r: &mut Registry, claim: Claim, file: File) -> Result<u16, E> {
    let slot = begin(r, claim, file)?;
    map(r, slot, claim.len / PAGE);
    Ok(slot)
}

fn remove(r: &mut Registry, c: Claim) -> Result<u16, E> {
    change(r, &MemoryChange::Remove(c.guest, c.user, c.len), usize::MAX).map(|plan| plan.removed()[0])
}

/// What is to be mapped, by slot and by place among the wanted; and what goes.
type Difference = (Vec<(u16, usize)>, Vec<u16>);

fn replace(r: &mut Registry, wanted: &[(Claim, File)]) -> Result<Difference, E> {
    let plan = change(r, &MemoryChange::Replace(wanted.to_vec()), usize::MAX)?;
    let new = plan.new_regions().iter().map(|new| (new.slot, new.index));
    Ok((new.collect(), plan.removed().to_vec()))
}

#[test]
fn empty_and_wrapping_regions_are_refused() {
    let mut r = registry(2, 1 << 40, false);
    let mut ask = |c: Claim| begin(&mut r, c, file(1)).unwrap_err();
    let good = claim(1, 1);
    assert_eq!(ask(Claim { len: 0, ..good }), E::Empty);
    assert_eq!(ask(Claim { guest: u64::MAX - PAGE + 1, ..good }), E::Wraps);
    assert_eq!(ask(Claim { user: u64::MAX - PAGE + 2, ..good }), E::Wraps);
    assert_eq!(ask(Claim { offset: u64::MAX - PAGE + 1, ..good }), E::Wraps);
    assert_eq!(ask(Claim { len: u64::MAX, ..good }), E::Wraps);
    assert!(r.is_empty());
}

#[test]
fn a_region_over_the_end_of_its_file_is_refused() {
    let mut r = registry(2, 1 << 40, false);
    let small = File { size: 4 * PAGE + 1, ..file(1) };
    assert_eq!(add(&mut r, claim(4, 1), small), Err(E::OutsideFile));
    assert_eq!(add(&mut r, claim(0, 5), small), Err(E::OutsideFile));
    assert_eq!(add(&mut r, Claim { offset: 1 << 40, ..claim(0, 1) }, small), Err(E::OutsideFile));
    assert!(add(&mut r, claim(0, 4), small).is_ok());
}

#[test]
fn overlapping_regions_are_refused() {
    let mut r = registry(2, 1 << 40, false);
    let c = claim(4, 4);
    add(&mut r, c, file(1)).unwrap();
    // What differs in anything is another, in the same place.
    assert_eq!(add(&mut r, c, file(2)), Err(E::Overlaps));
    assert_eq!(add(&mut r, c, File { writable: false, ..file(1) }), Err(E::Overlaps));
    assert_eq!(add(&mut r, Claim { offset: c.offset + PAGE, ..c }, file(1)), Err(E::Overlaps));
    for (guest, user) in [(7, 100), (100, 7), (1, 1), (5, 5)] {
        let other = Claim { guest: guest * PAGE, user: (1 << 40) + user * PAGE, ..c };
        assert_eq!(add(&mut r, other, file(1)), Err(E::Overlaps), "{guest} {user}");
    }
    assert!(add(&mut r, claim(0, 4), file(1)).is_ok() && add(&mut r, claim(8, 1), file(1)).is_ok());
    // What is still being mapped counts.
    let slot = begin(&mut r, claim(20, 1), file(1)).unwrap();
    assert_eq!(add(&mut r, claim(20, 2), file(1)), Err(E::Overlaps));
    r.abandon(slot);
    assert!(add(&mut r, claim(20, 1), file(1)).is_ok());
}

#[test]
fn a_region_that_is_registered_already_is_the_same() {
    let mut r = registry(1, 4 * PAGE, false);
    let c = claim(4, 4);
    let slot = begin(&mut r, c, file(1)).unwrap();
    let again = MemoryChange::Add(c, file(1));
    assert_eq!(r.plan(&again, 1), Err(E::Busy), "it would be said to be there before it is");
    map(&mut r, slot, 4);
    // It is no region more, no file more and no byte more.
    for _ in 0..3 {
        let plan = change(&mut r, &again, 1).unwrap();
        assert!(plan.new_regions().is_empty() && plan.removed().is_empty());
    }
    assert_eq!((r.regions(), r.bytes(), r.table().regions().len()), (1, 4 * PAGE, 1));
    // Its file is looked at all the same, and it goes at once.
    let short = MemoryChange::Add(c, File { size: 7 * PAGE, ..file(1) });
    assert_eq!(r.plan(&short, 1), Err(E::OutsideFile));
    remove(&mut r, c).unwrap();
    assert_eq!(remove(&mut r, c), Err(E::NotRegistered));
    assert_eq!(
        r.plan(&again, 9),
        Err(E::TooMuchMemory { asked: 8 * PAGE, allowed: 4 * PAGE }),
        "it is leaving"
    );
}

#[test]
fn region_513_is_refused_and_one_that_goes_makes_room() {
    let mut r = registry(1, 1 << 40, false);
    for i in 0..REGIONS_MAX as u64 {
        add(&mut r, claim(2 * i, 1), file(1)).unwrap();
    }
    assert_eq!(r.table().regions().len(), REGIONS_MAX);
    assert_eq!(add(&mut r, claim(5000, 1), file(1)), Err(E::TooManyRegions));
    assert_eq!(E::TooManyRegions.errno(), Errno::NoMemory);
    remove(&mut r, claim(0, 1)).unwrap();
    assert!(add(&mut r, claim(5000, 1), file(1)).is_ok());
}

#[test]
fn ds_max_counts_files_and_the_next_one_is_refused() {
    let mut r = registry(2, 1 << 40, false);
    for (i, inode) in [1, 2, 1, 2, 1].into_iter().enumerate() {
        add(&mut r, claim(10 * i as u64, 1), file(inode)).unwrap();
    }
    assert_eq!((r.regions(), r.dataspaces()), (5, 2));
    let third = Err(E::TooManyDataspaces { asked: 3, allowed: 2 });
    assert_eq!(add(&mut r, claim(100, 1), file(3)), third);
    // The same inode on another device is another file.
    assert_eq!(add(&mut r, claim(100, 1), File { id: FileId(2, 1), ..file(1) }), third);
    remove(&mut r, claim(10, 1)).unwrap();
    assert_eq!(add(&mut r, claim(100, 1), file(3)), third, "there is another region in it");
    remove(&mut r, claim(30, 1)).unwrap();
    assert!(add(&mut r, claim(100, 1), file(3)).is_ok());
}

#[test]
fn only_trusted_dataspaces_are_registered_when_there_are_any() {
    let mut r = registry(2, 1 << 40, true);
    assert_eq!(add(&mut r, claim(0, 1), file(1)), Err(E::NotTrusted));
    assert_eq!(E::NotTrusted.errno(), Errno::Invalid);
    // A trusted one need not be memory.
    assert!(
        add(&mut r, claim(0, 1), File { trusted: Dataspaces::of(&[0]), memory: false, ..file(1) }).is_ok()
    );
}

#[test]
fn a_file_that_is_not_memory_is_refused_unless_it_is_trusted() {
    let mut r = registry(2, 1 << 40, false);
    let disk = File { memory: false, ..file(1) };
    assert_eq!(add(&mut r, claim(0, 1), disk), Err(E::NotMemory));
    assert!(add(&mut r, claim(0, 1), File { trusted: Dataspaces::of(&[0]), ..disk }).is_ok());
}

#[test]
fn memory_is_budgeted_and_counts_until_it_is_gone() {
    let mut r = registry(2, 4 * PAGE, false);
    let slot = add(&mut r, claim(0, 3), file(1)).unwrap();
    let over = Err(E::TooMuchMemory { asked: 5 * PAGE, allowed: 4 * PAGE });
    assert_eq!(add(&mut r, claim(10, 2), file(1)), over);
    assert_eq!(remove(&mut r, claim(0, 3)), Ok(slot));
    assert_eq!(add(&mut r, claim(10, 2), file(1)), over, "it is still mapped");
    assert_eq!(r.drained(slot).map(|d| d.window.len() as u64), Some(3 * PAGE));
    assert!(add(&mut r, claim(10, 2), file(1)).is_ok());
    assert_eq!(r.bytes(), 2 * PAGE);
}

#[test]
fn a_region_is_removed_exactly_as_it_was_registered() {
    let mut r = registry(2, 1 << 40, false);
    let c = claim(4, 2);
    let slot = add(&mut r, c, file(1)).unwrap();
    for wrong in [claim(4, 1), claim(5, 1), claim(5, 2), Claim { user: 0, ..c }, Claim { guest: 0, ..c }] {
        assert_eq!(remove(&mut r, wrong), Err(E::NotRegistered));
    }
    assert!(r.drained(slot).is_none(), "it was not removed");
    assert_eq!((remove(&mut r, c), remove(&mut r, c)), (Ok(slot), Err(E::NotRegistered)));
    assert!(r.table().regions().is_empty() && !r.is_empty());
    assert_eq!(r.drained(slot).map(|d| d.slot), Some(slot));
    assert!(r.drained(slot).is_none() && r.is_empty());
}

#[test]
fn a_slot_is_used_again_only_when_it_is_drained() {
    let mut r = registry(1, 1 << 40, false);
    let first = add(&mut r, claim(0, 1), file(1)).unwrap();
    remove(&mut r, claim(0, 1)).unwrap();
    let second = add(&mut r, claim(0, 1), file(1)).unwrap();
    assert_ne!(first, second);
    r.drained(first).unwrap();
    assert_eq!(add(&mut r, claim(1, 1), file(1)), Ok(first));
}

#[test]
fn churn_without_an_end_to_the_transfers_is_bounded() {
    // A client that removes what a stuck command still uses runs out of slots, not the server out of memory.
    let mut r = registry(1, 1 << 40, false);
    let mut added = 0;
    let refused = loop {
        match add(&mut r, claim(0, 1), file(1)) {
            Ok(_) => added += 1,
            Err(why) => break why,
        }
        remove(&mut r, claim(0, 1)).unwrap();
    };
    assert_eq!((refused, added), (E::TooManyRegions, SLOTS_MAX));
}

#[test]
fn a_mapping_that_is_not_what_was_claimed_is_refused() {
    let mut r = registry(1, 1 << 40, false);
    let slot = begin(&mut r, claim(0, 2), file(1)).unwrap();
    assert_eq!(r.mapped(slot, heap(4096).unwrap(), Iova(0)), Err(E::BadMapping));
    assert_eq!(r.mapped(slot, heap(8192).unwrap(), Iova(u64::MAX - 4095)), Err(E::BadMapping));
    assert_eq!(r.mapped(slot + 1, heap(8192).unwrap(), Iova(0)), Err(E::NotRegistered));
    assert!(r.table().regions().is_empty(), "what is not mapped is in no table");
    assert_eq!(remove(&mut r, claim(0, 2)), Err(E::Busy));
    map(&mut r, slot, 2);
    assert_eq!(r.mapped(slot, heap(8192).unwrap(), Iova(0)), Err(E::Busy));
    assert_eq!(r.table().regions().len(), 1);
}

#[test]
fn a_read_only_file_makes_a_region_that_is_not_written() {
    let mut r = registry(1, 1 << 40, false);
    add(&mut r, claim(0, 1), File { writable: false, ..file(1) }).unwrap();
    assert!(!r.table().regions()[0].writable);
}

#[test]
fn a_new_table_is_a_difference() {
    let mut r = registry(2, 1 << 40, false);
    let (a, b) = (add(&mut r, claim(0, 4), file(1)).unwrap(), add(&mut r, claim(10, 4), file(1)).unwrap());
    let before = r.table();
    // The first stays, the second is somewhere else in the guest, a third is new.
    let moved = Claim { guest: 20 * PAGE, ..claim(10, 4) };
    let plan = replace(&mut r, &[(moved, file(1)), (claim(0, 4), file(1)), (claim(30, 1), file(2))]).unwrap();
    assert_eq!(plan.1, [b]);
    let new: Vec<_> = plan.0.iter().map(|(_, index)| *index).collect();
    assert_eq!(new, [0, 2]);
    for (slot, index) in plan.0 {
        map(&mut r, slot, [4, 4, 1][index]);
    }
    let after = r.table();
    let of = |t: &nvme_session::memory::MemoryTable, slot| {
        t.regions().iter().find(|r| r.slot == slot).map(|r| (r.window.address(), r.iova))
    };
    assert_eq!(of(&before, a), of(&after, a), "the mapping stays");
    assert_eq!((of(&after, b), after.regions().len()), (None, 3));
    assert_eq!(replace(&mut r, &[]).map(|p| p.1.len()), Ok(3));
}

#[test]
fn a_table_that_is_refused_changes_nothing() {
    let mut r = registry(1, 8 * PAGE, false);
    let c = claim(0, 4);
    add(&mut r, c, file(1)).unwrap();
    let before = r.table().regions().len();
    let bad: [(Vec<(Claim, File)>, E); 7] = [
        (vec![(claim(0, 4), file(1)), (claim(3, 1), file(1))], E::Overlaps),
        (vec![(c, file(1)), (c, file(1))], E::Overlaps),
        (vec![(claim(0, 1), file(1)), (claim(1, 1), file(2))], E::TooManyDataspaces { asked: 2, allowed: 1 }),
        (vec![(claim(0, 9), file(1))], E::TooMuchMemory { asked: 9 * PAGE, allowed: 8 * PAGE }),
        (vec![(claim(8, 1), file(1)), (Claim { len: 0, ..c }, file(1))], E::Empty),
        (vec![(Claim { user: c.user, ..claim(9, 1) }, file(1)), (c, file(1))], E::Overlaps),
        ((0..=REGIONS_MAX as u64).map(|i| (claim(i, 1), file(1))).collect(), E::TooManyRegions),
    ];
    for (wanted, why) in bad {
        assert_eq!(replace(&mut r, &wanted), Err(why));
        assert_eq!((r.table().regions().len(), r.bytes()), (before, 4 * PAGE));
    }
    assert_eq!(replace(&mut r, &[(c, file(1))]), Ok(Difference::default()));
}

#[test]
fn all_memory_can_be_replaced_at_once_within_the_budget() {
    let mut r = registry(1, 4 * PAGE, false);
    let old = add(&mut r, claim(0, 4), file(1)).unwrap();
    let plan = replace(&mut r, &[(claim(0, 4), file(2))]).unwrap();
    assert_eq!(plan.1, [old]);
    map(&mut r, plan.0[0].0, 4);
    // Again, before the first is drained: that would be more than the budget ever allows.
    assert_eq!(
        replace(&mut r, &[(claim(0, 4), file(3))]),
        Err(E::TooMuchMemory { asked: 8 * PAGE, allowed: 4 * PAGE })
    );
    r.drained(old).unwrap();
    assert!(replace(&mut r, &[(claim(0, 4), file(3))]).is_ok());
}

#[test]
fn a_table_is_not_replaced_while_another_is_being_mapped() {
    let mut r = registry(1, 1 << 40, false);
    let plan = replace(&mut r, &[(claim(0, 1), file(1))]).unwrap();
    assert_eq!(replace(&mut r, &[]), Err(E::Busy));
    assert_eq!(r.remove_all(), []);
    r.abandon(plan.0[0].0);
    assert!(r.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked, what is registered obeys every rule, and always makes a table.
    #[test]
    fn what_is_registered_obeys_every_rule(asks in prop::collection::vec(
        (0_u64..40, 0_u64..6, 0_u64..5, 0_u8..8), 1..80)) {
        let mut r = registry(3, 40 * PAGE, false);
        let mut leaving = vec![];
        for (at, pages, inode, what) in asks {
            let c = claim(at, pages);
            match what {
                0..=3 => {
                    // One that is registered already, just so, is no change.
                    let plan = change(&mut r, &MemoryChange::Add(c, file(inode)), usize::MAX);
                    for new in plan.iter().flat_map(Plan::new_regions) {
                        map(&mut r, new.slot, pages);
                    }
                }
                4 => leaving.extend(remove(&mut r, c)),
                5 => if let Some(slot) = leaving.pop() {
                    prop_assert!(r.drained(slot).is_some());
                },
                _ => {
                    let wanted = [(c, file(inode)), (claim(at + 7, pages), file(inode + 1))];
                    if let Ok(plan) = replace(&mut r, &wanted) {
                        leaving.extend(plan.1);
                        for (slot, index) in plan.0 {
                            map(&mut r, slot, wanted[index].0.len / PAGE);
                        }
                    }
                }
            }
            // Twice the budget while one whole table takes the place of another.
            prop_assert!(r.dataspaces() <= 3 && r.bytes() <= 80 * PAGE);
            let table = r.table();
            prop_assert_eq!(table.regions().len(), r.regions());
            prop_assert!(table.regions().is_sorted_by(|a, b| a.guest + a.len <= b.guest));
        }
        leaving.extend(r.remove_all());
        for slot in leaving {
            prop_assert!(r.drained(slot).is_some());
        }
        prop_assert!(r.is_empty());
    }
}

#[test]
fn the_home_s_room_bounds_regions_and_what_is_leaving_counts() {
    const ROOM: usize = 3;
    let mut r = registry(1, 1 << 40, false);
    let ask = |r: &mut Registry, at: u64| {
        let plan = change(r, &MemoryChange::Add(claim(at, 1), file(1)), ROOM)?;
        map(r, plan.new_regions()[0].slot, 1);
        Ok(())
    };
    for i in 0..3 {
        ask(&mut r, 2 * i).unwrap();
    }
    let full = E::NoRoom { asked: 4, allowed: ROOM };
    assert_eq!(ask(&mut r, 9), Err(full));
    let table = MemoryChange::Replace(vec![(claim(0, 1), file(1)), (claim(9, 1), file(1))]);
    assert_eq!(change(&mut r, &table, ROOM), Err(full));
    // What goes makes room when it is gone, not before.
    let slot = remove(&mut r, claim(0, 1)).unwrap();
    assert_eq!(ask(&mut r, 9), Err(full));
    assert!(r.drained(slot).is_some());
    ask(&mut r, 9).unwrap();
    assert_eq!((r.len(), full.errno()), (3, Errno::NoMemory));
    // A plan was made while there was more room.
    let plan = r.plan(&MemoryChange::Add(claim(20, 1), file(1)), ROOM + 1).unwrap();
    assert_eq!(r.apply(&plan, ROOM), Err(full));
    assert_eq!(r.apply(&plan, ROOM + 1), Ok(()));
}

#[test]
fn a_plan_fits_what_was_registered_when_it_was_made_and_nothing_else() {
    // Whatever happens in between, even where it would not matter: nobody has to think about whether it does.
    type Step = fn(&mut Registry);
    let steps: [Step; 6] = [
        |r| assert!(add(r, claim(30, 1), file(1)).is_ok()),
        |r| assert!(remove(r, claim(0, 1)).is_ok()),
        |r| drop(r.remove_all()),
        |r| r.withdraw(0).unwrap(),
        |r| r.abandon(1),
        |r| map(r, 1, 1),
    ];
    for (i, step) in steps.into_iter().enumerate() {
        let mut r = registry(1, 1 << 40, false);
        add(&mut r, claim(0, 1), file(1)).unwrap();
        begin(&mut r, claim(10, 1), file(1)).unwrap();
        let plan = r.plan(&MemoryChange::Add(claim(20, 1), file(1)), usize::MAX).unwrap();
        step(&mut r);
        let (before, bytes) = (r.len(), r.bytes());
        assert_eq!(r.apply(&plan, usize::MAX), Err(E::Outdated), "{i}");
        assert_eq!((r.len(), r.bytes()), (before, bytes));
    }
    // Nor is one applied twice.
    let mut r = registry(1, 1 << 40, false);
    let plan = r.plan(&MemoryChange::Add(claim(0, 1), file(1)), usize::MAX).unwrap();
    assert_eq!([r.apply(&plan, 9), r.apply(&plan, 9)], [Ok(()), Err(E::Outdated)]);
}

#[test]
fn what_may_be_registered_at_all_is_known_before_anything_is_asked_of_a_dataspace() {
    for (trusted_only, memory, trusted, want) in [
        (true, true, None, Err(E::NotTrusted)),
        (true, false, None, Err(E::NotTrusted)),
        (true, false, Some(0), Ok(())),
        (false, false, None, Err(E::NotMemory)),
        (false, true, None, Ok(())),
        (false, false, Some(0), Ok(())),
    ] {
        let r = registry(1, 1 << 40, trusted_only);
        let trusted = trusted.map_or(Dataspaces::NONE, |place: usize| Dataspaces::of(&[place]));
        assert_eq!(r.config().admits(memory, trusted), want);
        let add = MemoryChange::Add(claim(0, 1), File { memory, trusted, ..file(1) });
        assert_eq!(r.plan(&add, 1).map(|_| ()), want, "a plan asks the same");
    }
}

/// Memory of one VM is never another session's, though that came by its descriptor.
#[test]
fn a_session_that_was_given_dataspaces_by_name_registers_no_other() {
    let dataspaces = Dataspaces::NONE.and(1).unwrap();
    for trusted_only in [true, false] {
        let ds_max = DsMax::default();
        let mut r = Registry::new(RegistryConfig { ds_max, memory_max: 1 << 40, trusted_only, dataspaces });
        for near_miss in [&[0][..], &[2], &[0, 2], &[63], &[64], &[]] {
            let near_miss = Dataspaces::of(near_miss);
            let refused = add(&mut r, claim(0, 1), File { trusted: near_miss, ..file(1) }).unwrap_err();
            assert_eq!(refused.errno(), Errno::Invalid, "{near_miss:?}");
            let replace = MemoryChange::Replace(vec![(claim(0, 1), File { trusted: near_miss, ..file(1) })]);
            assert_eq!(r.plan(&replace, 9).unwrap_err(), refused);
        }
        assert!(add(&mut r, claim(0, 1), File { trusted: Dataspaces::of(&[1]), ..file(1) }).is_ok());
        // A file that was trusted by two names goes by either.
        assert!(add(&mut r, claim(1, 1), File { trusted: Dataspaces::of(&[0, 1]), ..file(2) }).is_ok());
    }
}
