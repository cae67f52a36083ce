//! An operation as a submission queue entry.

use nvme_platform::{Iova, OutOfBounds};
use nvme_policy::LbaRange;
use nvme_session::operation::{Operation, Part, Transfer};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::spec::command::{Command, DEAC, DEALLOCATE, DsmRange, FUA, PSDT_SGL, Words, io};
use super::transfer::{How, ListPage, prps, sgl, two_prps};

/// How much one command of a kind may cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Limited {
    /// In bytes; 0: the controller cannot do it.
    pub(super) bytes: u64,
    /// In blocks.
    pub(super) blocks: u32,
}

impl Limited {
    /// Most blocks in one command, for blocks of `1 << shift` bytes.
    #[inline]
    pub(super) fn in_blocks(&self, shift: u32) -> u32 {
        u32::try_from(self.bytes >> shift).unwrap_or(u32::MAX).min(self.blocks)
    }

    /// How many blocks of a place its first command covers; 0: the controller cannot do it.
    #[inline]
    pub(super) fn blocks(&self, place: &LbaRange) -> u64 {
        place.blocks().min(u64::from(self.in_blocks(place.block_size().shift())))
    }
}

/// The driver memory that a command uses.
pub(super) struct Memory<'a> {
    /// The command's own page.
    pub(super) list: ListPage<'a>,
    /// The controller's address of its bounce chunk.
    pub(super) bounce: Option<Iova>,
}

/// The memory of a transfer, as the controller sees it.
#[inline]
pub(super) fn data(transfer: &Transfer) -> impl Iterator<Item = (u64, u32)> + Clone {
    transfer.memory().iter().map(|range| (range.iova().0, range.len()))
}

/// Whether an operation covers more than so many blocks, or cannot be done at all (0).
#[inline]
pub(super) fn is_longer(operation: &Operation, blocks: u64) -> bool {
    match operation {
        Operation::Read(transfer) | Operation::Write { transfer, .. } => transfer.place().blocks() > blocks,
        Operation::Discard { place, .. } | Operation::WriteZeroes { place, .. } => place.blocks() > blocks,
        Operation::Flush { .. } | Operation::ReadPart(_) | Operation::WritePart { .. } => false,
    }
}

/// What a command does, beside its place and its memory.
#[derive(Clone, Copy)]
pub(super) struct Verb {
    opcode: u8,
    fua: bool,
}

/// Decides about an operation: what command it is. `None` when it is not for this controller, or its permit is for another
/// namespace than its place.
#[inline(always)]
pub(super) fn decide(operation: &Operation, controller: u16) -> Option<Verb> {
    let (opcode, fua, namespace, permit) = match operation {
        Operation::Read(transfer) => (io::READ, false, transfer.place().namespace(), None),
        Operation::Write { transfer, permit, fua } => {
            (io::WRITE, *fua, transfer.place().namespace(), Some(permit))
        }
        Operation::Flush { permit } => (io::FLUSH, false, permit.namespace(), None),
        Operation::Discard { place, permit } => {
            (io::DATASET_MANAGEMENT, false, place.namespace(), Some(permit))
        }
        Operation::WriteZeroes { place, permit, fua, .. } => {
            (io::WRITE_ZEROES, *fua, place.namespace(), Some(permit))
        }
        Operation::ReadPart(part) => (io::READ, false, part.place().namespace(), None),
        Operation::WritePart { part, permit, fua } => {
            (io::WRITE, *fua, part.place().namespace(), Some(permit))
        }
    };
    let fits = namespace.controller == controller && permit.is_none_or(|p| p.namespace() == namespace);
    fits.then_some(Verb { opcode, fua })
}

/// The command, without its identifier, for what [`decide`] decided, when it is a transfer of one range of memory that its
/// two PRP entries can name: what most are. `None` for any other, which goes by [`plan`](super::transfer::plan). `limit` is
/// the most bytes of one command.
#[inline(always)]
pub(super) fn fast(operation: &Operation, verb: Verb, limit: u32) -> Option<Words> {
    // Each by itself, though they do the same: a reference to either of the two would keep the operation in memory.
    match operation {
        Operation::Read(transfer) => fast_transfer(transfer, verb, limit),
        Operation::Write { transfer, .. } => fast_transfer(transfer, verb, limit),
        _ => None,
    }
}

#[inline(always)]
fn fast_transfer(transfer: &Transfer, verb: Verb, limit: u32) -> Option<Words> {
    let range = transfer.one().filter(|range| range.len() <= limit)?;
    let [prp1, prp2] = two_prps(range.iova().0, range.len())?;
    let place = transfer.place();
    let blocks = less_one(place.blocks() as u32) | if verb.fua { FUA } else { 0 };
    let first = u64::from(verb.opcode) | u64::from(place.namespace().nsid) << 32;
    Some([first, 0, 0, prp1, prp2, place.first(), blocks.into(), 0].map(u64::to_le))
}

