//! A document with its descriptors, in the queue of a socket that nobody reads from as long as the server lives.
//!
//! Each version of it is a few messages with one number, and only then are those of the version before taken out. So whenever the server
//! dies, one version is there as a whole. Reading takes nothing out: whoever reads and dies as well leaves it as it was.
#![expect(unsafe_code, reason = "a socket option that rustix does not have")]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::dispose::dispose;
use crate::socket::{self, DESCRIPTORS_MAX, Kind, pair};

/// A message: the version's number, the how manieth of it this is, and how many there are.
const HEADER: usize = 16;
/// Most messages that are looked at: far more than two versions of the largest session.
const MESSAGES_MAX: usize = 4096;

/// Why nothing can be had from a shelf.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not two ends of one.
    #[error("it is not what a server kept")]
    Kind,
    /// No version is there as a whole.
    #[error("nothing on it is whole")]
    Partial,
    /// The kernel refused.
    #[error("{0}")]
    System(Errno),
}

/// Both ends of the pair.
#[derive(Debug)]
pub struct Shelf {
    reader: Arc<OwnedFd>,
    writer: OwnedFd,
    /// The number of the last version.
    version: u64,
    /// Messages that are there, or will be once what is stale is taken out.
    messages: usize,
    /// Messages that are stale, and there still.
    stale: Arc<AtomicUsize>,
}

/// Messages of former versions. To be dropped by whoever may take the time that it takes to close what is in them.
#[derive(Debug)]
pub struct Stale {
    reader: Arc<OwnedFd>,
    messages: usize,
    stale: Arc<AtomicUsize>,
}

impl Drop for Stale {
    fn drop(&mut self) {
        for _ in 0..self.messages {
            let mut bytes = [0; HEADER];
            // What came with it has no place to go to, so the kernel closes it.
            let flags = RecvFlags::DONTWAIT;
            let mut into = [IoSliceMut::new(&mut bytes)];
            if recvmsg(&*self.reader, &mut into, &mut RecvAncillaryBuffer::default(), flags).is_err() {
                break;
            }
        }
        // Behind taking them out: who sees none may hand the shelf on.
        self.stale.fetch_sub(self.messages, Ordering::Release);
    }
}

impl Shelf {
    /// An empty one.
    pub fn new() -> Result<Self, Errno> {
        let (writer, reader) = pair(Kind::SeqPacket)?;
        Ok(Self::of(reader, writer, 0, 0))
    }

    fn of(reader: OwnedFd, writer: OwnedFd, version: u64, messages: usize) -> Self {
        Self { reader: Arc::new(reader), writer, version, messages, stale: Arc::default() }
    }

    /// One that another process has left, which writes there no more: both ends in their order, and what [`at`](Self::at) said there.
    pub fn go_on([reader, writer]: [OwnedFd; 2], (version, messages): (u64, u32)) -> Self {
        Self::of(reader, writer, version, messages as usize)
    }

    /// The number of its last version, and how many messages that is. `None`: something stale is there still.
    pub fn at(&self) -> Option<(u64, u32)> {
        let clean = self.stale.load(Ordering::Acquire) == 0;
        clean.then_some((self.version, self.messages as u32))
    }

