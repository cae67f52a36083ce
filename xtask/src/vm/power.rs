//! A power cut: the server over a disk of which QEMU logs each write and each flush (`blklogwrites`). What a disk with a volatile
//! cache may hold after a cut is made of that log, at many places of it: all up to the last flush, and of what came after some and
//! some not. On each, all that was acknowledged before a flush must be there (`blkpower` says what that is).
//!
//! A server that is killed proves none of this: the kernel keeps what it was told.

use std::path::Path;

use nvme_client::power::{BLOCK, places, round_of};

use super::Result;
use super::bed::Bed;
use super::machine::{Iommu, Plan};

/// Bytes of the disk.
const DISK: u64 = 8 << 20;
const ROUNDS: u64 = 300;
/// Places at which the power is cut.
const CUTS: u64 = 200;

/// QEMU's log (docs/interop of dm-log-writes): magic number, version, number of entries, bytes of a sector.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Who reaches it.
const WAYS: [&str; 2] = ["uring", "threads"];

/// One entry of the log.
struct Entry {
    at: usize,
    data: std::ops::Range<usize>,
    flags: u64,
}

/// Boots the machine for each way; says how many checks failed.
pub(super) fn power(programs: &Path) -> Result<usize> {
    let mut failed = 0;
    for name in WAYS {
        let plan = Plan::new("power", programs, &["nvme-drv", "blkpower"])?;
        let (plan, log) = plan.controller("nvme0", "1234", "addr=04.0").logged("nvme0", DISK)?;
        let traces = plan.traces();
        let mut bed = Bed::new(plan.launch()?, traces, Iommu::Intel);
        bed.start(&format!(
            "nvme-drv -v --cap vbus=soft:/dev/nvme0n1,serial=p,engine={name} --cap svr=unix:/tmp/svr"
        ));
        let write = format!("blkpower /tmp/svr device=p:n1 --rounds {ROUNDS}");
        bed.check(&format!("{name}: rounds are written"), &write, 0, &format!("ok {ROUNDS} rounds"));
        bed.stop(&format!("{name}: stop"));
        let log = std::fs::read(log)?;
        let entries = entries(&log)?;
        let (wrong, last) = cut(&log, &entries, true);
        let found =
            format!("{CUTS} cuts of {} entries, the last in round {last}; {wrong} wrong", entries.len());
        bed.note(wrong == 0 && last > ROUNDS / 2, &format!("{name}: what was flushed is there"), &found);
        // The same disk, had it ignored flushes: this must be seen, or nothing was.
        let (wrong, _) = cut(&log, &entries, false);
        bed.note(
            wrong > 0,
            &format!("{name}: a disk that ignores flushes is found out"),
            &format!("{wrong} wrong"),
        );
        failed += bed.end();
    }
    Ok(failed)
}

fn word(log: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(log.get(at..at + 8)?.try_into().ok()?))
}

fn entries(log: &[u8]) -> Result<Vec<Entry>> {
    if word(log, 0) != Some(MAGIC) {
        return Err("QEMU's log has no beginning".into());
    }
    let sector = u32::from_le_bytes(log.get(24..28).ok_or("no log")?.try_into()?) as usize;
    let mut entries = Vec::new();
    let mut at = sector;
    while let (Some(place), Some(sectors), Some(flags)) =
        (word(log, at), word(log, at + 8), word(log, at + 16))
    {
        if sectors == 0 && flags & FLUSH == 0 {
            break;
        }
        // A discard has no data, and there should be none.
        let len = if flags & DISCARD == 0 { sectors as usize * sector } else { 0 };
        let data = at + sector..at + sector + len;
        at = data.end;
        entries.push(Entry { at: place as usize * sector, data, flags });
    }
    Ok(entries)
}

/// Cuts the power at many places; how many of the disks lack something, and the last round that one of them knew.
fn cut(log: &[u8], entries: &[Entry], flushes: bool) -> (u64, u64) {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut wrong, mut last) = (0, 0);
    for _ in 0..CUTS {
        let cut = random() as usize % (entries.len() + 1);
        let known = entries.get(..cut).unwrap_or_default();
        let durable = known.iter().rposition(|entry| entry.flags & FLUSH != 0).filter(|_| flushes);
        let mut disk = vec![0; DISK as usize];
        for (index, entry) in known.iter().enumerate() {
            // A volatile cache writes back what it likes.
            let kept =
                durable.is_some_and(|durable| index < durable) || entry.flags & FUA != 0 || random() & 1 == 0;
            if let (true, Some(data), Some(place)) =
                (kept, log.get(entry.data.clone()), disk.get_mut(entry.at..entry.at + entry.data.len()))
            {
                place.copy_from_slice(data);
            }
        }
        match round(&disk) {
            Some(round) => last = last.max(round),
            None => wrong += 1,
        }
    }
    (wrong, last)
}

/// The round that a disk says it holds, if it holds it.
fn round(disk: &[u8]) -> Option<u64> {
    let blocks = DISK / BLOCK as u64;
    let block = |at: u64| disk.get(at as usize * BLOCK..(at as usize + 1) * BLOCK);
    let said = round_of(0, block(0)?)?;
    // What a block must hold at least: the last of those rounds that wrote it.
    let mut least = vec![0; blocks as usize];
    for round in 1..=said {
        for place in places(round, blocks) {
            *least.get_mut(place as usize)? = round;
        }
    }
    (1..blocks)
        .zip(least.into_iter().skip(1))
        .all(|(at, least)| {
            block(at).and_then(|bytes| round_of(at, bytes)).is_some_and(|round| round >= least)
        })
        .then_some(said)
}
