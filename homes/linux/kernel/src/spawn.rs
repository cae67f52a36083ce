//! Starting programs that inherit exactly the descriptors that they are given.
//!
//! A started program has descriptors 0, 1 and 2, and then, from 3 on, those of its list, named by the socket-activation
//! convention: `LISTEN_FDS` is their number, `LISTEN_FDNAMES` are their names, in order and divided by colons, and
//! `LISTEN_PID` is its own process id, so that its children do not take the descriptors for theirs. Everything else is
//! closed, whatever its close-on-exec flag said.
//!
//! `std::process::Command` cannot do this: it fixes the environment before the process id is known, and its own
//! descriptor that reports a failed exec may be in the way of number 3. So fork and exec are done here. Between the two
//! the child runs system calls on memory that was prepared before, and nothing else: other threads of the parent may
//! have held any lock at the fork.
#![expect(unsafe_code, reason = "works between fork and exec")]

use std::ffi::{CString, OsStr, c_char, c_int};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// The number of the first descriptor of the list.
pub const FIRST: RawFd = 3;

/// The most descriptors that one program is given.
pub const FDS_MAX: usize = 2048;

/// What is written into the environment once the process id is known.
const LISTEN_PID: &str = "LISTEN_PID=";

/// Digits kept free behind [`LISTEN_PID`]: a process id has 32 bits.
const PID_DIGITS: usize = 10;

/// A program to be started.
pub struct Spawn<'a> {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    names: Vec<String>,
    fds: Vec<BorrowedFd<'a>>,
    standard: [Option<BorrowedFd<'a>>; 3],
    die_with_parent: bool,
}

impl<'a> Spawn<'a> {
    /// The program at `path`, which is not searched for, with `name` as its argument 0. Its environment is empty.
    ///
    /// # Errors
    ///
    /// A path or a name with a NUL in it.
    pub fn new(path: &Path, name: &OsStr) -> io::Result<Spawn<'a>> {
        Ok(Spawn {
            program: CString::new(path.as_os_str().as_bytes())?,
            arguments: vec![CString::new(name.as_bytes())?],
            environment: Vec::new(),
            names: Vec::new(),
            fds: Vec::new(),
            standard: [None; 3],
            die_with_parent: false,
        })
    }

    /// One more argument.
    ///
    /// # Errors
    ///
    /// An argument with a NUL in it.
    pub fn arg(&mut self, argument: &OsStr) -> io::Result<&mut Self> {
        self.arguments.push(CString::new(argument.as_bytes())?);
        Ok(self)
    }

    /// One more variable. `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are made here, and skipped.
    ///
    /// # Errors
    ///
    /// A name that is empty or has a `=` in it, and a NUL in either.
    pub fn env(&mut self, name: &OsStr, value: &OsStr) -> io::Result<&mut Self> {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        if name.is_empty() || name.contains(&b'=') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a variable"));
        }
        if !matches!(name, b"LISTEN_PID" | b"LISTEN_FDS" | b"LISTEN_FDNAMES") {
            self.environment.push(CString::new([name, b"=", value].concat())?);
        }
        Ok(self)
    }

    /// One more descriptor, under a name; its number in the program is returned. A name may repeat.
    ///
    /// # Errors
    ///
    /// A name that the convention cannot carry (empty, longer than 255 bytes, control characters, a colon), and more
    /// than [`FDS_MAX`] descriptors.
    pub fn fd(&mut self, name: &str, fd: BorrowedFd<'a>) -> io::Result<RawFd> {
        if !is_name(name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "`{name}` is not a name for a descriptor: 1 to 255 printable characters, without a colon"
                ),
            ));
        }
        let number = self.fds.len();
        if number >= FDS_MAX {
            return Err(io::Error::other(format!("more than {FDS_MAX} descriptors")));
        }
        self.names.push(name.to_owned());
        self.fds.push(fd);
        // Both are below 2^16.
        Ok(FIRST + number as RawFd)
    }

    /// Descriptor 0, 1 or 2 of the program, instead of the caller's own. Other numbers are ignored.
    pub fn standard(&mut self, number: usize, fd: BorrowedFd<'a>) -> &mut Self {
        if let Some(place) = self.standard.get_mut(number) {
            *place = Some(fd);
        }
        self
    }

    /// Kills the program when the *thread* that starts it ends: start it from one that lasts.
    pub fn die_with_parent(&mut self) -> &mut Self {
        self.die_with_parent = true;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// What fork, the preparation of the descriptors, or exec said: an error here means that nothing runs.
    pub fn start(&self) -> io::Result<Process> {
        let mut environment = self.environment.clone();
        let mut listen_pid = None;
        if !self.fds.is_empty() {
            environment.push(CString::new(format!("LISTEN_FDS={}", self.fds.len()))?);
            environment.push(CString::new(format!("LISTEN_FDNAMES={}", self.names.join(":")))?);
            let mut bytes = Vec::with_capacity(LISTEN_PID.len() + PID_DIGITS + 1);
            bytes.extend_from_slice(LISTEN_PID.as_bytes());
            bytes.resize(LISTEN_PID.len() + PID_DIGITS + 1, 0);
            listen_pid = Some(bytes);
        }
        // Copies above every number that the child makes, so that no descriptor is in another's way there.
        let above = FIRST + self.fds.len() as RawFd;
        let fds = self.fds.iter().map(|fd| above_of(*fd, above)).collect::<io::Result<Vec<_>>>()?;
        let [a, b, c] = self.standard.map(|fd| fd.map(|fd| above_of(fd, above)).transpose());
        let standard = [a?, b?, c?];
        let (report_read, low) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let report_write = above_of(low.as_fd(), above)?;
        drop(low);

        // One pointer, from which all others into that string are made: the child writes through it.
        let listen_pid = listen_pid.as_mut().map_or(ptr::null_mut(), Vec::as_mut_ptr);
        let argv = pointers(&self.arguments, ptr::null());
        let envp = pointers(&environment, listen_pid.cast_const().cast());
        let child = Child {
            program: self.program.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            listen_pid,
            fds: &fds,
            standard: &standard,
            report: report_write.as_raw_fd(),
            parent: rustix::process::getpid(),
            die_with_parent: self.die_with_parent,
        };
        let pid = fork_with_signals_blocked(&child)?;
        drop(report_write);
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork returned no process id"))?;
        // The child has not been waited for, so the number is still its.
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let mut errno = [0; 4];
        // End of file: exec succeeded and closed the other end.
        let failed = std::fs::File::from(report_read).read_exact(&mut errno).is_ok();
        match (failed, pidfd) {
            (false, Ok(pidfd)) => Ok(Process { pid, pidfd }),
            (true, _) => {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(errno)))
            }
            (false, Err(error)) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(error.into())
            }
        }
    }
}

