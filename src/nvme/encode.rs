//! An operation as a submission queue entry.

use nvme_platform::{Iova, OutOfBounds};
use nvme_policy::LbaRange;
use nvme_session::memory::Spares;
use nvme_session::operation::{Operation, Transfer};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::spec::PAGE;
use super::spec::command::{Command, DEALLOCATE, DsmRange, FUA, PSDT_SGL, io};
use super::transfer::{How, ListPage, prps, sgl};

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
        Operation::Flush { .. } => false,
    }
}

/// The command, without its identifier, of a read or a write of one range of memory that its two PRP entries can
/// name: what most are. `None` for any other, which goes by [`plan`](super::transfer::plan). `limit` is the most bytes of
/// one command.
#[inline(always)]
pub(super) fn usual(operation: &Operation, controller: u16, limit: u32) -> Option<Command> {
    let (opcode, transfer, fua) = match operation {
        Operation::Read(transfer) => (io::READ, transfer, false),
        Operation::Write { transfer, permit, fua } if permit.namespace() == transfer.place().namespace() => {
            (io::WRITE, transfer, *fua)
        }
        _ => return None,
    };
    let (place, range) = (transfer.place(), transfer.one()?);
    let (addr, len) = (range.iova().0, range.len());
    let room = PAGE - (addr & u64::from(PAGE - 1)) as u32;
    if addr & 3 != 0 || len > room + PAGE || len > limit || place.namespace().controller != controller {
        return None;
    }
    let second = if len > room { addr.wrapping_add(room.into()) } else { 0 };
    Some(with_place(opcode, place, fua, 0, [addr.into(), second.into()]))
}

/// Divides an operation after `blocks` blocks, when it is longer.
pub(super) fn split(
    operation: Operation,
    blocks: u64,
    spares: &mut Spares,
) -> (Operation, Option<Operation>) {
    if is_longer(&operation, blocks) { divide(operation, blocks, spares) } else { (operation, None) }
}

fn divide(operation: Operation, blocks: u64, spares: &mut Spares) -> (Operation, Option<Operation>) {
    let mut halve = |transfer: Transfer| match transfer.split_at(blocks, spares.take()) {
        Ok((head, rest)) => (head, Some(rest)),
        Err((whole, spare)) => {
            spares.give(spare);
            (whole, None)
        }
    };
    match operation {
        Operation::Read(transfer) => {
            let (head, rest) = halve(transfer);
            (Operation::Read(head), rest.map(Operation::Read))
        }
        Operation::Write { transfer, permit, fua } => match halve(transfer) {
            (transfer, None) => (Operation::Write { transfer, permit, fua }, None),
            (head, Some(rest)) => {
                let (a, b) = permit.split();
                let rest = Operation::Write { transfer: rest, permit: b, fua };
                (Operation::Write { transfer: head, permit: a, fua }, Some(rest))
            }
        },
        Operation::Discard { place, permit } => match place.split_at(blocks) {
            Err(place) => (Operation::Discard { place, permit }, None),
            Ok((head, rest)) => {
                let (a, b) = permit.split();
                let rest = Operation::Discard { place: rest, permit: b };
                (Operation::Discard { place: head, permit: a }, Some(rest))
            }
        },
        Operation::WriteZeroes { place, permit, fua } => match place.split_at(blocks) {
            Err(place) => (Operation::WriteZeroes { place, permit, fua }, None),
            Ok((head, rest)) => {
                let (a, b) = permit.split();
                let rest = Operation::WriteZeroes { place: rest, permit: b, fua };
                (Operation::WriteZeroes { place: head, permit: a, fua }, Some(rest))
            }
        },
        flush @ Operation::Flush { .. } => (flush, None),
    }
}

/// The command for an operation that one command can do (after [`split`]), without its identifier.
#[inline]
pub(super) fn command(operation: &Operation, how: How, memory: &Memory<'_>) -> Result<Command, OutOfBounds> {
    match operation {
        Operation::Read(transfer) => transfer_command(io::READ, transfer, false, how, memory),
        Operation::Write { transfer, fua, .. } => transfer_command(io::WRITE, transfer, *fua, how, memory),
        Operation::Flush { permit } => {
            Ok(Command { opcode: io::FLUSH, nsid: permit.namespace().nsid.into(), ..Command::default() })
        }
        Operation::Discard { place, .. } => discard(place, memory),
        // Neither DEAC nor anything else: the blocks read as zeroes afterwards (NVM 3.2.8).
        Operation::WriteZeroes { place, fua, .. } => {
            Ok(with_place(io::WRITE_ZEROES, place, *fua, 0, [U64::ZERO; 2]))
        }
    }
}

#[inline]
fn transfer_command(
    opcode: u8,
    transfer: &Transfer,
    fua: bool,
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
    Ok(with_place(opcode, place, fua, flags, dptr))
}

#[inline(always)]
fn with_place(opcode: u8, place: &LbaRange, fua: bool, flags: u8, dptr: [U64; 2]) -> Command {
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

fn discard(place: &LbaRange, memory: &Memory<'_>) -> Result<Command, OutOfBounds> {
    let blocks = u32::try_from(place.blocks()).map_err(|_| OutOfBounds)?;
    let range = DsmRange { attributes: 0.into(), blocks: blocks.into(), first: place.first().into() };
    memory.list.write(0, range.as_bytes())?;
    Ok(Command {
        opcode: io::DATASET_MANAGEMENT,
        nsid: place.namespace().nsid.into(),
        dptr: [memory.list.at.0.into(), U64::ZERO],
        // One range: NR is less one.
        cdw10: 0.into(),
        cdw11: DEALLOCATE.into(),
        ..Command::default()
    })
}
