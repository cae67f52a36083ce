//! What a task's call is as an entry of a submission queue.

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};

use super::ring::FIRST;
use super::task::{Call, Task};

/// What goes through the page cache is copied by whoever submits it. More than this is copied by a thread of the kernel's: the worker
/// has others to serve.
const COPIED_HERE: u64 = 16 << 10;

/// Whether a task's call would keep the worker for long, and goes to a thread of the kernel's at once.
pub(super) fn is_apart(task: &Task) -> bool {
    let moves = matches!(task.call(), Call::Read { .. } | Call::Write { .. });
    moves && task.image.copies() && task.bytes() > COPIED_HERE
}

pub(super) fn entry(task: &Task) -> squeue::Entry {
    let file = Fixed(u32::try_from(FIRST + task.image.index()).unwrap_or(u32::MAX));
    let first = task.pieces.first();
    let one = first.map_or((std::ptr::null_mut(), 0), |p| (p.iov_base.cast::<u8>(), p.iov_len as u32));
    match (task.call(), task.fixed) {
        (Call::Read { offset, .. }, Some(buffer)) => {
            opcode::ReadFixed::new(file, one.0, one.1, buffer).offset(offset).build()
        }
        (Call::Write { offset, .. }, Some(buffer)) => {
            opcode::WriteFixed::new(file, one.0, one.1, buffer).offset(offset).build()
        }
        (call, _) => plain(task, file, one, call),
    }
}

fn plain(task: &Task, file: Fixed, one: (*mut u8, u32), call: Call) -> squeue::Entry {
    match call {
        Call::Read { offset, pieces: 1 } => opcode::Read::new(file, one.0, one.1).offset(offset).build(),
        Call::Write { offset, pieces: 1 } => opcode::Write::new(file, one.0, one.1).offset(offset).build(),
        Call::Read { offset, pieces } => {
            opcode::Readv::new(file, task.pieces.as_ptr(), pieces).offset(offset).build()
        }
        Call::Write { offset, pieces } => {
            opcode::Writev::new(file, task.pieces.as_ptr(), pieces).offset(offset).build()
        }
        // A helper makes it; here the kernel would refuse it.
        Call::Discard { .. } => opcode::Nop::new().build(),
        Call::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Call::Allocate { mode, offset, len } => {
            opcode::Fallocate::new(file, len).offset(offset).mode(mode.bits().cast_signed()).build()
        }
    }
}
