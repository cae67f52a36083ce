//! Which entries of a table are served, and how.
//!
//! One odd entry costs that entry, not the table. What lies inside the disk and shares no block with another entry is
//! served. Entries that share a block are served to nobody: whoever had one could write what whoever had the other
//! holds; the whole disk can be had. And what covers a block that tells where partitions are is served for reading only:
//! its writer could move all the others.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;

use nvme_policy::{Extent, Label, NoLabel, PartitionId};
use nvme_session::factory::Protection;

use super::warning::{Odd, Warning};
use super::{PARTITIONS_MAX, Partition};

/// How many odd entries of one table are named; of further ones only their number is said.
const NAMED_MAX: usize = 32;

/// Blocks, the first and the last. May say anything: `last` before `first`, both behind the end.
pub(super) type Run = (u64, u64);

/// An entry, as the table has it.
pub(super) struct Entry {
    /// No two entries of a table have the same.
    pub(super) number: u32,
    pub(super) run: Run,
    /// Where the table itself says that such an entry lies.
    pub(super) usable: Run,
    pub(super) id: PartitionId,
    pub(super) label: Result<Label, NoLabel>,
    /// The table says that it is not to be written.
    pub(super) read_only: bool,
}

/// The entries of a table, as far as they were read.
pub(super) struct Entries {
    disk: Extent,
    /// What of each entry lies inside the disk (first, last, number), be it served or not.
    runs: Vec<(u64, u64, u32)>,
    /// Those that are inside with all they have.
    partitions: Vec<Partition>,
    odd: Vec<(u32, Odd)>,
    /// Partitions with labels that cannot be shown: how many, the first, and why.
    labels: Option<Warning>,
    too_many: bool,
}

impl Entries {
    pub(super) fn new(disk: &Extent) -> Self {
        let (runs, partitions, odd) = (Vec::new(), Vec::new(), Vec::new());
        Self { disk: *disk, runs, partitions, odd, labels: None, too_many: false }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        let Entry { number, run: (first, last), usable, id, label, read_only } = entry;
        let end = self.disk.blocks() - 1;
        if first <= last && first <= end {
            self.runs.push((first, last.min(end), number));
        }
        let inside = first <= last && last <= end;
        let Some(extent) = inside.then(|| self.disk.part(first, last - first + 1)).flatten() else {
            self.odd.push((number, Odd::Outside));
            return;
        };
        if self.partitions.len() == PARTITIONS_MAX {
            self.too_many = true;
            return;
        }
        if first < usable.0 || last > usable.1 {
            self.odd.push((number, Odd::NotUsable));
        }
        let label = label.unwrap_or_else(|why| {
            match &mut self.labels {
                Some(Warning::Labels { count, .. }) => *count += 1,
                none => *none = Some(Warning::Labels { count: 1, first: number, why }),
            }
            Label::default()
        });
        let read_only = read_only.then_some(Protection::Attribute);
        // They come in the order of their numbers, as a rule.
        let at = self.partitions.partition_point(|p| p.number <= number);
        self.partitions.insert(at, Partition { number, id, label, extent, read_only });
    }

    /// What is served, in the order of the numbers, and what an operator should know. `table`: the blocks from which a
    /// scan reads where partitions are, or would if others could not be read.
    pub(super) fn serve(self, table: &[Run]) -> (Vec<Partition>, Vec<Warning>) {
        let overlaps = overlaps(self.runs);
        let (mut odd, mut partitions) = (self.odd, self.partitions);
        partitions.retain_mut(|p| {
            if let Ok(at) = overlaps.binary_search_by_key(&p.number, |&(number, _)| number) {
                let other = overlaps.get(at).map_or(p.number, |&(_, other)| other);
                odd.retain(|&(number, _)| number != p.number);
                odd.push((p.number, Odd::Overlaps(other)));
                return false;
            }
            let (first, last) = (p.extent.first(), p.extent.first() + (p.extent.blocks() - 1));
            if table.iter().any(|&(from, to)| first <= to && from <= last) {
                p.read_only.get_or_insert(Protection::CoversTable);
                odd.retain(|&(number, _)| number != p.number);
                odd.push((p.number, Odd::CoversTable));
            }
            true
        });
        let mut warnings: Vec<_> = self.labels.into_iter().collect();
        if self.too_many {
            warnings.push(Warning::TooMany);
        }
        warnings.extend(same_id(&partitions));
        let odd = sorted(odd);
        warnings.extend(odd.iter().take(NAMED_MAX).map(|&(number, odd)| Warning::Entry(number, odd)));
        if let Some(more) = odd.len().checked_sub(NAMED_MAX).filter(|&more| more > 0) {
            // A table has 8192 entries at most.
            warnings.push(Warning::MoreEntries(more as u32));
        }
        (partitions, warnings)
    }
}

/// Of these runs of blocks (first, last, number) those that have a block in common with another one: their numbers, in
/// order, each with that of one of the others.
fn overlaps(runs: Vec<(u64, u64, u32)>) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    // Of those before, the one that reaches furthest. Whatever else reaches that far overlaps it, and was found so.
    let mut furthest: Option<(u64, u32)> = None;
    for (first, last, number) in sorted(runs) {
        if let Some((_, other)) = furthest.filter(|&(reach, _)| first <= reach) {
            found.extend([(number, other), (other, number)]);
        }
        if furthest.is_none_or(|(reach, _)| last > reach) {
            furthest = Some((last, number));
        }
    }
    let mut found = sorted(found);
    found.dedup_by_key(|&mut (number, _)| number);
    found
}

/// In order. The heap's sort is a tenth of the code of the slice's, and this is no place where speed matters.
fn sorted<T: Ord>(items: Vec<T>) -> Vec<T> {
    BinaryHeap::from(items).into_sorted_vec()
}

fn same_id(partitions: &[Partition]) -> Option<Warning> {
    partitions.iter().enumerate().find_map(|(i, a)| {
        let b = partitions.iter().skip(i + 1).find(|b| a.id == b.id)?;
        Some(Warning::SameId(a.number, b.number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_overlaps_is_found_and_nothing_else(runs in prop::collection::vec((0..60u64, 0..20u64), 0..12)) {
            let runs: Vec<_> =
                (1..).zip(runs).map(|(number, (first, more))| (first, first + more, number)).collect();
            let shares = |a: &(u64, u64, u32), b: &(u64, u64, u32)| a.2 != b.2 && a.0 <= b.1 && b.0 <= a.1;
            let mut want: Vec<u32> =
                runs.iter().filter(|a| runs.iter().any(|b| shares(a, b))).map(|a| a.2).collect();
            want.sort_unstable();
            let found = overlaps(runs.clone());
            prop_assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), want);
            let run = |number| *runs.iter().find(|r| r.2 == number).unwrap();
            for (number, other) in found {
                prop_assert!(shares(&run(number), &run(other)), "{} is said to overlap {}", number, other);
            }
        }
    }
}