    /// What a manager has to keep of it.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.reader.as_fd(), self.writer.as_fd()]
    }

    /// Both ends, to be closed by whoever may take the time that it takes to close what is there.
    pub fn into_ends(self) -> impl Iterator<Item = OwnedFd> {
        [Arc::into_inner(self.reader), Some(self.writer)].into_iter().flatten()
    }

    /// Puts a new version there; the first descriptor is the document's. What is returned is of the version before.
    pub fn put(&mut self, files: &[BorrowedFd<'_>]) -> Result<Stale, Errno> {
        self.version += 1;
        let count = files.chunks(DESCRIPTORS_MAX).count();
        let before = self.messages;
        for (at, some) in files.chunks(DESCRIPTORS_MAX).enumerate() {
            let mut header = [0; HEADER];
            let (version, rest) = header.split_at_mut(8);
            version.copy_from_slice(&self.version.to_le_bytes());
            let (place, all) = rest.split_at_mut(4);
            place.copy_from_slice(&(at as u32).to_le_bytes());
            all.copy_from_slice(&(count as u32).to_le_bytes());
            loop {
                match socket::send(&self.writer, &header, some) {
                    Ok(_) => break,
                    Err(Errno::INTR) => {}
                    Err(why) => return Err(why),
                }
            }
            self.messages += 1;
        }
        self.messages -= before;
        self.stale.fetch_add(before, Ordering::Relaxed);
        Ok(Stale { reader: Arc::clone(&self.reader), messages: before, stale: Arc::clone(&self.stale) })
    }

    /// From both ends, in any order, as a manager kept them: the last version that is whole.
    pub fn read(ends: [OwnedFd; 2]) -> Result<(Self, Vec<OwnedFd>), Unreadable> {
        let [one, other] = ends;
        let (reader, writer, messages) = match peek(&one)? {
            messages if messages.is_empty() => {
                let messages = peek(&other)?;
                (other, one, messages)
            }
            messages => (one, other, messages),
        };
        let count = messages.len();
        let last = messages.iter().map(|message| message.version).max().unwrap_or(0);
        let mut versions: Vec<u64> = messages.iter().map(|message| message.version).collect();
        versions.dedup();
        let mut files = None;
        let mut messages = messages;
        while let Some(version) = versions.pop() {
            let parts: Vec<Message> = messages.extract_if(.., |m| m.version == version).collect();
            let whole = parts.len() as u32 == parts.first().map_or(0, |m| m.count)
                && parts.iter().zip(0..).all(|(m, at)| m.at == at);
            let came = parts.into_iter().flat_map(|m| m.files);
            if whole && files.is_none() {
                files = Some(came.collect());
            } else {
                dispose(came);
            }
        }
        let shelf = Self::of(reader, writer, last, count);
        Ok((shelf, files.ok_or(Unreadable::Partial)?))
    }
}

struct Message {
    version: u64,
    at: u32,
    count: u32,
    files: Vec<OwnedFd>,
}

/// All messages in a socket, which stay there.
fn peek(socket: &OwnedFd) -> Result<Vec<Message>, Unreadable> {
    if !socket::is_unix(socket, Kind::SeqPacket) {
        return Err(Unreadable::Kind);
    }
    peek_from(socket, 0).map_err(Unreadable::System)?;
    let mut messages = Vec::new();
    while messages.len() < MESSAGES_MAX {
        let mut bytes = [0; HEADER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::CONNRESET) => break,
            Err(Errno::INTR) => continue,
            Err(why) => return Err(Unreadable::System(why)),
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                files.extend(came);
            }
        }
        if received.bytes == 0 {
            break;
        }
        if received.bytes != HEADER || received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            dispose(files);
            return Err(Unreadable::Kind);
        }
        let number = |from: usize| {
            let four = bytes.get(from..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
            u32::from_le_bytes(four)
        };
        let version = u64::from(number(0)) | u64::from(number(4)) << 32;
        messages.push(Message { version, at: number(8), count: number(12), files });
    }
    peek_from(socket, -1).map_err(Unreadable::System)?;
    Ok(messages)
}

