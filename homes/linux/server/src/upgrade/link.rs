//! Messages and documents on the socket between two servers.
//!
//! A message is one datagram of words that are separated by NUL. A document lies in a sealed memory file, and the descriptors that it names
//! follow in messages of their own. Every wait has an end that the caller names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nvme_handover::{DOCUMENT_MAX, Document, FILES_MAX, File, Unreadable, VERSION};
use nvme_linux::dispose::dispose;
use nvme_linux::events::now;
use nvme_linux::socket::{self, DESCRIPTORS_MAX, ReceiveError};
use nvme_platform::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread, write};

/// The longest message.
const MESSAGE_MAX: usize = 4096;
/// What keeps a document as it is.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);
/// How soon a message is sent again that the kernel had no room for.
const AGAIN: Duration = Duration::from_millis(1);

/// Why the two do not come to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it hung up")]
    Closed,
    #[error("it took too long")]
    Late,
    #[error("{0}")]
    Refused(String),
    #[error("it said something else than was its turn: {0:?}")]
    Turn(String),
    #[error("its document is not sealed")]
    NotSealed,
    #[error("its document: {0}")]
    Document(#[from] Unreadable),
    #[error("its descriptors were lost: the limit of this process may be too low (RLIMIT_NOFILE)")]
    Lost,
    #[error("{0}")]
    System(Errno),
}

/// Descriptors that go with a document.
#[derive(Default)]
pub(crate) struct Files<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Files<'a> {
    /// One more; its number.
    pub(crate) fn add(&mut self, file: BorrowedFd<'a>) -> File {
        self.0.push(file);
        File(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    /// In the order of their numbers.
    pub(crate) fn each(&self) -> impl Iterator<Item = BorrowedFd<'a>> {
        self.0.iter().copied()
    }
}

/// Descriptors that came with a document. What is not taken is closed, by others.
pub(crate) struct Given(Vec<Option<OwnedFd>>);

impl From<Vec<OwnedFd>> for Given {
    fn from(files: Vec<OwnedFd>) -> Self {
        Self(files.into_iter().map(Some).collect())
    }
}

impl Given {
    /// How many came.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// One of them, once.
    pub(crate) fn take(&mut self, File(number): File) -> Result<OwnedFd, String> {
        let slot = usize::try_from(number).ok().and_then(|at| self.0.get_mut(at));
        slot.and_then(Option::take).ok_or_else(|| format!("there is no descriptor {number}"))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        dispose(self.0.drain(..).flatten());
    }
}

/// What the next server says first.
pub(crate) fn greeting() -> String {
    format!("take over\0{VERSION}")
}

/// One end of the socket: `SOCK_SEQPACKET`, non-blocking.
pub(crate) struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(socket))
    }

    fn wait(&self, flags: PollFlags, until: Time) -> Result<(), Broken> {
        let left = until - now();
        if left.is_zero() {
            return Err(Broken::Late);
        }
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(&self.0, flags)], Some(&left)) {
            Ok(0) => Err(Broken::Late),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(why) => Err(Broken::System(why)),
        }
    }

    /// Whether the other side hung up. What it said before may still be unread.
    pub(crate) fn hung_up(&self) -> bool {
        let mut look = [PollFd::new(&self.0, PollFlags::empty())];
        let looked = poll(&mut look, Some(&Timespec::default()));
        looked.is_ok() && look.iter().any(|seen| seen.revents().contains(PollFlags::HUP))
    }

    /// Sends a message.
    pub(crate) fn send(&self, text: &str, files: &[BorrowedFd<'_>], until: Time) -> Result<(), Broken> {
        loop {
            match socket::send(&self.0, text.as_bytes(), files) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT, until)?,
                // More descriptors are under way than the user may have: the other side takes them.
                Err(Errno::TOOMANYREFS) if now() < until => std::thread::sleep(AGAIN),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.said_last()),
                Err(why) => return Err(Broken::System(why)),
            }
        }
    }

    /// Why the other side hung up: its refusal may have come before what it was to be told.
    fn said_last(&self) -> Broken {
        loop {
            match self.try_receive() {
                Ok(Some((_, files))) => dispose(files),
                Ok(None) => return Broken::Closed,
                Err(why) => return why,
            }
        }
    }

    /// A message, if one is there.
    pub(crate) fn try_receive(&self) -> Result<Option<(String, Vec<OwnedFd>)>, Broken> {
        let mut bytes = [0; MESSAGE_MAX];
        match socket::receive(&self.0, &mut bytes) {
            Ok((0, files)) => {
                dispose(files);
                Err(Broken::Closed)
            }
            Ok((length, files)) => {
                let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
                if let Some(why) = text.strip_prefix("refused\0") {
                    dispose(files);
                    return Err(Broken::Refused(why.to_owned()));
                }
                Ok(Some((text, files)))
            }
            Err(ReceiveError::Socket(Errno::AGAIN | Errno::INTR)) => Ok(None),
            Err(ReceiveError::Socket(Errno::CONNRESET)) => Err(Broken::Closed),
            Err(ReceiveError::Socket(why)) => Err(Broken::System(why)),
            Err(ReceiveError::Truncated) => Err(Broken::Lost),
        }
    }

    fn receive(&self, until: Time) -> Result<(String, Vec<OwnedFd>), Broken> {
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
            self.wait(PollFlags::IN, until)?;
        }
    }

    /// The one message whose turn it is.
    pub(crate) fn expect(&self, what: &str, until: Time) -> Result<(), Broken> {
        let (text, files) = self.receive(until)?;
        dispose(files);
        if text == what { Ok(()) } else { Err(Broken::Turn(text)) }
    }

    /// Says why there is no next step. Nobody waits for the other side to hear it.
    pub(crate) fn refuse(&self, why: &str) {
        let why: String = why.chars().take(MESSAGE_MAX / 8).collect();
        let _ = socket::send(&self.0, format!("refused\0{why}").as_bytes(), &[]);
    }

    /// Sends a document with what it names.
    pub(crate) fn send_document<D: Document>(
        &self,
        document: &D,
        Files(files): &Files<'_>,
        until: Time,
    ) -> Result<(), Broken> {
        let bytes = document.write()?;
        let file = sealed(&bytes).map_err(Broken::System)?;
        self.send(&format!("{}\0{}", D::KIND, files.len()), &[file.as_fd()], until)?;
        files.chunks(DESCRIPTORS_MAX).try_for_each(|some| self.send("files", some, until))
    }

    /// The document whose turn it is, with what it names.
    pub(crate) fn receive_document<D: Document>(&self, until: Time) -> Result<(D, Given), Broken> {
        let (text, mut files) = self.receive(until)?;
        let count = text.strip_prefix(D::KIND).and_then(|t| t.strip_prefix('\0')?.parse::<usize>().ok());
        let (Some(count), Some(file), true) =
            (count.filter(|n| *n <= FILES_MAX), files.pop(), files.is_empty())
        else {
            dispose(files);
            return Err(Broken::Turn(text));
        };
        let bytes = read_sealed(&file)?;
        let mut given = Given(Vec::with_capacity(count));
        while given.0.len() < count {
            let (text, files) = self.receive(until)?;
            let some = !files.is_empty() && given.0.len() + files.len() <= count;
            given.0.extend(files.into_iter().map(Some));
            if text != "files" || !some {
                return Err(Broken::Turn(text));
            }
        }
        Ok((D::read(&bytes, count)?, given))
    }
}

