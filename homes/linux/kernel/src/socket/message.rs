//! Bytes with descriptors, and who sent them.
#![expect(
    unsafe_code,
    reason = "rustix takes no credentials of a process that this name space does not see: number 0"
)]

use std::io::IoSlice;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::Peer;
use crate::dispose::dispose;
use crate::events::bounded;

/// Most descriptors that one message may carry.
pub const DESCRIPTORS_MAX: usize = 64;

/// Why a message was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The socket failed, or (`AGAIN`) has nothing now.
    #[error("{0}")]
    Socket(Errno),
    /// The kernel dropped descriptors: too many in one message, or no room in the process's table. Those that came
    /// are closed.
    #[error("descriptors or bytes of a message were lost")]
    Truncated,
}

/// Sends bytes with descriptors, and says how many bytes went out. Never waits, and raises no signal.
pub fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// Receives bytes and the descriptors that came with them, closed on exec. Never waits. 0 bytes: the peer hung up.
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ReceiveError> {
    receive_from(socket, into).map(|(bytes, files, _)| (bytes, files))
}

/// What an ancillary message begins with (cmsg(3)).
const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();
/// The most that the kernel takes with one message. Of those for which there is no room the last copy may be closed by whoever receives the
/// others, and takes as long as its sender likes: so there is room for all.
const SENT_MAX: usize = 253;
/// Room for them, and for one set of credentials.
const CONTROL: usize = HEADER
    + (SENT_MAX * size_of::<i32>()).next_multiple_of(ALIGN)
    + HEADER
    + size_of::<libc::ucred>().next_multiple_of(ALIGN);

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The same, and who sent them, where the socket says so ([`tell_senders`](super::tell_senders)) and the kernel knew it.
///
/// A peer that hangs up with something unread leaves an error (`CONNRESET`) in front of what it said last; that comes behind it.
pub fn receive_from(
    socket: impl AsFd,
    into: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>, Option<Peer>), ReceiveError> {
    match receive_once(socket.as_fd(), into) {
        Err(ReceiveError::Socket(Errno::CONNRESET)) => receive_once(socket.as_fd(), into),
        received => received,
    }
}

fn receive_once(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>, Option<Peer>), ReceiveError> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all of it may be zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: everything that the message points to is there and borrowed by nobody else, as long as it says.
    let received = bounded(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) });
    let Ok(bytes) = usize::try_from(received) else {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(ReceiveError::Socket(Errno::from_raw_os_error(errno)));
    };
    let (mut files, mut peer) = (Vec::new(), None);
    // The kernel says how much of it there is.
    let mut rest = control.0.get(..message.msg_controllen as usize).unwrap_or_default();
    while let Some((kind, data, behind)) = ancillary(rest) {
        match kind {
            libc::SCM_RIGHTS => {
                let (numbers, _) = data.as_chunks::<{ size_of::<i32>() }>();
                for number in numbers {
                    // SAFETY: the kernel has just made this descriptor for us, and it is taken once.
                    files.push(unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(*number)) });
                }
            }
            libc::SCM_CREDENTIALS => peer = credentials(data),
            _ => {}
        }
        rest = behind;
    }
    let too_many = files.len() > DESCRIPTORS_MAX;
    if too_many || message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        dispose(files);
        return Err(ReceiveError::Truncated);
    }
    Ok((bytes, files, peer))
}

/// The first ancillary message: of which kind, what is in it, and what is behind it. Sockets of this family have one level.
fn ancillary(bytes: &[u8]) -> Option<(i32, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (_level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk()?;
    let length = usize::from_ne_bytes(*length);
    let data = bytes.get(HEADER..length)?;
    Some((i32::from_ne_bytes(*kind), data, bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default()))
}

/// `None` where the kernel had none to tell: the message was sent before anybody asked for them.
fn credentials(data: &[u8]) -> Option<Peer> {
    const NOBODY: u32 = 65_534;
    let (numbers, _) = data.as_chunks::<4>();
    let [pid, uid, gid] = numbers else { return None };
    let peer =
        Peer { pid: i32::from_ne_bytes(*pid), uid: u32::from_ne_bytes(*uid), gid: u32::from_ne_bytes(*gid) };
    (peer.pid != 0 || peer.uid != NOBODY).then_some(peer)
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, pair, peer, tell_senders};
    use super::*;

    #[test]
    fn who_sent_a_message_is_told_with_its_descriptors() {
        for kind in [Kind::Stream, Kind::SeqPacket] {
            let (ours, theirs) = pair(kind).unwrap();
            tell_senders(&ours).unwrap();
            let files: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| theirs.as_fd()).collect();
            send(&theirs, b"abc", &files).unwrap();
            let mut bytes = [0; 8];
            let (n, came, from) = receive_from(&ours, &mut bytes).unwrap();
            assert_eq!((n, came.len(), from), (3, DESCRIPTORS_MAX, peer(&ours)));
            send(&theirs, b"d", &[]).unwrap();
            assert_eq!(receive_from(&ours, &mut bytes).unwrap().2.unwrap().pid as u32, std::process::id());
            drop((theirs, came));
            assert!(matches!(receive_from(&ours, &mut bytes), Ok((0, _, _))));
        }
    }

    #[test]
    fn the_last_words_of_a_peer_are_heard_though_it_did_not_hear_ours() {
        for kind in [Kind::Stream, Kind::SeqPacket] {
            let (ours, theirs) = pair(kind).unwrap();
            send(&ours, b"may I", &[]).unwrap();
            send(&theirs, b"no", &[]).unwrap();
            drop(theirs);
            let mut bytes = [0; 8];
            assert_eq!(receive(&ours, &mut bytes).unwrap().0, 2);
            assert_eq!(receive(&ours, &mut bytes).unwrap().0, 0);
        }
    }

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        let (ours, theirs) = pair(Kind::SeqPacket).unwrap();
        send(&theirs, b"early", &[]).unwrap();
        tell_senders(&ours).unwrap();
        assert_eq!(receive_from(&ours, &mut [0; 8]).unwrap().2, None);
        send(&theirs, b"longer than that", &[theirs.as_fd()]).unwrap();
        assert_eq!(receive_from(&ours, &mut [0; 4]).unwrap_err(), ReceiveError::Truncated);
    }
}
