//! The front-end's side of the vhost-user protocol: one connection, requests and replies.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::message::{HEADER_LEN, Message, RegionWords, VRING_NO_FD, flag, header, protocol, request};
use crate::{Error, Memory, Result, socket};

/// The longest payload that is received.
const PAYLOAD_MAX: usize = 64 * 1024;

/// Where a ring's parts are, in client ("user") addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// Flags; 0 as a rule.
    pub flags: u32,
    /// Descriptor table.
    pub desc: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub avail: u64,
    /// Dirty log.
    pub log: u64,
}

/// What the back-end has to say by itself.
#[derive(Debug)]
pub struct BackEndChannel(OwnedFd);

impl BackEndChannel {
    /// Waits for the next message.
    pub fn receive(&self, wait: Duration) -> Result<Message> {
        receive(self.0.as_fd(), wait)
    }
}

/// A vhost-user connection seen from the front-end.
#[derive(Debug)]
pub struct FrontEnd {
    socket: OwnedFd,
    /// How long each single call waits for the back-end.
    pub wait: Duration,
    /// Whether commands ask for an acknowledgement and wait for it. Set by [`FrontEnd::set_protocol_features`].
    pub acknowledge: bool,
}

/// Memory in which a client keeps what is in flight, for the back-end that it connects to next.
#[derive(Debug)]
pub struct Inflight {
    /// Bytes of it.
    pub size: u64,
    /// Where it begins in its file.
    pub offset: u64,
    /// Rings that it is for, and entries of each.
    pub rings: (u16, u16),
    /// The file.
    pub file: OwnedFd,
}

/// An "inflight description" as QEMU sends it, with four bytes of padding behind.
fn inflight(size: u64, offset: u64, (rings, entries): (u16, u16)) -> [u8; 24] {
    let mut payload = [0; 24];
    payload[..8].copy_from_slice(&size.to_ne_bytes());
    payload[8..16].copy_from_slice(&offset.to_ne_bytes());
    payload[16..18].copy_from_slice(&rings.to_ne_bytes());
    payload[18..20].copy_from_slice(&entries.to_ne_bytes());
    payload
}

impl FrontEnd {
    /// Asks for memory for what is in flight. `len`: bytes of the message, 24 as QEMU's or 20 as rust-vmm's; the reply has as many.
    /// `None`: there is none to be had.
    pub fn get_inflight(&self, rings: (u16, u16), len: usize) -> Result<Option<Inflight>> {
        let payload = inflight(0, 0, rings);
        let reply = self.ask(request::GET_INFLIGHT_FD, payload.get(..len).unwrap_or(&payload), &[])?;
        if reply.payload.len() != len {
            return Err(Error::Protocol(format!("a reply of {} bytes", reply.payload.len())));
        }
        let word = |at: usize| {
            let bytes = reply.payload.get(at..at + 8).and_then(|b| b.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let (size, offset) = (word(0), word(8));
        Ok(reply.fds.into_iter().next().map(|file| Inflight { size, offset, rings, file }))
    }

    /// Hands memory for what is in flight over.
    pub fn set_inflight(&self, memory: &Inflight) -> Result<()> {
        let payload = inflight(memory.size, memory.offset, memory.rings);
        self.command(request::SET_INFLIGHT_FD, &payload, &[memory.file.as_fd()])
    }

    /// Connects to a back-end's listening socket.
    pub fn connect(path: impl AsRef<Path>, wait: Duration) -> Result<Self> {
        Ok(Self::from_fd(socket::connect_stream(path.as_ref())?, wait))
    }

    /// Takes a connected socket: a session capability, for instance.
    pub fn from_fd(socket: OwnedFd, wait: Duration) -> Self {
        Self { socket, wait, acknowledge: false }
    }

    /// The socket itself.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Gives the socket back.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Sends any bytes with any descriptors (at most [`socket::FDS_MAX`]).
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        socket::send(self.socket(), bytes, fds, socket::until(self.wait))
    }

    /// Sends one message with any header flags; the size is the payload's.
    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = header(request, flags, payload.len() as u32).to_vec();
        bytes.extend_from_slice(payload);
        self.send_raw(&bytes, fds)
    }

    /// Receives one message.
    pub fn receive(&self) -> Result<Message> {
        receive(self.socket(), self.wait)
    }

    /// Sends a request and receives its reply.
    pub fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Message> {
        self.send(request, flag::VERSION, payload, fds)?;
        self.reply_to(request)
    }

