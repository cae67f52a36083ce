//! Descriptors that the parent process left open for us.
#![expect(unsafe_code, reason = "owns descriptors that are known by number only")]

use std::env;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};

use super::{CapError, CapWord};

/// The first descriptor of the convention (sd_listen_fds(3)).
const START: RawFd = 3;
/// More than any server is given; keeps a wrong number from becoming a long loop.
const MOST: u32 = 4096;

/// An inherited descriptor and its name.
#[derive(Debug)]
pub struct NamedFd {
    /// The capability's name.
    pub name: String,
    /// The descriptor, closed on exec.
    pub fd: OwnedFd,
}

/// What was inherited.
#[derive(Debug, Default)]
pub struct Inherited {
    /// By `LISTEN_FDS`, in order.
    pub listen: Vec<NamedFd>,
    /// By `fd=N` in a `--cap` word: the number there, and the descriptor.
    pub(super) words: Vec<(RawFd, OwnedFd)>,
    /// From the server that hands over: the word that each was opened by there, if any.
    pub(super) handed: Vec<(Option<String>, NamedFd)>,
    /// `LISTEN_PID`, when it names another process: the descriptors were not for us.
    pub(super) other_pid: Option<u32>,
}

/// What the environment says: the names of descriptors 3, 4, …
#[derive(PartialEq, Eq, Debug, Default)]
struct Convention {
    names: Vec<String>,
    other_pid: Option<u32>,
}

impl Inherited {
    /// What the server hands over that this program takes over from. What it has takes the place of what a word would open; a word must be
    /// the same there and here.
    pub fn hand_over(&mut self, handed: Vec<(Option<String>, NamedFd)>) {
        self.handed = handed;
    }

    /// Takes the descriptors that the environment and the `--cap` words name, sets them to be closed on exec,
    /// removes the variables, and closes every other inherited descriptor above the standard three: nobody asked
    /// for it, so nobody can use it by accident.
    ///
    /// # Safety
    /// To be called once, first thing in `main`: there is no other thread, and nothing in the program owns a
    /// descriptor above 2 yet.
    pub unsafe fn take(words: &[CapWord]) -> Result<Self, CapError> {
        let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(env::var_os);
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            // SAFETY: there is no other thread (this function's contract).
            unsafe { env::remove_var(name) };
        }
        let [pid, fds, names] = variables;
        let convention = read_convention(pid, fds, names, std::process::id())?;
        let plan = plan(&convention, words)?;
        let mut inherited = Self { other_pid: convention.other_pid, ..Self::default() };
        for (fd, name, word) in &plan {
            // SAFETY: nothing owns a descriptor above 2 (this function's contract), and the plan has each number
            // once; whether it is open is found out by the first call on it, which fails otherwise.
            let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl_setfd(borrowed, FdFlags::CLOEXEC)
                .map_err(|_| CapError::NotOpen { name: (*name).clone(), fd: *fd })?;
            // SAFETY: it is open (the call above), and nobody else owns it.
            let owned = unsafe { OwnedFd::from_raw_fd(*fd) };
            if *word {
                inherited.words.push((*fd, owned));
            } else {
                inherited.listen.push(NamedFd { name: (*name).clone(), fd: owned });
            }
        }
        let keep: Vec<RawFd> = plan.iter().map(|(fd, ..)| *fd).collect();
        // SAFETY: what is not in the plan has no owner (this function's contract).
        unsafe { crate::sandbox::close_all_but(&keep) };
        Ok(inherited)
    }
}

