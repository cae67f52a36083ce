//! Whether a peer runs in this process's control group, which is what a service manager knows a service by.
#![expect(unsafe_code, reason = "a socket option and a request that rustix does not have")]

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// What `PIDFD_GET_INFO` answers, in words of 64 bits: which of them are filled in, the number of the control group, and others.
type Info = [u64; 8];

/// `PIDFD_GET_INFO` of Linux 6.13: `_IOWR(0xff, 11, Info)`.
const GET_INFO: u32 = 3 << 30 | (size_of::<Info>() as u32) << 16 | 0xff << 8 | 11;
/// `PIDFD_INFO_CGROUPID`: the number of the control group is asked for, or said.
const CGROUP: u64 = 1 << 2;
/// `SO_PEERPIDFD` of Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// The control group of this process, wherever it is moved to.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// `None`: the kernel cannot tell. To be asked before the sandbox.
    pub fn own() -> Option<Self> {
        let own = Self(pidfd_open(getpid(), PidfdFlags::empty()).ok()?);
        number(&own.0).map(|_| own)
    }

    /// The request that the sandbox must let through.
    pub fn ioctl() -> u32 {
        GET_INFO
    }

    /// Whether the process that made the connection at the other end is in it. `None`: the kernel cannot tell, or it has ended.
    pub fn has_peer(&self, socket: impl AsFd) -> Option<bool> {
        Some(number(&peer(socket)?)? == number(&self.0)?)
    }
}

/// The process that made the connection at the other end.
fn peer(socket: impl AsFd) -> Option<OwnedFd> {
    let mut fd: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    let (value, length) = ((&raw mut fd).cast(), &raw mut length);
    // SAFETY: the value is an int, whose size is given. A kernel that does not know the option says so.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value, length)
    };
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    (result == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of a process's control group (version 2; all have one, if only the root).
fn number(process: &OwnedFd) -> Option<u64> {
    let mut info: Info = [0; 8];
    info[0] = CGROUP;
    // SAFETY: the request writes as many bytes as its number says, at most: all of `info`.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), GET_INFO.into(), &raw mut info) };
    let [filled, group, ..] = info;
    (result == 0 && filled & CGROUP != 0).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, pair};
    use super::Group;

    #[test]
    fn a_pair_of_this_process_s_own_is_in_its_group_and_what_is_no_socket_is_not_known() {
        // A kernel before 6.13 cannot tell.
        let Some(group) = Group::own() else { return };
        let (ours, theirs) = pair(Kind::SeqPacket).unwrap();
        assert_eq!([group.has_peer(&ours), group.has_peer(&theirs)], [Some(true); 2]);
        assert_eq!(group.has_peer(&group.0), None);
    }
}