    fn reply_to(&self, request: u32) -> Result<Message> {
        let reply = self.receive()?;
        if reply.request != request || reply.flags & flag::REPLY == 0 || reply.flags & 3 != flag::VERSION {
            let what = format!("{request} was answered by {} with flags {:#x}", reply.request, reply.flags);
            return Err(Error::Protocol(what));
        }
        Ok(reply)
    }

    /// Sends a request and receives one number.
    pub fn ask_number(&self, request: u32, payload: &[u8]) -> Result<u64> {
        let reply = self.ask(request, payload, &[])?;
        reply
            .number()
            .ok_or_else(|| Error::Protocol(format!("{request}: reply of {} bytes", reply.payload.len())))
    }

    /// Sends a request that has no reply of its own; with [`FrontEnd::acknowledge`], waits for the acknowledgement and
    /// gives [`Error::Refused`] when it is not zero.
    pub fn command(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if !self.acknowledge {
            return self.send(request, flag::VERSION, payload, fds);
        }
        self.send(request, flag::VERSION | flag::NEED_REPLY, payload, fds)?;
        self.acknowledged(request)
    }

    /// Waits for the acknowledgement of a request that was sent with [`flag::NEED_REPLY`].
    pub fn acknowledged(&self, request: u32) -> Result<()> {
        let reply = self.reply_to(request)?;
        match reply.number() {
            Some(0) => Ok(()),
            Some(code) => Err(Error::Refused { request, code }),
            None => {
                Err(Error::Protocol(format!("{request}: acknowledgement of {} bytes", reply.payload.len())))
            }
        }
    }

    /// Device features.
    pub fn features(&self) -> Result<u64> {
        self.ask_number(request::GET_FEATURES, &[])
    }

    /// Acknowledges device features.
    pub fn set_features(&self, features: u64) -> Result<()> {
        self.command(request::SET_FEATURES, &features.to_ne_bytes(), &[])
    }

    /// Claims the device.
    pub fn set_owner(&self) -> Result<()> {
        self.command(request::SET_OWNER, &[], &[])
    }

    /// Protocol features.
    pub fn protocol_features(&self) -> Result<u64> {
        self.ask_number(request::GET_PROTOCOL_FEATURES, &[])
    }

