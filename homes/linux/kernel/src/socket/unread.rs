//! What lies unread in a socket.

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};

/// What a connection has sent that nobody has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// Few bytes, or none.
    Bytes,
    /// Descriptors, or more bytes than anybody sends before it is answered.
    TooMuch,
    /// The other side is gone.
    Gone,
}

/// Bytes that may lie there.
const BYTES_MAX: usize = 4096;

/// Looks without taking anything. Descriptors show as what there was no room for.
pub fn unread(socket: impl AsFd) -> Unread {
    let mut bytes = [0; BYTES_MAX];
    let mut control = RecvAncillaryBuffer::new(&mut []);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(seen) if seen.flags.contains(ReturnFlags::CTRUNC) || seen.bytes == BYTES_MAX => Unread::TooMuch,
        Ok(seen) if seen.bytes == 0 => Unread::Gone,
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Unread::Bytes,
        Err(_) => Unread::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::{Kind, pair, send};
    use super::{Unread, unread};

    #[test]
    fn descriptors_are_seen_wherever_they_lie_and_nothing_is_taken() {
        let (ours, theirs) = pair(Kind::Stream).unwrap();
        assert_eq!(unread(&ours), Unread::Bytes);
        send(&theirs, &[1; 12], &[]).unwrap();
        send(&theirs, &[1; 12], &[]).unwrap();
        assert_eq!(unread(&ours), Unread::Bytes);
        send(&theirs, &[1; 12], &[theirs.as_fd()]).unwrap();
        assert_eq!(unread(&ours), Unread::TooMuch);
        assert_eq!(super::super::receive(&ours, &mut [0; 24]).unwrap().0, 24);
    }

    #[test]
    fn a_flood_is_too_much_and_an_end_is_seen() {
        let (ours, theirs) = pair(Kind::Stream).unwrap();
        send(&theirs, &[1; 5000], &[]).unwrap();
        assert_eq!(unread(&ours), Unread::TooMuch);
        let (ours, theirs) = pair(Kind::Stream).unwrap();
        drop(theirs);
        assert_eq!(unread(&ours), Unread::Gone);
    }
}
