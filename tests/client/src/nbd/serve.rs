//! Requests of one connection. Each has a buffer of its own in the device's memory; they end in any order.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use super::LEN_MAX;
use crate::{Client, Completion, Error, Io, Result, Segment, Status, kind, socket};
use nvme_testkit::Range;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// How long the other side, and any request, may take.
const WAIT: Duration = Duration::from_secs(60);

/// A request in flight.
#[derive(Clone, Copy)]
struct Pending {
    cookie: [u8; 8],
    /// Bytes that go back.
    read: u32,
}

/// The header of a request.
struct Request {
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    len: u32,
}

impl Request {
    fn parse(bytes: [u8; 28]) -> Result<Self> {
        let part = |from: usize, len: usize| bytes.iter().skip(from).take(len);
        let number = |from, len| part(from, len).fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        if number(0, 4) != u64::from(REQUEST) {
            return Err(Error::Protocol("an NBD client that sends no request".into()));
        }
        let mut cookie = [0; 8];
        cookie.iter_mut().zip(part(8, 8)).for_each(|(to, from)| *to = *from);
        Ok(Self { kind: number(6, 2) as u16, cookie, offset: number(16, 8), len: number(24, 4) as u32 })
    }
}

/// Serves a connection until its other side hangs up.
pub(super) fn requests(client: &mut Client, connection: &OwnedFd, buffers: &[u64]) -> Result<()> {
    let mut pending: Vec<Option<Pending>> = vec![None; buffers.len()];
    let mut open = true;
    while open || pending.iter().any(Option::is_some) {
        while let Some(done) = client.queue(0)?.poll()? {
            finish(client, connection, buffers, &mut pending, done)?;
        }
        let free = pending.iter().position(Option::is_none);
        if client.queue(0)?.arm()? {
            continue;
        }
        let ready = wait(client, connection, open && free.is_some())?;
        socket::drain(client.queue(0)?.call.as_fd())?;
        if let (true, Some(free)) = (ready, free) {
            open = take(client, connection, buffers, &mut pending, free)?;
        }
    }
    Ok(())
}

/// Waits for a completion, or for a request if `more`; says whether there is one. An end of the device's server is an error.
fn wait(client: &Client, connection: &OwnedFd, more: bool) -> Result<bool> {
    let queue = client.queues.first().ok_or(Error::Full("no queue"))?;
    let timeout = Timespec { tv_sec: WAIT.as_secs() as i64, tv_nsec: 0 };
    let wanted = if more { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = [
        PollFd::new(&queue.call, PollFlags::IN),
        PollFd::from_borrowed_fd(client.front.socket(), PollFlags::RDHUP),
        PollFd::new(connection, wanted),
    ];
    // Without anything in flight there is no deadline: the next request may come at any time.
    let deadline = (queue.in_flight() > 0).then_some(&timeout);
    match poll(&mut fds, deadline) {
        Ok(0) => return Err(Error::Deadline("completion")),
        Ok(_) | Err(rustix::io::Errno::INTR) => (),
        Err(errno) => return Err(errno.into()),
    }
    let [_, server, request] = fds;
    if !server.revents().is_empty() {
        return Err(Error::Closed);
    }
    Ok(more && !request.revents().is_empty())
}

/// Takes one request; `false`: there will be no more.
fn take(
    client: &mut Client,
    connection: &OwnedFd,
    buffers: &[u64],
    pending: &mut [Option<Pending>],
    slot: usize,
) -> Result<bool> {
    let mut head = [0; 28];
    match socket::receive_exact(connection.as_fd(), &mut head, socket::until(WAIT)) {
        Ok(_) => (),
        Err(Error::Closed) => return Ok(false),
        Err(other) => return Err(other),
    }
    let request = Request::parse(head)?;
    let addr = *buffers.get(slot).ok_or(Error::Full("buffers"))?;
    let sector = request.offset / 512;
    let aligned = request.offset % 512 == 0 && request.len % 512 == 0;
    let range = Range { sector, sectors: request.len / 512, flags: 0 };
    let data = [Segment { addr, len: request.len }];
    let ranges = [Segment { addr, len: size_of::<Range>() as u32 }];
    let (kind, segments, read): (_, &[Segment], _) = match request.kind {
        DISCONNECT => return Ok(false),
        WRITE if request.len <= LEN_MAX => {
            let mut bytes = vec![0; request.len as usize];
            socket::receive_exact(connection.as_fd(), &mut bytes, socket::until(WAIT))?;
            client.memory.write(addr, &bytes)?;
            (kind::OUT, &data, 0)
        }
        READ if request.len <= LEN_MAX => (kind::IN, &data, request.len),
        FLUSH => (kind::FLUSH, &[], 0),
        TRIM | WRITE_ZEROES => {
            client.memory.write(addr, range.as_bytes())?;
            let kind = if request.kind == TRIM { kind::DISCARD } else { kind::WRITE_ZEROES };
            (kind, &ranges, 0)
        }
        // What follows a write that is too long would have to be skipped.
        _ => return Err(Error::Protocol(format!("NBD request {} of {}", request.kind, request.len))),
    };
    if request.kind != FLUSH && (!aligned || request.len == 0) {
        return reply(connection, EINVAL, request.cookie, &[]).map(|()| true);
    }
    let to_device = kind != kind::IN;
    let queue = client.queue(0)?;
    queue.submit(Io { kind, sector, segments, to_device }, slot as u64)?;
    queue.publish()?;
    if let Some(place) = pending.get_mut(slot) {
        *place = Some(Pending { cookie: request.cookie, read });
    }
    Ok(true)
}

fn finish(
    client: &Client,
    connection: &OwnedFd,
    buffers: &[u64],
    pending: &mut [Option<Pending>],
    done: Completion,
) -> Result<()> {
    let slot = done.token as usize;
    let unknown = || Error::Protocol(format!("a completion for request {slot}"));
    let Pending { cookie, read } = pending.get_mut(slot).and_then(Option::take).ok_or_else(unknown)?;
    if done.status != Status::Ok {
        return reply(connection, EIO, cookie, &[]);
    }
    let addr = *buffers.get(slot).ok_or_else(unknown)?;
    reply(connection, 0, cookie, &client.memory.bytes(addr, read as usize)?)
}

fn reply(connection: &OwnedFd, error: u32, cookie: [u8; 8], data: &[u8]) -> Result<()> {
    let bytes = [&REPLY.to_be_bytes()[..], &error.to_be_bytes(), &cookie, data].concat();
    match socket::send(connection.as_fd(), &bytes, &[], socket::until(WAIT)) {
        // Who hung up waits for no answer.
        Err(Error::Closed) => Ok(()),
        other => other,
    }
}
