//! How a command says where its data is: PRPs, SGLs, or a bounce buffer where neither can say it.
//!
//! [`plan`] decides how, and for how many of the bytes; the rest becomes another command. [`prps`] and [`sgl`] then write
//! it down. A segment is an address on the bus and a length in bytes.
//!
//! What can be said (Base 4.1.1, 4.1.2):
//! * PRPs: the first address is a multiple of four; every page but the first is entered at its start, and every page
//!   but the last is left at its end.
//! * SGLs: any list of segments; addresses and lengths are multiples of four unless the controller says otherwise.

use nvme_platform::{Iova, OutOfBounds, Window};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::info::SglSupport;
use super::spec::PAGE;
use super::spec::sgl::Descriptor;

/// Bytes in one chunk of bounce memory: the most that one command bounces.
pub const BOUNCE_CHUNK: u32 = 64 << 10;

/// Longest transfer of one command: its PRP list then fits one page wherever it starts.
pub const TRANSFER_MAX: u32 = 1 << 20;

/// Descriptors that fit one list page.
const SGL_MAX: u32 = PAGE / 16;

/// A command's own page of driver memory, for what does not fit the command itself.
#[derive(Clone, Copy)]
pub(super) struct ListPage<'a> {
    /// The pages of all commands.
    pub(super) memory: &'a Window,
    /// Where this one begins.
    pub(super) offset: usize,
    /// Where the controller finds it.
    pub(super) at: Iova,
}

impl ListPage<'_> {
    /// Writes bytes, never into the neighbour's page.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let end = at.checked_add(bytes.len()).ok_or(OutOfBounds)?;
        if end > PAGE as usize {
            return Err(OutOfBounds);
        }
        self.memory.write(self.offset + at, bytes)
    }
}

const IN_PAGE: u64 = PAGE as u64 - 1;

/// The ways to describe memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// Physical region pages.
    Prp,
    /// A scatter-gather list.
    Sgl,
    /// Neither: the data goes through a bounce chunk.
    Bounce,
    /// A block of which a part is to be written is read into a bounce chunk first (see `parts`).
    Fill,
}

/// How, and for how many bytes: at least one block, whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) bytes: u32,
    pub(super) how: How,
}

/// Plans the first command for a transfer that begins with these segments. `limit` is the most it may move: whole
/// blocks of `block` bytes, at least one, at most [`TRANSFER_MAX`], and not more than the segments hold.
#[inline]
pub(super) fn plan(
    segments: impl Iterator<Item = (u64, u32)> + Clone,
    limit: u32,
    block: u32,
    sgl: SglSupport,
) -> Plan {
    match segments.clone().next() {
        Some((addr, len)) if len >= limit => plan_one(addr, limit, sgl),
        _ => plan_many(segments, limit, block, sgl),
    }
}

fn plan_one(addr: u64, limit: u32, sgl: SglSupport) -> Plan {
    // Two PRPs or one SGL descriptor are inside the command itself; a PRP list costs the controller another read.
    let two_pages = (addr & IN_PAGE) + u64::from(limit) <= 2 * u64::from(PAGE);
    let how = match (addr & 3, sgl) {
        (0, SglSupport::None) => How::Prp,
        (0, _) if two_pages => How::Prp,
        (0, _) | (_, SglSupport::Byte) => How::Sgl,
        _ => return Plan { bytes: limit.min(BOUNCE_CHUNK), how: How::Bounce },
    };
    Plan { bytes: limit, how }
}

fn plan_many(
    segments: impl Iterator<Item = (u64, u32)> + Clone,
    limit: u32,
    block: u32,
    sgl: SglSupport,
) -> Plan {
    let whole = |bytes: u32| bytes - bytes % block;
    let (prp_bytes, segments_named) = prp_reach(segments.clone(), limit);
    // A descriptor for each would be no shorter, and could say no more.
    if prp_bytes == limit && 2 * segments_named > limit / PAGE {
        return Plan { bytes: limit, how: How::Prp };
    }
    let by_prp = whole(prp_bytes);
    let (sgl_bytes, descriptors) = sgl_reach(segments.clone(), limit, sgl);
    let by_sgl = whole(sgl_bytes);
    // A descriptor has the size of two PRP entries.
    let shorter = 2 * descriptors <= limit / PAGE;
    if by_sgl > by_prp || (by_sgl == by_prp && by_sgl > 0 && shorter) {
        Plan { bytes: by_sgl, how: How::Sgl }
    } else if by_prp > 0 {
        Plan { bytes: by_prp, how: How::Prp }
    } else {
        Plan { bytes: bounce_reach(segments, limit, block), how: How::Bounce }
    }
}

/// How many bytes from the start PRPs can express, and of how many segments these are.
fn prp_reach(mut segments: impl Iterator<Item = (u64, u32)>, limit: u32) -> (u32, u32) {
    let Some((addr, len)) = segments.next().filter(|(addr, _)| addr & 3 == 0) else { return (0, 0) };
    let (mut reached, mut count, mut end) = (len, 1, addr.wrapping_add(len.into()));
    while reached < limit
        && let Some((addr, len)) = segments.next()
        && ((end | addr) & IN_PAGE == 0 || end == addr)
    {
        reached = reached.saturating_add(len);
        count += 1;
        end = addr.wrapping_add(len.into());
    }
    (reached.min(limit), count)
}