fn read_convention(
    pid: Option<OsString>,
    fds: Option<OsString>,
    names: Option<OsString>,
    own_pid: u32,
) -> Result<Convention, CapError> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(Convention::default()) };
    let number = |variable, value: OsString, most| {
        let value = value.to_string_lossy().into_owned();
        let digits = value.bytes().all(|b| b.is_ascii_digit());
        match value.parse::<u32>() {
            Ok(number) if digits && number <= most => Ok(number),
            _ => Err(CapError::BadVariable { variable, value }),
        }
    };
    let pid = number("LISTEN_PID", pid, u32::MAX)?;
    if pid != own_pid {
        // The convention: they are for somebody else, who shares our environment.
        return Ok(Convention { names: Vec::new(), other_pid: Some(pid) });
    }
    let count = number("LISTEN_FDS", fds, MOST)?;
    let text = names.map(|names| names.to_string_lossy().into_owned());
    let names: Vec<String> = match text {
        Some(text) if count > 0 => text.split(':').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    if u32::try_from(names.len()) != Ok(count) {
        return Err(CapError::NameCount { fds: count, names: names.len() });
    }
    Ok(Convention { names, other_pid: None })
}

/// Every descriptor that is named: its number, its name, and whether a word named it (else the environment did).
fn plan<'a>(
    convention: &'a Convention,
    words: &'a [CapWord],
) -> Result<Vec<(RawFd, &'a String, bool)>, CapError> {
    let mut plan: Vec<(RawFd, &String, bool)> =
        (START..).zip(&convention.names).map(|(fd, name)| (fd, name, false)).collect();
    for word in words {
        let Some(fd) = word.spec.fd() else { continue };
        if let Some((_, first, _)) = plan.iter().find(|(taken, ..)| *taken == fd) {
            return Err(CapError::SameFd { fd, first: (*first).clone(), second: word.name.clone() });
        }
        plan.push((fd, &word.name, true));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pid: &str, fds: &str, names: Option<&str>) -> Result<Convention, CapError> {
        read_convention(Some(pid.into()), Some(fds.into()), names.map(Into::into), 77)
    }

    #[test]
    fn names_may_repeat_and_count_from_three() {
        let convention = read("77", "3", Some("vbus:svr:vbus")).unwrap();
        assert_eq!(convention.names, ["vbus", "svr", "vbus"]);
        let numbers: Vec<_> = plan(&convention, &[]).unwrap().into_iter().map(|(fd, ..)| fd).collect();
        assert_eq!(numbers, [3, 4, 5]);
    }

    #[test]
    fn descriptors_for_another_process_are_left_alone() {
        let convention = read("78", "2", Some("a:b")).unwrap();
        assert_eq!(convention, Convention { names: vec![], other_pid: Some(78) });
        assert_eq!(read_convention(None, Some("2".into()), None, 77).unwrap(), Convention::default());
        assert_eq!(read_convention(Some("77".into()), None, None, 77).unwrap(), Convention::default());
    }

    #[test]
    fn every_descriptor_must_be_named() {
        assert!(matches!(read("77", "2", None), Err(CapError::NameCount { fds: 2, names: 0 })));
        assert!(matches!(read("77", "2", Some("a")), Err(CapError::NameCount { fds: 2, names: 1 })));
        assert!(matches!(read("77", "1", Some("a:b")), Err(CapError::NameCount { fds: 1, names: 2 })));
        assert_eq!(read("77", "0", Some("")).unwrap(), Convention::default());
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for bad in ["", "-1", "+1", "x", "4097", "99999999999"] {
            assert!(
                matches!(read("77", bad, None), Err(CapError::BadVariable { variable: "LISTEN_FDS", .. })),
                "{bad}"
            );
        }
        assert!(matches!(read("x", "1", None), Err(CapError::BadVariable { variable: "LISTEN_PID", .. })));
    }

    #[test]
    fn a_descriptor_is_given_once() {
        let convention = read("77", "2", Some("vbus:svr")).unwrap();
        let twice: CapWord = "ram=file:fd=4".parse().unwrap();
        let error = plan(&convention, &[twice]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "descriptor 4 is given twice, as `svr` and as `ram`: give each capability its own"
        );
        let words: [CapWord; 2] = ["a=file:fd=9".parse().unwrap(), "b=file:fd=9".parse().unwrap()];
        assert!(matches!(plan(&convention, &words), Err(CapError::SameFd { fd: 9, .. })));
        assert_eq!(plan(&convention, &words[..1]).unwrap().len(), 3);
    }
}