/// With its identifier.
#[inline(always)]
pub(super) fn identified([first, rest @ ..]: Words, cid: u16) -> Words {
    let [a, b, c, d, e, f, g] = rest;
    [first | (u64::from(cid) << 16).to_le(), a, b, c, d, e, f, g]
}

/// The command for an operation that one command can do (after it was divided), without its identifier.
#[inline]
pub(super) fn command(
    operation: &Operation,
    verb: Verb,
    how: How,
    memory: &Memory<'_>,
) -> Result<Command, OutOfBounds> {
    match operation {
        Operation::Read(transfer) | Operation::Write { transfer, .. } => {
            transfer_command(verb, transfer, how, memory)
        }
        Operation::Flush { permit } => {
            Ok(Command { opcode: verb.opcode, nsid: permit.namespace().nsid.into(), ..Command::default() })
        }
        Operation::Discard { place, .. } => discard(verb, place, memory),
        Operation::ReadPart(part) | Operation::WritePart { part, .. } => {
            part_command(verb, part, how, memory)
        }
        // The blocks read as zeroes afterwards (NVM 3.2.8): DEAC is set only where deallocated blocks do (DLFEAT).
        Operation::WriteZeroes { place, unmap, .. } => {
            let mut command = with_place(verb, place, 0, [U64::ZERO; 2]);
            if *unmap {
                command.cdw12 = (command.cdw12.get() | DEAC).into();
            }
            Ok(command)
        }
    }
}

#[inline]
fn transfer_command(
    verb: Verb,
    transfer: &Transfer,
    how: How,
    memory: &Memory<'_>,
) -> Result<Command, OutOfBounds> {
    let place = transfer.place();
    let bytes = u32::try_from(place.bytes()).map_err(|_| OutOfBounds)?;
    let (flags, dptr) = match (how, memory.bounce) {
        (How::Bounce, Some(at)) => {
            let one = core::iter::once((at.0, bytes));
            (0, prps(one, bytes, &memory.list)?)
        }
        (How::Sgl, None) => (PSDT_SGL, sgl(data(transfer), bytes, &memory.list)?),
        (How::Prp, None) => (0, prps(data(transfer), bytes, &memory.list)?),
        _ => return Err(OutOfBounds),
    };
    Ok(with_place(verb, place, flags, dptr))
}

/// All of the block, by a bounce chunk: as it is asked for, or to be filled with what there is.
fn part_command(verb: Verb, part: &Part, how: How, memory: &Memory<'_>) -> Result<Command, OutOfBounds> {
    let place = part.place();
    let bytes = u32::try_from(place.bytes()).map_err(|_| OutOfBounds)?;
    let at = memory.bounce.ok_or(OutOfBounds)?;
    let dptr = prps(core::iter::once((at.0, bytes)), bytes, &memory.list)?;
    match how {
        How::Bounce => Ok(with_place(verb, place, 0, dptr)),
        How::Fill => Ok(read_blocks(place.namespace().nsid, place.first(), place.blocks() as u32, dptr)),
        How::Prp | How::Sgl => Err(OutOfBounds),
    }
}

#[inline(always)]
fn with_place(verb: Verb, place: &LbaRange, flags: u8, dptr: [U64; 2]) -> Command {
    let Verb { opcode, fua } = verb;
    let nsid = place.namespace().nsid;
    let blocks = place.blocks() as u32;
    Command {
        opcode,
        flags,
        cdw12: (less_one(blocks) | if fua { FUA } else { 0 }).into(),
        ..read_blocks(nsid, place.first(), blocks, dptr)
    }
}

/// NLB is 16 bits, less one (NVM 3.2.4); the limits in `CommandCaps` keep every command within it.
#[inline]
fn less_one(blocks: u32) -> u32 {
    blocks.wrapping_sub(1) & 0xffff
}

/// A Read of blocks into memory that PRPs describe, without its identifier.
#[inline(always)]
pub(super) fn read_blocks(nsid: u32, first: u64, blocks: u32, dptr: [U64; 2]) -> Command {
    Command {
        opcode: io::READ,
        nsid: nsid.into(),
        dptr,
        cdw10: (first as u32).into(),
        cdw11: ((first >> 32) as u32).into(),
        cdw12: less_one(blocks).into(),
        ..Command::default()
    }
}

fn discard(verb: Verb, place: &LbaRange, memory: &Memory<'_>) -> Result<Command, OutOfBounds> {
    let blocks = u32::try_from(place.blocks()).map_err(|_| OutOfBounds)?;
    let range = DsmRange { attributes: 0.into(), blocks: blocks.into(), first: place.first().into() };
    memory.list.write(0, range.as_bytes())?;
    Ok(Command {
        opcode: verb.opcode,
        nsid: place.namespace().nsid.into(),
        dptr: [memory.list.at.0.into(), U64::ZERO],
        // One range: NR is less one.
        cdw10: 0.into(),
        cdw11: DEALLOCATE.into(),
        ..Command::default()
    })
}