/// How many bytes from the start one list of descriptors can express, and how many descriptors that takes.
fn sgl_reach(segments: impl Iterator<Item = (u64, u32)>, limit: u32, sgl: SglSupport) -> (u32, u32) {
    let mask = match sgl {
        SglSupport::None => return (0, 0),
        SglSupport::Dword => 3,
        SglSupport::Byte => 0,
    };
    let (mut reached, mut count) = (0_u32, 0);
    for (addr, len) in segments {
        if (addr | u64::from(len)) & mask != 0 || reached >= limit || count == SGL_MAX {
            break;
        }
        reached = reached.saturating_add(len);
        count += 1;
    }
    (reached.min(limit), count)
}

/// How many bytes to bounce: up to the next segment that is long enough to be worth a command of its own.
fn bounce_reach(segments: impl Iterator<Item = (u64, u32)>, limit: u32, block: u32) -> u32 {
    let most = limit.min(BOUNCE_CHUNK);
    let mut before = 0_u32;
    for (addr, len) in segments {
        if before > 0 && (addr | u64::from(before)) & 3 == 0 && len >= 2 * PAGE {
            return before.next_multiple_of(block).min(most);
        }
        before = before.saturating_add(len);
        if before >= most {
            break;
        }
    }
    most
}

/// PRP2 of a transfer that goes on behind its first page.
#[cold]
#[inline(never)]
fn second_prp(addr: u64, bytes: u32, room: u32) -> Option<u64> {
    (bytes <= room + PAGE).then(|| addr.wrapping_add(room.into()))
}

/// PRP1 and PRP2, where the two can name all of `bytes` bytes from `addr` on.
#[inline(always)]
pub(super) fn two_prps(addr: u64, bytes: u32) -> Option<[u64; 2]> {
    let room = PAGE - (addr & IN_PAGE) as u32;
    if addr & 3 != 0 {
        return None;
    }
    // As a rule it is no more than a page, and one entry says it.
    let second = if bytes <= room { 0 } else { second_prp(addr, bytes, room)? };
    Some([addr, second])
}

/// Writes the PRPs for the first `bytes` bytes of segments that [`plan`] found expressible. `list` is
/// used when two entries are not enough. Answers PRP1 and PRP2.
#[inline]
pub(super) fn prps(
    segments: impl Iterator<Item = (u64, u32)> + Clone,
    bytes: u32,
    list: &ListPage<'_>,
) -> Result<[U64; 2], OutOfBounds> {
    let Some((addr, len)) = segments.clone().next() else { return Err(OutOfBounds) };
    if len >= bytes
        && let Some(both) = two_prps(addr, bytes)
    {
        return Ok(both.map(U64::new));
    }
    prp_list(segments, bytes, list)
}

#[inline(never)]
fn prp_list(
    segments: impl Iterator<Item = (u64, u32)>,
    bytes: u32,
    list: &ListPage<'_>,
) -> Result<[U64; 2], OutOfBounds> {
    const BATCH: usize = 32;
    let mut segments = segments;
    let Some((first, len)) = segments.next() else { return Err(OutOfBounds) };
    let mut batch = [U64::ZERO; BATCH];
    let (mut filled, mut written) = (0, 0);
    let mut left = bytes;
    // The first page has its entry in the command. As far into the segment as pages have theirs: it goes on behind that.
    let (mut addr, mut len, mut done) = (first, len.min(left), PAGE - (first & IN_PAGE) as u32);
    loop {
        left -= len;
        while done < len {
            let entry = U64::new(addr.wrapping_add(done.into()));
            done += PAGE;
            if let Some(place) = batch.get_mut(filled) {
                *place = entry;
                filled += 1;
                continue;
            }
            list.write(written * 8, batch.as_bytes())?;
            let [place, ..] = &mut batch;
            *place = entry;
            (filled, written) = (1, written + BATCH);
        }
        if left == 0 {
            break;
        }
        let Some((next, all)) = segments.next() else { break };
        // One that begins inside a page goes on where the one before ended: that page has its entry already.
        (addr, len, done) = (next, all.min(left), (next.wrapping_neg() & IN_PAGE) as u32);
    }
    let [second, ..] = batch;
    match written + filled {
        0 => Ok([first.into(), U64::ZERO]),
        1 => Ok([first.into(), second]),
        _ => {
            list.write(written * 8, batch.get(..filled).ok_or(OutOfBounds)?.as_bytes())?;
            Ok([first.into(), list.at.0.into()])
        }
    }
}

/// Writes the SGL for the first `bytes` bytes of segments: one descriptor in the command, or a list in the page `list`.
pub(super) fn sgl(
    segments: impl Iterator<Item = (u64, u32)>,
    bytes: u32,
    list: &ListPage<'_>,
) -> Result<[U64; 2], OutOfBounds> {
    let mut left = bytes;
    let mut count = 0_u32;
    for (addr, len) in segments {
        let descriptor = Descriptor::data(addr, len.min(left));
        left -= len.min(left);
        if count == 0 && left == 0 {
            return Ok(descriptor.halves());
        }
        if count == SGL_MAX {
            return Err(OutOfBounds);
        }
        list.write(count as usize * 16, descriptor.as_bytes())?;
        count += 1;
        if left == 0 {
            return Ok(Descriptor::last_segment(list.at.0, count * 16).halves());
        }
    }
    Err(OutOfBounds)
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
