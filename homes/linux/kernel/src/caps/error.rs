//! What can be wrong with the capabilities, said so that the operator knows what to do.

use std::io;

/// Why a SPEC is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// No `=`, or nothing before it.
    #[error("write it as NAME=SPEC, as in vbus=pci:0000:01:00.0")]
    NoName,
    /// A name that cannot be one.
    #[error("a capability's name is 1 to 255 printable characters without ':' and '='")]
    BadName,
    /// No known kind before the first colon.
    #[error("`{0}` is no kind of capability: use pci:, soft:, unix: or file:")]
    UnknownKind(String),
    /// Not `DDDD:BB:DD.F`.
    #[error("`{0}` is no PCI address: write it as DDDD:BB:DD.F in hexadecimal, as lspci -D prints it")]
    BadPci(String),
    /// Not an address with a port.
    #[error("`{0}` is no address: write it as 127.0.0.1:PORT or [::1]:PORT")]
    BadTcp(String),
    /// Others than this machine could connect, and nobody said that they may.
    #[error("`{0}` can be reached by other machines: add `,public` if that is meant")]
    NotPublic(String),
    /// Nothing where a path should be.
    #[error("the path is missing")]
    NoPath,
    /// `fd=` without a number, or with one that cannot be a capability.
    #[error("`fd={0}`: give the number of an inherited descriptor, 3 or above")]
    BadFd(String),
    /// A size that cannot be read.
    #[error("`{0}` is no size: give a number of bytes, with K, M, G or T for powers of 1024")]
    BadSize(String),
    /// A size of zero, or not a whole number of blocks.
    #[error("a memory disk of {size} bytes has no whole number of {block}-byte blocks")]
    BadMemorySize {
        /// The size, in bytes.
        size: u64,
        /// The block size, in bytes.
        block: u32,
    },
    /// An option that this kind does not have.
    #[error("`{0}` is no option of this kind of capability")]
    UnknownOption(String),
    /// Read-only as other places spell it.
    #[error("`{0}` is no option of this kind of capability; did you mean ro?")]
    MeantRo(String),
    /// An option twice.
    #[error("`{0}` is given twice")]
    Twice(&'static str),
    /// An option that an inherited descriptor does not take.
    #[error("`{0}` has no effect on an inherited descriptor: leave it out")]
    NotWithFd(&'static str),
    /// Not 1 to 20 printable ASCII characters.
    #[error("serial=`{0}`: 1 to 20 printable ASCII characters, no space at either end")]
    BadSerial(String),
    /// Neither 512 nor 4096.
    #[error("lba=`{0}`: 512 or 4096")]
    BadLba(String),
    /// No engine.
    #[error("engine=`{0}`: auto, window, uring or threads")]
    BadEngine(String),
    /// `engine=`, `preallocate` or `pin` of a disk in memory.
    #[error("soft:mem: is memory: engine=, preallocate and pin are for images")]
    NotOfMemory,
    /// Not an octal mode.
    #[error("mode=`{0}`: an octal mode up to 0777")]
    BadMode(String),
    /// Nothing after `user=` or `group=`.
    #[error("`{0}` is empty")]
    Empty(&'static str),
}

/// What is wrong with the capabilities. Ends the program before anything is served.
#[derive(Debug, thiserror::Error)]
pub enum CapError {
    /// A `--cap` word that cannot be read.
    #[error("--cap {word}: {error}")]
    Word {
        /// The word.
        word: String,
        /// What is wrong with it.
        error: SpecError,
    },
    /// `LISTEN_FDS` or `LISTEN_PID` is not a number that makes sense.
    #[error("{variable}={value} is no number that makes sense: whoever starts the server must set it right")]
    BadVariable {
        /// Which of the variables.
        variable: &'static str,
        /// What it holds.
        value: String,
    },
    /// Names and descriptors differ in number.
    #[error(
        "LISTEN_FDS says {fds} descriptors, LISTEN_FDNAMES has {names} names: name each (FileDescriptorName= of \
         a socket unit)"
    )]
    NameCount {
        /// Descriptors.
        fds: u32,
        /// Names.
        names: usize,
    },
    /// The server that runs was started with something that this one was not.
    #[error(
        "the server that runs was started with `{word}`, and this one was not; to take over, all of its words must be given"
    )]
    NotWanted {
        /// The word there.
        word: String,
    },
    /// A descriptor that is not open.
    #[error("descriptor {fd} (`{name}`) is not open: it must be inherited from whoever starts the server")]
    NotOpen {
        /// Its capability's name.
        name: String,
        /// Its number.
        fd: i32,
    },
    /// A descriptor under two names.
    #[error("descriptor {fd} is given twice, as `{first}` and as `{second}`: give each capability its own")]
    SameFd {
        /// Its number.
        fd: i32,
        /// One name.
        first: String,
        /// The other one.
        second: String,
    },
    /// A name that nothing asks for.
    #[error(
        "capability `{0}` is not used: the names are vbus, svr, ctl, admin, metrics, audit, and those of --client, --factory and --register-ds"
    )]
    Unknown(String),
    /// A name that may come once only.
    #[error("capability `{0}` is given more than once")]
    Twice(String),
    /// A name that the command line uses for two things.
    #[error("`{0}` is used for two different things: give the --client or --register-ds another name")]
    Ambiguous(String),
    /// A mandatory capability.
    #[error("capability `{name}` is missing: {hint}")]
    Missing {
        /// Its name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// Not what the name asks for.
    #[error("capability `{name}`: it is {found}, and must be {wanted}")]
    WrongKind {
        /// Its name.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// An owner for a socket that the system does not know.
    #[error(
        "capability `{name}`: there is no {kind} `{word}`: give a name that the system knows, or a number"
    )]
    NoAccount {
        /// The capability's name.
        name: String,
        /// `user` or `group`.
        kind: &'static str,
        /// What was given.
        word: String,
    },
    /// A file that does not open.
    #[error("capability `{name}`: cannot open {path}: {error}")]
    Open {
        /// Its name.
        name: String,
        /// The path.
        path: String,
        /// The reason.
        error: io::Error,
    },
    /// Somebody else has the device.
    #[error("capability `{name}`: {path} is in use: {holder}")]
    InUse {
        /// The capability's name.
        name: String,
        /// The device.
        path: String,
        /// Who has it.
        holder: String,
    },
    /// Two software controllers with one serial number.
    #[error(
        "{first} and {second} have the same serial number `{serial}`: give one of them another (serial=SN)"
    )]
    SameSerial {
        /// The serial number.
        serial: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The kernel refused something that should not fail.
    #[error("capability `{name}`: {error}")]
    System {
        /// Its name.
        name: String,
        /// The reason.
        error: io::Error,
    },
}