/// From which byte on the next peek looks; it moves on with each. Less than zero: it does not.
fn peek_from(socket: &OwnedFd, at: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the value is an int, whose size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const at).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(text: &str) -> OwnedFd {
        let file = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        file
    }

    fn text(file: &OwnedFd) -> String {
        let mut bytes = [0; 64];
        let length = rustix::io::pread(file, &mut bytes, 0).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn ends(shelf: &Shelf, turned: bool) -> [OwnedFd; 2] {
        let mut ends = shelf.ends().map(|end| end.try_clone_to_owned().unwrap());
        if turned {
            ends.reverse();
        }
        ends
    }

    /// What somebody else finds.
    fn found(shelf: &Shelf) -> Vec<String> {
        Shelf::read(ends(shelf, false)).unwrap().1.iter().map(text).collect()
    }

    #[test]
    fn what_was_put_last_is_found_however_often_and_by_whomever() {
        let mut shelf = Shelf::new().unwrap();
        assert_eq!(Shelf::read(ends(&shelf, false)).unwrap_err(), Unreadable::Partial);
        for count in [1, 63, 64, 65, 200] {
            let files: Vec<OwnedFd> = (0..count).map(|n| memfd(&format!("{count}.{n}"))).collect();
            let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            let stale = shelf.put(&files).unwrap();
            let all: Vec<String> = (0..count).map(|n| format!("{count}.{n}")).collect();
            for turned in [false, true] {
                let (_, found) = Shelf::read(ends(&shelf, turned)).unwrap();
                assert_eq!(found.iter().map(text).collect::<Vec<_>>(), all);
            }
            drop(stale);
            assert_eq!(found(&shelf), all);
        }
    }

    #[test]
    fn a_version_that_is_not_whole_leaves_the_former_one() {
        let mut shelf = Shelf::new().unwrap();
        let (one, two) = (memfd("one"), memfd("two"));
        shelf.put(&[one.as_fd()]).unwrap();
        // As if it had died between two messages, and between putting and taking out.
        let mut header = [0; HEADER];
        header[0] = 2;
        header[12] = 2;
        socket::send(&shelf.writer, &header, &[two.as_fd()]).unwrap();
        shelf.messages += 1;
        let (mut next, files) = Shelf::read(ends(&shelf, true)).unwrap();
        assert_eq!(files.iter().map(text).collect::<Vec<_>>(), ["one"]);
        let stale = next.put(&[two.as_fd()]).unwrap();
        assert_eq!((found(&shelf), stale.messages), (vec!["two".to_owned()], 2));
        drop(stale);
        assert_eq!((found(&next), next.messages), (vec!["two".to_owned()], 1));
    }

    #[test]
    fn what_is_taken_out_is_closed() {
        let mut shelf = Shelf::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let document = memfd("d");
        shelf.put(&[document.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Err(Errno::AGAIN));
        drop(shelf.put(&[document.as_fd()]).unwrap());
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn another_process_goes_on_with_one_on_which_nothing_is_stale() {
        let mut shelf = Shelf::new().unwrap();
        let (one, two) = (memfd("one"), memfd("two"));
        let stale = (shelf.put(&[one.as_fd()]).unwrap(), shelf.put(&[two.as_fd()]).unwrap());
        assert_eq!(shelf.at(), None);
        drop(stale);
        let at = shelf.at().unwrap();
        assert_eq!(at, (2, 1));
        let mut next = Shelf::go_on(ends(&shelf, false), at);
        drop(shelf);
        assert_eq!(found(&next), ["two"]);
        drop(next.put(&[one.as_fd()]).unwrap());
        assert_eq!((found(&next), next.at()), (vec!["one".to_owned()], Some((3, 1))));
    }

    #[test]
    fn when_there_is_no_room_the_former_version_stays() {
        let mut shelf = Shelf::new().unwrap();
        let file = memfd("x");
        let mut stale = vec![shelf.put(&[file.as_fd()]).unwrap()];
        let why = loop {
            match shelf.put(&[file.as_fd()]) {
                Ok(more) => stale.push(more),
                Err(why) => break why,
            }
            assert!(stale.len() < MESSAGES_MAX);
        };
        assert_eq!((why, found(&shelf).len()), (Errno::AGAIN, 1));
        drop(stale);
        drop(shelf.put(&[file.as_fd()]).unwrap());
        assert_eq!((found(&shelf).len(), shelf.messages), (1, 1));
    }

    #[test]
    fn other_things_are_no_shelves() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(Shelf::read([reader, writer]).unwrap_err(), Unreadable::Kind);
        let (one, other) = pair(Kind::SeqPacket).unwrap();
        socket::send(&one, b"something else entirely", &[]).unwrap();
        assert_eq!(Shelf::read([one, other]).unwrap_err(), Unreadable::Kind);
    }
}
