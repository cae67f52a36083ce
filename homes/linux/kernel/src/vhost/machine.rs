//! The machine: one message in, one event out, one answer back.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, IntoBytes};

use super::parse::{Agreed, PROTOCOL, PROTOCOL_FEATURES, Parsed, inflight_len, parse};
use super::request::{Call, Incoming, ProtocolError, Refusal, Reply, Request, Token, Why};
use super::wire::{
    CONFIG, FrontendReq, HEADER, Header, INFLIGHT, INFLIGHT_SHORT, PAYLOAD_MAX, VERSION, VhostUserConfig,
    VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures as Protocol, VhostUserVringState,
    encode,
};
use super::{DESCRIPTORS_MAX, MEM_SLOTS, QUEUES};
use crate::dispose::dispose;

/// How far a connection is; whoever drives it bounds the time that some of these may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not a byte has come.
    Untouched,
    /// The client began to talk, and has not yet taken the device (`SET_OWNER` or `SET_FEATURES`).
    Handshake,
    /// A part of a message is here, or the client has not read all of a reply.
    MidMessage,
    /// A request waits for the server's own reply.
    Working,
    /// The client's turn; it may take as long as it likes.
    Ready,
}

/// A reply that answers nothing: the token is not that of the outstanding request, or its call wants another kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongReply;

impl fmt::Display for WrongReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reply to no request")
    }
}

impl std::error::Error for WrongReply {}

/// How an outstanding request can be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Ack,
    Start,
    RingBase(u16),
    Config { offset: u32, len: u32 },
    Inflight { rings: u16, size: u16 },
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    token: Token,
    header: Header,
    want: Want,
}

/// What was agreed on; how far a connection is (taken, owned, negotiated, touched); what is here of a message, and what came with it.
type Paused<'a> = (&'a Agreed, [bool; 4], &'a [u8], &'a [OwnedFd]);

/// The back-end's side of one vhost-user connection. It holds at most one message, one answer and
/// [`DESCRIPTORS_MAX`] descriptors.
#[derive(Debug)]
pub struct Machine {
    agreed: Agreed,
    /// The device is taken: `SET_OWNER` or `SET_FEATURES` came.
    taken: bool,
    /// `SET_OWNER` came.
    owned: bool,
    /// `SET_PROTOCOL_FEATURES` came after the last `SET_FEATURES`: whoever starts a session next negotiated it.
    negotiated: bool,
    touched: bool,
    input: Vec<u8>,
    files: Vec<OwnedFd>,
    output: Vec<u8>,
    /// What goes out with the first byte of it.
    attached: Option<OwnedFd>,
    sent: usize,
    outstanding: Option<Outstanding>,
    tokens: u64,
    broken: Option<ProtocolError>,
}

impl Machine {
    /// A machine for a device that offers `features`: virtio's, without vhost-user's own.
    pub fn new(features: u64) -> Self {
        Self {
            agreed: Agreed {
                offered: features | PROTOCOL_FEATURES,
                features: 0,
                protocol: Protocol::empty(),
                queues: QUEUES,
            },
            taken: false,
            owned: false,
            negotiated: false,
            touched: false,
            input: Vec::new(),
            files: Vec::new(),
            output: Vec::new(),
            attached: None,
            sent: 0,
            outstanding: None,
            tokens: 0,
            broken: None,
        }
    }