/// Bytes that nobody can change any more. (The sandbox lets nobody set a file's length; what is written has one.)
pub(crate) fn sealed(mut bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("nvme-handover", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    while !bytes.is_empty() {
        match write(&file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// The bytes of a document.
pub(crate) fn read_sealed(file: &OwnedFd) -> Result<Vec<u8>, Broken> {
    if !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(Broken::NotSealed);
    }
    let size = fstat(file).map_err(Broken::System)?.st_size;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > DOCUMENT_MAX {
        return Err(Unreadable::TooLong(size).into());
    }
    let mut bytes = vec![0; size];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match pread(file, rest, at as u64) {
            Ok(0) => return Err(Broken::NotSealed),
            Ok(count) => at += count,
            Err(Errno::INTR) => {}
            Err(why) => return Err(Broken::System(why)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use nvme_handover::{Capabilities, Capability};
    use nvme_linux::socket::{Kind, pair};

    use super::*;

    fn links() -> (Link, Link) {
        let (ours, theirs) = pair(Kind::SeqPacket).unwrap();
        (Link::new(ours).unwrap(), Link::new(theirs).unwrap())
    }

    fn soon() -> Time {
        now() + Duration::from_secs(5)
    }

    #[test]
    fn a_document_comes_with_the_descriptors_that_it_names() {
        let (ours, theirs) = links();
        let file = sealed(b"x").unwrap();
        let mut files = Files::default();
        let capabilities = (0..150)
            .map(|n| Capability { name: n.to_string(), word: None, file: files.add(file.as_fd()) })
            .collect();
        let document = Capabilities { capabilities, ..Capabilities::default() };
        ours.send_document(&document, &files, soon()).unwrap();
        let (read, mut given) = theirs.receive_document::<Capabilities>(soon()).unwrap();
        assert_eq!(read, document);
        let last = document.capabilities[149].file;
        assert!(given.take(last).is_ok() && given.take(last).is_err());
    }

    #[test]
    fn whoever_says_something_else_or_nothing_is_not_waited_for() {
        let (ours, theirs) = links();
        assert!(matches!(ours.expect("go", now() + Duration::from_millis(20)), Err(Broken::Late)));
        theirs.send("stay", &[], soon()).unwrap();
        assert!(matches!(ours.expect("go", soon()), Err(Broken::Turn(_))));
        theirs.refuse("no room");
        assert!(matches!(ours.expect("go", soon()), Err(Broken::Refused(why)) if why == "no room"));
        let open = memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        theirs.send("state\x000", &[open.as_fd()], soon()).unwrap();
        let read = ours.receive_document::<nvme_handover::State>(soon());
        assert!(matches!(read, Err(Broken::NotSealed)));
        drop(theirs);
        assert!(matches!(ours.expect("go", soon()), Err(Broken::Closed)));
        assert!(matches!(ours.send("go", &[], soon()), Err(Broken::Closed)));
    }

    #[test]
    fn who_was_refused_before_it_said_anything_knows_why() {
        let (ours, theirs) = links();
        theirs.refuse("no room");
        drop(theirs);
        let sent = ours.send(&greeting(), &[], soon());
        assert!(matches!(sent, Err(Broken::Refused(why)) if why == "no room"));
    }
}
