//! A connection that goes on in another server: what was said so far.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::connection::Connection;
use super::machine::Machine;
use super::parse::{Agreed, PROTOCOL, PROTOCOL_FEATURES};
use super::wire::{HEADER, PAYLOAD_MAX, VhostUserProtocolFeatures as Protocol};
use super::{DESCRIPTORS_MAX, QUEUES};

/// What was said so far, but for what goes with it: the descriptors are told apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Talk {
    /// Device features acknowledged, with the protocol's own.
    pub features: u64,
    /// Protocol features acknowledged.
    pub protocol: u64,
    /// The device was taken, it was owned, protocol features came last, and something came at all.
    pub steps: [bool; 4],
    /// What is here of a message.
    pub input: Vec<u8>,
    /// What is not sent yet.
    pub output: Vec<u8>,
}

/// Why a connection does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTaken {
    /// Features were acknowledged that this server does not offer.
    #[error("its client acknowledged features that are not offered here: {0:#x}")]
    Features(u64),
    /// More is said to be here than there can be.
    #[error("more of a message is said to be here than there can be")]
    Message,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(Errno),
}

/// What was said so far, with the descriptors that came with what is here of a message, and the one that goes with what is not sent.
pub type Said<'a> = (Talk, Vec<BorrowedFd<'a>>, Option<BorrowedFd<'a>>);

impl Machine {
    /// What was said so far. `None` while a request is worked on.
    pub fn talk(&self) -> Option<Said<'_>> {
        let (agreed, steps, input, files) = self.paused()?;
        let talk = Talk {
            features: agreed.features,
            protocol: agreed.protocol.bits(),
            steps,
            input: input.to_vec(),
            output: self.outgoing().to_vec(),
        };
        Some((talk, files.iter().map(AsFd::as_fd).collect(), self.outgoing_file()))
    }

    /// Goes on where another server's was, for a device that offers `features` and so many queues.
    pub fn resume(
        (features, queues): (u64, u16),
        talk: Talk,
        (files, attached): (Vec<OwnedFd>, Option<OwnedFd>),
    ) -> Result<Self, NotTaken> {
        let offered = features | PROTOCOL_FEATURES;
        let surplus = talk.features & !offered;
        if surplus != 0 {
            return Err(NotTaken::Features(surplus));
        }
        let protocol = Protocol::among(talk.protocol, PROTOCOL).map_err(NotTaken::Features)?;
        // While an answer is not sent, nothing is read.
        let both = !talk.input.is_empty() && !talk.output.is_empty();
        if both || talk.output.len() > HEADER + PAYLOAD_MAX || files.len() > DESCRIPTORS_MAX {
            return Err(NotTaken::Message);
        }
        let agreed = Agreed { offered, features: talk.features, protocol, queues: queues.clamp(1, QUEUES) };
        let mut machine = Self::resumed(agreed, talk.steps);
        if !talk.input.is_empty() || !files.is_empty() {
            // As it came the first time, and looked at as then.
            let (header, rest) = talk.input.split_at(talk.input.len().min(HEADER));
            machine.feed(header, files).map_err(|_| NotTaken::Message)?;
            if !rest.is_empty() {
                machine.feed(rest, Vec::new()).map_err(|_| NotTaken::Message)?;
            }
        }
        machine.unsent(talk.output, attached);
        Ok(machine)
    }
}

impl Connection {
    /// What was said so far ([`Machine::talk`]).
    pub fn talk(&self) -> Option<Said<'_>> {
        self.machine().talk()
    }

    /// Goes on where another server was, for a device that offers `features` and so many queues. `channel`: where the client is told of
    /// news, and whether there is some.
    pub fn resume(
        socket: OwnedFd,
        offered: (u64, u16),
        talk: Talk,
        files: (Vec<OwnedFd>, Option<OwnedFd>),
        (channel, news): (Option<OwnedFd>, bool),
    ) -> Result<Self, NotTaken> {
        let machine = Machine::resume(offered, talk, files)?;
        Connection::resumed(socket, machine, channel, news).map_err(NotTaken::Socket)
    }
}