/// Whether the convention can carry `name`.
pub fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b':')
}

/// A copy of `fd` with a number of at least `above`, closed on exec.
fn above_of(fd: BorrowedFd<'_>, above: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, above)?)
}

/// The array that execve takes. It is valid as long as the strings are neither moved nor changed.
fn pointers(strings: &[CString], last: *const c_char) -> Vec<*const c_char> {
    // A null `last` merely ends the array once more.
    strings.iter().map(|string| string.as_ptr()).chain([last, ptr::null()]).collect()
}

/// What the child needs between fork and exec, all of it prepared before the fork.
struct Child<'a> {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// The string of `envp` that holds [`LISTEN_PID`], room for [`PID_DIGITS`] digits, zeroed, and a NUL; null when
    /// there are no descriptors.
    listen_pid: *mut u8,
    fds: &'a [OwnedFd],
    standard: &'a [Option<OwnedFd>; 3],
    report: RawFd,
    parent: Pid,
    die_with_parent: bool,
}

/// Forks; the child does not return. Signals are blocked meanwhile, so that no handler of the parent runs in the child.
fn fork_with_signals_blocked(child: &Child<'_>) -> io::Result<libc::pid_t> {
    // SAFETY: a signal set is plain data, for which all zeroes is a value.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours to write.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are valid for the call.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the child calls `become_program` alone, which makes system calls on memory prepared before, and does not
    // return.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this is the child of the fork, and `child`'s pointers are to live, NUL-terminated strings and arrays
        // that `Spawn::start` keeps; nobody else has the copy of them in this process.
        unsafe { become_program(child, &old) }
    }
    let error = io::Error::last_os_error();
    // SAFETY: the set was filled in by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut()) };
    if pid < 0 { Err(error) } else { Ok(pid) }
}

/// The child's part: arranges the descriptors, and execs. Ends the process when something fails.
///
/// # Safety
///
/// To be called in a child after fork, with what [`Spawn::start`] prepared: it allocates nothing and takes no lock.
unsafe fn become_program(child: &Child<'_>, mask: &libc::sigset_t) -> ! {
    // SAFETY: handed on from the caller.
    let errno = unsafe { try_to_become_program(child, mask) }.raw_os_error();
    let bytes = errno.to_ne_bytes();
    // SAFETY: the report pipe is open and the bytes are ours. Nothing can be done when even this fails.
    unsafe { libc::write(child.report, bytes.as_ptr().cast(), bytes.len()) };
    // SAFETY: ends this process without running anything that belongs to the parent.
    unsafe { libc::_exit(127) }
}

