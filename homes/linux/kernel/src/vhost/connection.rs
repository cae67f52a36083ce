//! A machine on a socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::machine::{Machine, WrongReply};
use super::request::{Incoming, ProtocolError, Reply, Token};
use super::wire::{PAYLOAD_MAX, VhostUserProtocolFeatures, config_changed};
use crate::dispose::dispose;
use crate::socket::{self, Peer, ReceiveError};

/// How often one [`Connection::poll`] receives, so that a client that only chatters cannot hold its caller.
const RECEIVES_PER_POLL: usize = 64;

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// The client's bytes.
    pub read: bool,
    /// Room for ours.
    pub write: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The client hung up between two messages: the ordinary end.
    #[error("the client hung up")]
    Closed,
    /// The client hung up in the middle of a message.
    #[error("the client hung up in the middle of a message")]
    ClosedInMessage,
    /// The client broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Descriptors were lost: more than a message may carry, or no room in the server's own table.
    #[error("descriptors were lost: too many in one message, or the server has no room for them")]
    DescriptorsLost,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(Errno),
}

/// One client's connection: a [`Machine`] on a non-blocking stream socket. After an error it is to be dropped.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    machine: Machine,
    channel: Option<OwnedFd>,
    sender: Option<Peer>,
    change_pending: bool,
}

impl Connection {
    /// Drives a machine for a device that offers `features`, and so many queues, over `socket`, which becomes non-blocking.
    pub fn new(socket: OwnedFd, features: u64, queues: u16) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        socket::tell_senders(&socket)?;
        let machine = Machine::new(features).with_queues(queues);
        Ok(Self { socket, machine, channel: None, sender: None, change_pending: false })
    }

    /// One that another server began, over `socket`, which is non-blocking already.
    pub(super) fn resumed(
        socket: OwnedFd,
        machine: Machine,
        channel: Option<OwnedFd>,
        change_pending: bool,
    ) -> Result<Self, Errno> {
        socket::tell_senders(&socket)?;
        Ok(Self { socket, machine, channel, sender: None, change_pending })
    }

    /// Where the client is told of news, and whether there is some that it was not told.
    pub fn channel(&self) -> (Option<BorrowedFd<'_>>, bool) {
        (self.channel.as_ref().map(AsFd::as_fd), self.change_pending)
    }

    /// Sends what is to be sent, reads what has come, and says what is to be done. `None`: nothing now; wait as
    /// [`interest`](Self::interest) says, and call again.
    pub fn poll(&mut self) -> Result<Option<Incoming>, ConnectionError> {
        let mut received = 0;
        // What was received whole is taken before the turn ends: nothing would tell of it again.
        loop {
            if !self.flush()? {
                return Ok(None);
            }
            match self.machine.next()? {
                Some(event) => return Ok(Some(event)),
                None if self.machine.wanted() == 0 => {
                    if self.machine.outgoing().is_empty() {
                        return Ok(None);
                    }
                }
                None => {
                    // What is left in the socket is told again by the next wait.
                    if received == RECEIVES_PER_POLL || !self.receive()? {
                        return Ok(None);
                    }
                    received += 1;
                }
            }
        }
    }

    /// Answers a request; what the socket takes at once is sent at once.
    pub fn reply(&mut self, token: Token, reply: Reply) -> Result<(), WrongReply> {
        self.machine.reply(token, reply)?;
        // A session that starts on this connection may have negotiated less.
        if !self.machine.protocol_features().contains(VhostUserProtocolFeatures::BACKEND_REQ) {
            self.channel = None;
        }
        // Whatever is wrong with the socket shows again in the next poll.
        let _ = self.flush();
        Ok(())
    }

    /// Answers [`Call::GetInflight`](super::Call::GetInflight).
    pub fn reply_inflight(&mut self, token: Token, file: OwnedFd) -> Result<(), WrongReply> {
        self.machine.reply_inflight(token, file)?;
        let _ = self.flush();
        Ok(())
    }

    /// Ends it. The client knows at once; what lies unread in the socket may take its time to be closed, and is another
    /// thread's.
    pub fn close(self) {
        let Self { socket, channel, .. } = self;
        let _ = shutdown(&socket, Shutdown::Both);
        dispose([socket].into_iter().chain(channel));
    }

    /// What to wait for before the next [`poll`](Self::poll).
    pub fn interest(&self) -> Interest {
        Interest { read: self.machine.wanted() > 0, write: !self.machine.outgoing().is_empty() }
    }

    /// Who sent what came last, as far as the kernel knows it.
    pub fn sender(&self) -> Option<Peer> {
        self.sender
    }

    /// The protocol's state.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Tells the client that the configuration space changed, if it gave a channel for that. Never waits: while the
    /// channel is full the news waits for the next call, and a channel that fails is given up.
    pub fn config_changed(&mut self) {
        self.change_pending = true;
        self.flush_channel();
    }

    fn flush_channel(&mut self) {
        let Some(channel) = self.channel.as_ref().filter(|_| self.change_pending) else { return };
        match socket::send(channel, &config_changed(), &[]) {
            Ok(_) => self.change_pending = false,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.change_pending = false;
                self.channel = None;
            }
        }
    }

    /// Takes the channel to the client, as [`socket::channel`] checked it.
    pub fn set_channel(&mut self, channel: OwnedFd) {
        self.channel = Some(channel);
        self.flush_channel();
    }

    /// Whether everything is sent.
    fn flush(&mut self) -> Result<bool, ConnectionError> {
        self.flush_channel();
        while !self.machine.outgoing().is_empty() {
            let file = self.machine.outgoing_file();
            match socket::send(&self.socket, self.machine.outgoing(), file.as_slice()) {
                Ok(n) => self.machine.sent(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ConnectionError::Closed),
                Err(e) => return Err(ConnectionError::Socket(e)),
            }
        }
        Ok(true)
    }

    /// Whether anything came.
    fn receive(&mut self) -> Result<bool, ConnectionError> {
        let mut buffer = [0; PAYLOAD_MAX];
        let wanted = self.machine.wanted();
        let Some(into) = buffer.get_mut(..wanted) else { return Ok(false) };
        match socket::receive_from(&self.socket, into) {
            Ok((0, ..)) if self.machine.in_message() => Err(ConnectionError::ClosedInMessage),
            Ok((0, ..)) => Err(ConnectionError::Closed),
            Ok((n, files, sender)) => {
                self.sender = sender.or(self.sender);
                self.machine.feed(buffer.get(..n).unwrap_or(&[]), files)?;
                Ok(true)
            }
            Err(ReceiveError::Socket(Errno::AGAIN | Errno::INTR)) => Ok(false),
            Err(ReceiveError::Socket(Errno::CONNRESET)) => Err(ConnectionError::Closed),
            Err(ReceiveError::Socket(e)) => Err(ConnectionError::Socket(e)),
            Err(ReceiveError::Truncated) => Err(ConnectionError::DescriptorsLost),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
