//! Messages of a vhost-user front-end, by hand.

use std::os::fd::{AsFd, OwnedFd};

use nvme_linux::vhost::wire::{FrontendReq, HEADER, Header, VhostUserProtocolFeatures as Protocol};
use nvme_linux::vhost::{Incoming, Machine, ProtocolError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 9 | 1 << 6;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const ALL_PROTOCOL: u64 = Protocol::MQ.bits()
    | Protocol::CONFIG.bits()
    | Protocol::REPLY_ACK.bits()
    | Protocol::CONFIGURE_MEM_SLOTS.bits()
    | Protocol::RESET_DEVICE.bits()
    | Protocol::BACKEND_REQ.bits()
    | Protocol::INFLIGHT_SHMFD.bits();

/// A whole message.
pub(crate) fn message(request: FrontendReq, need_reply: bool, payload: &[u8]) -> Vec<u8> {
    raw(request.into(), if need_reply { 9 } else { 1 }, payload)
}

pub(crate) fn raw(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { request, flags, size: payload.len() as u32 };
    [header.as_bytes(), payload].concat()
}

pub(crate) fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

pub(crate) fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// An inflight description, in QEMU's length.
pub(crate) fn inflight(size: u64, offset: u64, rings: u16, entries: u16) -> Vec<u8> {
    [u64s(&[size, offset]), rings.to_ne_bytes().to_vec(), entries.to_ne_bytes().to_vec(), vec![0; 4]].concat()
}

/// A table of regions whose head says `count`.
pub(crate) fn table(count: u32, regions: &[[u64; 4]]) -> Vec<u8> {
    [u32s(&[count, 0]), u64s(regions.as_flattened())].concat()
}

pub(crate) fn events(n: usize) -> Vec<OwnedFd> {
    (0..n).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect()
}

/// A descriptor, and how to see that all its copies are closed.
pub(crate) fn canary() -> (OwnedFd, impl Fn() -> bool) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let closed = move || {
        let mut fds = [PollFd::from_borrowed_fd(read.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds[0].revents().contains(PollFlags::HUP)
    };
    (write, closed)
}

/// Feeds a whole message in the pieces that the machine asks for.
pub(crate) fn tell(
    machine: &mut Machine,
    bytes: &[u8],
    mut files: Vec<OwnedFd>,
) -> Result<Option<Incoming>, ProtocolError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(machine.wanted().min(rest.len()));
        assert!(!now.is_empty(), "the machine wants nothing");
        machine.feed(now, std::mem::take(&mut files))?;
        rest = later;
    }
    machine.next()
}

/// What the machine answers: request and payload.
pub(crate) fn answer(machine: &mut Machine) -> Option<(u32, Vec<u8>)> {
    let bytes = machine.outgoing().to_vec();
    if bytes.is_empty() {
        return None;
    }
    machine.sent(bytes.len());
    let header = Header::read_from_bytes(&bytes[..HEADER]).unwrap();
    assert_eq!((header.flags, header.size as usize), (5, bytes.len() - HEADER));
    Some((header.request, bytes[HEADER..].to_vec()))
}

pub(crate) fn number(machine: &mut Machine) -> u64 {
    u64::from_ne_bytes(answer(machine).expect("no answer").1.try_into().unwrap())
}

/// A machine after an ordinary handshake.
pub(crate) fn ready() -> Machine {
    let mut machine = Machine::new(FEATURES);
    set_protocol(&mut machine, ALL_PROTOCOL);
    let features = message(FrontendReq::SET_FEATURES, false, &u64s(&[FEATURES | PROTOCOL_FEATURES]));
    let Ok(Some(Incoming::Request(request))) = tell(&mut machine, &features, vec![]) else { panic!() };
    machine.reply(request.token, nvme_linux::vhost::Reply::Done).unwrap();
    machine
}

pub(crate) fn set_protocol(machine: &mut Machine, features: u64) {
    let set = message(FrontendReq::SET_PROTOCOL_FEATURES, false, &u64s(&[features]));
    assert!(matches!(tell(machine, &set, vec![]), Ok(None)));
}