    /// The same for a device that has fewer queues than [`QUEUES`], at least one.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.agreed.queues = queues.clamp(1, QUEUES);
        self
    }

    /// One that goes on from there. Nothing is outstanding.
    pub(super) fn resumed(agreed: Agreed, steps: [bool; 4]) -> Self {
        let [taken, owned, negotiated, touched] = steps;
        let mut machine = Self::new(0);
        machine.agreed = agreed;
        (machine.taken, machine.owned) = (taken, owned);
        (machine.negotiated, machine.touched) = (negotiated, touched);
        machine
    }

    /// This is not sent yet, and what goes with it.
    pub(super) fn unsent(&mut self, output: Vec<u8>, attached: Option<OwnedFd>) {
        self.output = output;
        self.attached = attached;
    }

    /// What was agreed on, how far it is, and what is here of a message. `None` while a request is worked on, or after an error.
    pub(super) fn paused(&self) -> Option<Paused<'_>> {
        let rests = self.outstanding.is_none() && self.broken.is_none();
        let steps = [self.taken, self.owned, self.negotiated, self.touched];
        rests.then_some((&self.agreed, steps, self.input.as_slice(), self.files.as_slice()))
    }

    /// How many bytes [`feed`](Self::feed) takes now; the socket is not to be read further, so that descriptors are
    /// those of the message they came with. 0: a reply must go out first.
    pub fn wanted(&self) -> usize {
        if self.broken.is_some() || self.outstanding.is_some() || self.sent < self.output.len() {
            return 0;
        }
        self.message_len().saturating_sub(self.input.len())
    }

    /// Bytes of the message that is coming in, as far as is known.
    fn message_len(&self) -> usize {
        let header = self.input.get(..HEADER).and_then(|bytes| Header::read_from_bytes(bytes).ok());
        header
            .map_or(HEADER, |h| HEADER + usize::try_from(h.size).map_or(PAYLOAD_MAX, |n| n.min(PAYLOAD_MAX)))
    }

    /// Takes what one read of the socket returned: at most [`wanted`](Self::wanted) bytes, and the descriptors that came
    /// with them. Those that no message keeps are closed.
    pub fn feed(&mut self, bytes: &[u8], files: Vec<OwnedFd>) -> Result<(), ProtocolError> {
        if let Err(e) = self.check() {
            dispose(files);
            return Err(e);
        }
        if bytes.len() > self.wanted() {
            dispose(files);
            return self.fail(ProtocolError::NotWanted);
        }
        if self.files.len() + files.len() > DESCRIPTORS_MAX {
            dispose(files);
            return self.fail(ProtocolError::TooManyDescriptors);
        }
        self.touched = true;
        self.files.extend(files);
        let had_header = self.input.len() >= HEADER;
        self.input.extend_from_slice(bytes);
        if had_header {
            return Ok(());
        }
        let Some(header) = self.input.get(..HEADER).and_then(|b| Header::read_from_bytes(b).ok()) else {
            return Ok(());
        };
        // A client that counts otherwise than we do can only be hung up on.
        let version = header.flags & VhostUserHeaderFlag::VERSION.bits();
        if version != VERSION {
            return self.fail(ProtocolError::Version(version));
        }
        if header.flags & !(VhostUserHeaderFlag::VERSION.bits() | VhostUserHeaderFlag::NEED_REPLY.bits()) != 0
        {
            return self.fail(ProtocolError::Flags(header.flags));
        }
        if usize::try_from(header.size).map_or(true, |n| n > PAYLOAD_MAX) {
            return self.fail(ProtocolError::TooLong(header.size));
        }
        Ok(())
    }

    /// What to do next, if anything. Requests that need nobody else are answered on the way.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: it fails for good")]
    pub fn next(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        self.check()?;
        if self.outstanding.is_some() || self.input.len() < HEADER || self.input.len() < self.message_len() {
            return Ok(None);
        }
        let Some((Ok(header), payload)) =
            self.input.split_at_checked(HEADER).map(|(h, rest)| (Header::read_from_bytes(h), rest))
        else {
            return Ok(None);
        };
        let mut files = std::mem::take(&mut self.files);
        let parsed = match FrontendReq::try_from(header.request) {
            Ok(request) => parse(request, payload, &mut files, &self.agreed),
            Err(()) => Err(Why::NotOffered),
        };
        self.input.clear();
        dispose(files);
        match parsed {
            Ok(parsed) => Ok(self.take(header, parsed).map(Incoming::Request)),
            Err(why) => self.refuse(header, why).map(|refusal| Some(Incoming::Refused(refusal))),
        }
    }

    fn take(&mut self, header: Header, parsed: Parsed) -> Option<Request> {
        let call = match parsed {
            Parsed::GetFeatures => return self.number(header, self.agreed.offered),
            Parsed::GetProtocolFeatures => return self.number(header, PROTOCOL.bits()),
            Parsed::GetQueueNum => return self.number(header, u64::from(self.agreed.queues)),
            Parsed::GetMaxMemSlots => return self.number(header, MEM_SLOTS),
            Parsed::Ignored => return self.ack(header, true),
            Parsed::Owner if !std::mem::replace(&mut self.owned, true) => {
                self.taken = true;
                return self.ack(header, true);
            }
            Parsed::Owner => {
                // QEMU negotiates protocol features first, and again for each session. Whoever did not has none, as on a
                // connection that is new, once this message is answered.
                self.agreed.features = 0;
                Call::StartSession
            }
            Parsed::SetProtocolFeatures(features) => {
                // The acknowledgement of this very message follows what it negotiates, as in rust-vmm's front-ends.
                self.agreed.protocol = features;
                self.negotiated = true;
                return self.ack(header, true);
            }
            Parsed::Features(features) => {
                self.taken = true;
                self.negotiated = false;
                self.agreed.features = features;
                Call::SetFeatures(features & !PROTOCOL_FEATURES)
            }
            Parsed::Call(call) => call,
        };
        let want = match call {
            Call::GetRingBase { ring } => Want::RingBase(ring),
            Call::GetConfig { offset, len } => Want::Config { offset, len },
            Call::StartSession => Want::Start,
            Call::GetInflight { rings, size } => Want::Inflight { rings, size },
            _ => Want::Ack,
        };
        self.tokens = self.tokens.wrapping_add(1);
        let token = Token(self.tokens);
        self.outstanding = Some(Outstanding { token, header, want });
        Some(Request { token, call })
    }

    /// Answers the outstanding request, whenever it is done.
    pub fn reply(&mut self, token: Token, reply: Reply) -> Result<(), WrongReply> {
        let outstanding = self.outstanding.filter(|o| o.token == token).ok_or(WrongReply)?;
        let header = outstanding.header;
        match (outstanding.want, reply) {
            (Want::Ack, Reply::Done) => {
                self.ack(header, true);
            }
            (Want::Start, Reply::Done) => {
                self.ack(header, true);
                if !self.negotiated {
                    self.agreed.protocol = Protocol::empty();
                }
            }
            (Want::RingBase(ring), Reply::RingBase(base)) => {
                let state = VhostUserVringState { index: ring.into(), num: base.into() };
                self.answer(header, &[encode(&state)]);
            }
            (Want::Config { offset, len }, Reply::Config(data)) if usize::try_from(len) == Ok(data.len()) => {
                let head = VhostUserConfig { offset, size: len, flags: 0 };
                self.answer(header, &[encode(&head), &data]);
            }
            (_, Reply::Failed) => {
                // A refusal that the client is told of is no error; the other kind ends the connection at the next call.
                let _ = self.refuse(header, Why::Failed);
            }
            _ => return Err(WrongReply),
        }
        self.outstanding = None;
        Ok(())
    }

    /// Answers [`Call::GetInflight`] with a file that has room for what was asked, from its beginning.
    pub fn reply_inflight(&mut self, token: Token, file: OwnedFd) -> Result<(), WrongReply> {
        let outstanding = self.outstanding.filter(|o| o.token == token).ok_or(WrongReply)?;
        let Want::Inflight { rings, size } = outstanding.want else { return Err(WrongReply) };
        let mmap_size = inflight_len(rings, size);
        let what = VhostUserInflight {
            mmap_size,
            num_queues: rings,
            queue_size: size,
            ..VhostUserInflight::default()
        };
        self.inflight(outstanding.header, &what);
        self.attached = Some(file);
        self.outstanding = None;
        Ok(())
    }

    /// As long as the front-end's own: QEMU's and rust-vmm's differ in padding, and each takes no other.
    fn inflight(&mut self, header: Header, what: &VhostUserInflight) {
        let len = if header.size as usize == INFLIGHT_SHORT { INFLIGHT_SHORT } else { INFLIGHT };
        self.answer(header, &[encode(what).get(..len).unwrap_or_default()]);
    }

    /// Tells the client that its request failed, or ends the connection where it cannot be told.
    fn refuse(&mut self, header: Header, why: Why) -> Result<Refusal, ProtocolError> {
        let refusal = Refusal { request: header.request, why };
        match FrontendReq::try_from(header.request) {
            // "vhost-user back-end uses zero length of payload to indicate an error".
            Ok(FrontendReq::GET_CONFIG) if self.agreed.protocol.contains(Protocol::CONFIG) => {
                self.answer(header, &[encode(&VhostUserConfig::default())]);
                Ok(refusal)
            }
            // A size of nothing: what is in flight is not kept.
            Ok(FrontendReq::GET_INFLIGHT_FD) if self.agreed.protocol.contains(Protocol::INFLIGHT_SHMFD) => {
                self.inflight(header, &VhostUserInflight::default());
                Ok(refusal)
            }
            // These have replies of their own, none of which can say no.
            Ok(
                FrontendReq::GET_FEATURES
                | FrontendReq::GET_PROTOCOL_FEATURES
                | FrontendReq::GET_QUEUE_NUM
                | FrontendReq::GET_MAX_MEM_SLOTS
                | FrontendReq::GET_VRING_BASE,
            ) => self.fail(ProtocolError::Refused(refusal)),
            _ if self.acknowledges(header) => {
                self.ack(header, false);
                Ok(refusal)
            }
            _ => self.fail(ProtocolError::Refused(refusal)),
        }
    }

    fn acknowledges(&self, header: Header) -> bool {
        header.need_reply() && self.agreed.protocol.contains(Protocol::REPLY_ACK)
    }

    fn ack(&mut self, header: Header, done: bool) -> Option<Request> {
        if self.acknowledges(header) {
            self.number(header, u64::from(!done));
        }
        None
    }

    fn number(&mut self, header: Header, value: u64) -> Option<Request> {
        self.answer(header, &[value.as_bytes()]);
        None
    }

    fn answer(&mut self, header: Header, parts: &[&[u8]]) {
        self.output.clear();
        self.attached = None;
        self.sent = 0;
        // At most a configuration space with its head, which `PAYLOAD_MAX` bounds.
        let size = parts.iter().map(|p| p.len()).sum::<usize>();
        let header = Header::reply(header.request, u32::try_from(size).unwrap_or(0));
        self.output.extend_from_slice(header.as_bytes());
        for part in parts {
            self.output.extend_from_slice(part);
        }
    }

    /// Whether a part of a message is here.
    pub(super) fn in_message(&self) -> bool {
        !self.input.is_empty()
    }

    /// How many descriptors came with what is here of a message.
    pub fn descriptors(&self) -> usize {
        self.files.len()
    }

    /// What to send to the client now.
    pub fn outgoing(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or(&[])
    }

    /// A file that is to be sent with [`outgoing`](Self::outgoing).
    pub fn outgoing_file(&self) -> Option<BorrowedFd<'_>> {
        self.attached.as_ref().map(AsFd::as_fd)
    }

    /// Says that the first `bytes` of [`outgoing`](Self::outgoing) were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.output.len().min(self.sent.saturating_add(bytes));
        if bytes > 0 {
            self.attached = None;
        }
    }

    /// How far the connection is.
    pub fn stage(&self) -> Stage {
        if self.outstanding.is_some() {
            Stage::Working
        } else if !self.input.is_empty() || self.sent < self.output.len() {
            Stage::MidMessage
        } else if self.taken {
            Stage::Ready
        } else if self.touched {
            Stage::Handshake
        } else {
            Stage::Untouched
        }
    }

    /// Whether the client must come on within a deadline: it is in mid-message or in mid-handshake. An untouched
    /// connection is left to the caller: a session capability may wait for its client for long, an accepted connection may not.
    pub fn wants_deadline(&self) -> bool {
        matches!(self.stage(), Stage::Handshake | Stage::MidMessage)
    }

    /// The device features that the client acknowledged, without `PROTOCOL_FEATURES`.
    pub fn features(&self) -> u64 {
        self.agreed.features & !PROTOCOL_FEATURES
    }

    /// Whether rings are enabled from their start, since the client did not acknowledge `PROTOCOL_FEATURES` and so
    /// cannot enable them (vhost-user, "Ring states").
    pub fn rings_start_enabled(&self) -> bool {
        self.agreed.features & PROTOCOL_FEATURES == 0
    }

    /// The protocol features that the client acknowledged.
    pub fn protocol_features(&self) -> Protocol {
        self.agreed.protocol
    }

    fn check(&self) -> Result<(), ProtocolError> {
        self.broken.map_or(Ok(()), Err)
    }

    fn fail<T>(&mut self, error: ProtocolError) -> Result<T, ProtocolError> {
        self.broken = Some(error);
        self.input = Vec::new();
        dispose(self.files.drain(..));
        Err(error)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        dispose(self.files.drain(..).chain(self.attached.take()));
    }
}

const _: () = assert!(CONFIG == 12);
