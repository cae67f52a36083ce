//! What may be had of disks, and by which names: of what their tables have in plain numbers, as whoever wrote them down has it.

use crate::gpt::{Entry, Table, shown};

/// How a partition may be had.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum May {
    Nobody,
    Read,
    Write,
}

/// A partition of a disk, in sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Title {
    pub(crate) disk: usize,
    pub(crate) number: usize,
    pub(crate) first: u64,
    pub(crate) sectors: u64,
    pub(crate) may: May,
    label: &'static str,
    id: u32,
}

/// How an entry may be had: not at all where it is not on the disk, or another has a block of it; to be read where it covers the table, or is marked.
fn may(table: &Table, entry: &Entry) -> May {
    let inside = |e: &Entry| e.first <= e.last && e.first < table.blocks;
    let shares =
        |e: &Entry| e.number != entry.number && inside(e) && e.first <= entry.last && entry.first <= e.last;
    if !inside(entry) || entry.last >= table.blocks || table.entries.iter().any(shares) {
        return May::Nobody;
    }
    let covers = table.places().iter().any(|place| entry.first < place.end && place.start <= entry.last);
    if covers || entry.marked { May::Read } else { May::Write }
}

/// What is on a disk whose blocks are of so many sectors.
pub(crate) fn titles(disk: usize, table: &Table, scale: u64) -> Vec<Title> {
    let title = |entry: &Entry| Title {
        disk,
        number: entry.number,
        first: entry.first * scale,
        sectors: (entry.last + 1).saturating_sub(entry.first) * scale,
        may: may(table, entry),
        label: entry.label,
        id: entry.id,
    };
    table.entries.iter().map(title).collect()
}

/// What is called by a name that is no number of a partition. What nobody may have has a name that calls nothing.
pub(crate) fn called<'a>(titles: &'a [Title], name: &str) -> Vec<&'a Title> {
    let by_id = |id: &str| titles.iter().filter(|t| shown(t.id) == id).collect::<Vec<_>>();
    let there = |t: &&Title| t.may != May::Nobody;
    let mut found = if let Some(id) = name.strip_prefix("partuuid:") {
        by_id(id)
    } else if let Some(label) = name.strip_prefix("partlabel:") {
        titles.iter().filter(|t| t.label == label).collect()
    } else if name.len() == 36 && name.bytes().filter(|b| *b == b'-').count() == 4 {
        by_id(name)
    } else {
        titles.iter().filter(|t| t.label == name).collect()
    };
    found.retain(there);
    found
}