/// The failing part of [`become_program`]; it returns only with an error.
///
/// # Safety
///
/// As there.
unsafe fn try_to_become_program(child: &Child<'_>, mask: &libc::sigset_t) -> rustix::io::Errno {
    if child.die_with_parent {
        if let Err(errno) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
            return errno;
        }
        // The parent may have died before that call.
        if rustix::process::getppid() != Some(child.parent) {
            return rustix::io::Errno::SRCH;
        }
    }
    for (number, fd) in (0..).zip(child.standard) {
        if let Some(fd) = fd
            && let Err(errno) = duplicate(fd.as_raw_fd(), number)
        {
            return errno;
        }
    }
    let mut next = FIRST;
    for fd in child.fds {
        if let Err(errno) = duplicate(fd.as_raw_fd(), next) {
            return errno;
        }
        next += 1;
    }
    // Marks, instead of closing: the report pipe must last until exec.
    // SAFETY: the call has no memory arguments.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, next as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return last();
    }
    if !child.listen_pid.is_null() {
        // SAFETY: the string is longer than that.
        let digits = unsafe { child.listen_pid.add(LISTEN_PID.len()) };
        // SAFETY: PID_DIGITS bytes lie there, initialised, and nobody else refers to them in this process.
        let digits = unsafe { std::slice::from_raw_parts_mut(digits, PID_DIGITS) };
        write_decimal(rustix::process::getpid().as_raw_pid().unsigned_abs(), digits);
    }
    reset_signals();
    // SAFETY: the mask is a valid set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, ptr::from_ref(mask), ptr::null_mut()) };
    // SAFETY: a NUL-terminated path and two null-terminated arrays of NUL-terminated strings, as the caller promised.
    unsafe { libc::execve(child.program, child.argv, child.envp) };
    last()
}

/// Makes `to` a copy of `from`, kept over exec. The two differ: `from` was made above every number that is made.
fn duplicate(from: RawFd, to: RawFd) -> Result<(), rustix::io::Errno> {
    // SAFETY: in the child, whatever `to` was is replaced on purpose, and nothing here uses it again.
    if unsafe { libc::dup2(from, to) } < 0 { Err(last()) } else { Ok(()) }
}

/// The last error of a call.
fn last() -> rustix::io::Errno {
    // `last_os_error` allocates nothing: it holds the number alone.
    rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// Handlers do not survive exec, but ignored signals do: Rust's runtime ignores SIGPIPE, which programs do not expect.
/// Handlers go at once, since the mask is about to be lifted.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: a sigaction is plain data, for which all zeroes is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` is ours to write.
        let known = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } == 0;
        // SIGHUP ignored is how nohup works: that is handed on.
        if known && (action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE) {
            // SAFETY: the default action runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Writes `value` in decimal at the start of `digits`, and leaves the rest as it is.
fn write_decimal(value: u32, digits: &mut [u8]) {
    let mut scale = 1_000_000_000;
    while scale > 1 && value < scale {
        scale /= 10;
    }
    for digit in digits {
        if scale == 0 {
            break;
        }
        // Below 10 by the remainder.
        *digit = b'0' + (value / scale % 10) as u8;
        scale /= 10;
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a status from 0 to 255.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself, with 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }

    /// As one number, the way a shell tells it: the status, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// A started program. Dropping it neither ends nor reaps the program.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Waits until it ends, and reaps it. To be called once: afterwards there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// `ECHILD` when it was reaped already.
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.reap(WaitIdOptions::EXITED)? {
                return Ok(exit);
            }
        }
    }

    /// Reaps it if it has ended.
    ///
    /// # Errors
    ///
    /// As [`Process::wait`].
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn reap(&self, options: WaitIdOptions) -> io::Result<Option<Exit>> {
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        })?;
        Ok(status.and_then(|status| {
            let code = status.exit_status().map(Exit::Code);
            code.or_else(|| status.terminating_signal().map(Exit::Signal))
        }))
    }

    /// Sends it a signal. Never reaches another process, even when it has ended and its number was given away.
    ///
    /// # Errors
    ///
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, signal)?)
    }
}

impl AsFd for Process {
    /// Readable once the program has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for (value, text) in [(0, "0"), (7, "7"), (4_194_304, "4194304"), (u32::MAX, "4294967295")] {
            let mut digits = [0; PID_DIGITS];
            write_decimal(value, &mut digits);
            let end = digits.iter().position(|digit| *digit == 0).unwrap_or(PID_DIGITS);
            assert_eq!(std::str::from_utf8(&digits[..end]).unwrap(), text);
        }
    }
}