    /// Acknowledges protocol features; with REPLY_ACK, later commands are acknowledged.
    pub fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.command(request::SET_PROTOCOL_FEATURES, &features.to_ne_bytes(), &[])?;
        self.acknowledge = features & protocol::REPLY_ACK != 0;
        Ok(())
    }

    /// Gives the back-end a channel for requests of its own (BACKEND_REQ); ours is the other end.
    pub fn backend_channel(&self) -> Result<BackEndChannel> {
        let (ours, theirs) = socket::pair()?;
        self.command(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        Ok(BackEndChannel(ours))
    }

    /// The most queues.
    pub fn queue_num(&self) -> Result<u64> {
        self.ask_number(request::GET_QUEUE_NUM, &[])
    }

    /// The most memory regions.
    pub fn max_mem_slots(&self) -> Result<u64> {
        self.ask_number(request::GET_MAX_MEM_SLOTS, &[])
    }

    /// Registers all regions of the memory, and only them.
    pub fn set_mem_table(&self, memory: &Memory) -> Result<()> {
        let regions: Vec<_> = memory.regions.iter().map(|r| r.words).collect();
        let fds = memory.regions.iter().map(|r| memory.file(r.file)).collect::<Result<Vec<_>>>()?;
        self.set_mem_table_raw(regions.len() as u32, &regions, &fds)
    }

    /// SET_MEM_TABLE with any count, regions and descriptors.
    pub fn set_mem_table_raw(
        &self,
        count: u32,
        regions: &[RegionWords],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let mut payload = count.to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 4]);
        regions.iter().for_each(|r| payload.extend_from_slice(&r.bytes()));
        self.command(request::SET_MEM_TABLE, &payload, fds)
    }

    /// Adds one region.
    pub fn add_mem_reg(&self, region: RegionWords, file: BorrowedFd<'_>) -> Result<()> {
        self.mem_reg(request::ADD_MEM_REG, region, &[file])
    }

    /// Removes one region.
    pub fn rem_mem_reg(&self, region: RegionWords) -> Result<()> {
        self.mem_reg(request::REM_MEM_REG, region, &[])
    }

    /// ADD_MEM_REG or REM_MEM_REG with any descriptors.
    pub fn mem_reg(&self, request: u32, region: RegionWords, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut payload = [0; 40];
        payload[8..].copy_from_slice(&region.bytes());
        self.command(request, &payload, fds)
    }

    /// A vring state message: SET_VRING_NUM, SET_VRING_BASE or SET_VRING_ENABLE.
    pub fn vring_state(&self, request: u32, queue: u32, number: u32) -> Result<()> {
        self.command(request, &state(queue, number), &[])
    }

    /// Entries of a ring.
    pub fn set_vring_num(&self, queue: u32, size: u32) -> Result<()> {
        self.vring_state(request::SET_VRING_NUM, queue, size)
    }

    /// Where the device goes on in the available ring.
    pub fn set_vring_base(&self, queue: u32, base: u32) -> Result<()> {
        self.vring_state(request::SET_VRING_BASE, queue, base)
    }

    /// Starts or stops the handling of a ring.
    pub fn set_vring_enable(&self, queue: u32, on: bool) -> Result<()> {
        self.vring_state(request::SET_VRING_ENABLE, queue, u32::from(on))
    }

    /// Stops a ring; says where the device would go on.
    pub fn get_vring_base(&self, queue: u32) -> Result<u32> {
        let reply = self.ask(request::GET_VRING_BASE, &state(queue, 0), &[])?;
        let (index, base) = reply.number().map(split).ok_or_else(|| Error::Protocol("vring base".into()))?;
        if index != queue {
            return Err(Error::Protocol(format!("the base of ring {index} came for {queue}")));
        }
        Ok(base)
    }

    /// Where a ring's parts are.
    pub fn set_vring_addr(&self, queue: u32, at: Addresses) -> Result<()> {
        let mut payload = [0; 40];
        payload[0..4].copy_from_slice(&queue.to_ne_bytes());
        payload[4..8].copy_from_slice(&at.flags.to_ne_bytes());
        for (chunk, word) in payload[8..].chunks_exact_mut(8).zip([at.desc, at.used, at.avail, at.log]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        self.command(request::SET_VRING_ADDR, &payload, &[])
    }

    /// A vring descriptor message: SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR; with `None`, the "no descriptor" bit.
    pub fn vring_fd(&self, request: u32, queue: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let word = u64::from(queue) | if fd.is_none() { VRING_NO_FD } else { 0 };
        self.command(request, &word.to_ne_bytes(), fd.as_slice())
    }

    /// Reads `len` bytes of the configuration space at `offset`. A zero-length answer is [`Error::Refused`].
    pub fn config(&self, offset: u32, len: u32) -> Result<Vec<u8>> {
        let reply =
            self.ask(request::GET_CONFIG, &config_payload(offset, len, &vec![0; len as usize]), &[])?;
        match reply.payload.get(12..) {
            Some(bytes) if bytes.len() == len as usize => Ok(bytes.to_vec()),
            Some(bytes) if !bytes.is_empty() => {
                Err(Error::Protocol(format!("{} bytes of configuration", bytes.len())))
            }
            _ => Err(Error::Refused { request: request::GET_CONFIG, code: 0 }),
        }
    }

    /// Writes the configuration space.
    pub fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        self.command(request::SET_CONFIG, &config_payload(offset, bytes.len() as u32, bytes), &[])
    }

    /// Resets the device.
    pub fn reset_device(&self) -> Result<()> {
        self.command(request::RESET_DEVICE, &[], &[])
    }

    /// Gives the back-end a socket for its own requests; what it says arrives on the one returned ([`receive`]).
    pub fn back_end_channel(&self) -> Result<OwnedFd> {
        let (ours, theirs) = socket::pair()?;
        self.command(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        Ok(ours)
    }
}

/// Receives one message from a socket.
pub fn receive(from: BorrowedFd<'_>, wait: Duration) -> Result<Message> {
    let deadline = socket::until(wait);
    let mut head = [0; HEADER_LEN];
    let mut fds = socket::receive_exact(from, &mut head, deadline)?;
    let [request, flags, size] =
        [0, 4, 8].map(|at| head[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)));
    if size as usize > PAYLOAD_MAX {
        return Err(Error::Protocol(format!("a payload of {size} bytes")));
    }
    let mut payload = vec![0; size as usize];
    fds.append(&mut socket::receive_exact(from, &mut payload, deadline)?);
    Ok(Message { request, flags, payload, fds })
}

fn state(queue: u32, number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0..4].copy_from_slice(&queue.to_ne_bytes());
    bytes[4..8].copy_from_slice(&number.to_ne_bytes());
    bytes
}

fn split(number: u64) -> (u32, u32) {
    (number as u32, (number >> 32) as u32)
}

fn config_payload(offset: u32, len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(12 + bytes.len());
    for word in [offset, len, 0] {
        payload.extend_from_slice(&word.to_ne_bytes());
    }
    payload.extend_from_slice(bytes);
    payload
}
