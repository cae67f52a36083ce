//! Which options there are: one table, which the parser, `--help`, the manual page and the shells' completions read.

use super::Dialect;

/// An option, as a manual describes it.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its long name, without hyphens.
    pub long: &'static str,
    /// Its letter with its hyphen, if it has one.
    pub short: Option<&'static str>,
    /// What its value is called; nothing for a flag.
    pub value: Option<&'static str>,
    /// Under which heading it stands.
    pub topic: Topic,
    /// What it does: one paragraph.
    pub about: &'static str,
    name: Name,
    homes: Homes,
}

/// The headings of a manual, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// Static clients.
    Clients,
    /// Of the `--client` or the `--factory` before it.
    OfClient,
    /// Attenuated factories.
    Factories,
    /// Of the `--factory` before it.
    OfFactory,
    /// Trusted memory.
    Trusted,
    /// What the server opens itself.
    Capabilities,
    /// How controllers are used.
    Controllers,
    /// One disk for one client.
    Backend,
    /// All else.
    Server,
}

impl Topic {
    /// Whether its options belong to one that stands before them.
    pub fn is_scoped(self) -> bool {
        matches!(self, Self::OfClient | Self::OfFactory)
    }
}

macro_rules! options {
    ($($topic:ident $homes:ident {$(
        $name:ident $long:literal $($short:literal)? $(= $value:literal)?: $about:literal;
    )+})+) => {
        /// A long option.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Name {
            $($($name),+),+
        }

        const ALL: &[Described] = &[$($(Described {
            long: $long,
            short: options!(@maybe $($short)?),
            value: options!(@maybe $($value)?),
            topic: Topic::$topic,
            about: $about,
            name: Name::$name,
            homes: Homes::$homes,
        }),+),+];

        impl Name {
            /// As it is written, with its hyphens.
            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$name => concat!("--", $long)),+),+
                }
            }
        }
    };
    (@maybe) => { None };
    (@maybe $what:literal) => { Some($what) };
}

options! {
    Clients All {
        Client "client" = "NAME":
            "a static client, served on the listening socket named NAME. The options below --client belong to the one before them.";
    }
    OfClient All {
        Device "device" = "DEV": "what it gets (required; see DEVICES)";
        DsMax "ds-max" = "N": "how many dataspaces (memory files) it may register; 1 to 256, default 2";
        Readonly "readonly": "it may only read";
        Ds "ds" = "NAME":
            "of the trusted dataspaces (--register-ds) it may register only those named so. May be repeated.";
        Iops "iops" = "N": "most requests a second";
        Bytes "bytes" = "SIZE": "most bytes a second";
    }
    Factories All {
        Factory "factory" = "NAME":
            "an attenuated factory, on the listening socket named NAME: sessions of the devices named below it can be had there, and \
             nothing else. It takes the options of a client, --device as often as there are devices; and those below --factory.";
    }
    OfFactory All {
        Sessions "sessions" = "N": "most sessions at a time";
        Factories "factories" = "N": "most factories at a time that are made through it; default 0";
        IopsAll "iops-all" = "N": "most requests a second of all its sessions together";
        BytesAll "bytes-all" = "SIZE": "most bytes a second of all its sessions together";
    }
    Trusted All {
        RegisterDs "register-ds" "-d" = "NAME":
            "a trusted dataspace, by the name of its capability. With at least one, no client can register any other memory. May be repeated.";
    }
    Capabilities Some {
        Cap "cap" = "NAME=SPEC":
            "opens a capability. May be repeated. In a SPEC, fd=N stands for an inherited descriptor in place of a path.";
    }
    Controllers All {
        Nosgl "nosgl": "do not use scatter-gather lists";
        Nomsi "nomsi": "do not use MSI";
        Nomsix "nomsix": "do not use MSI-X";
    }
    Backend Some {
        BlkFile "blk-file" = "PATH": "the disk: an image file or a block device";
        SocketPath "socket-path" = "PATH":
            "where its client connects: one after the other, until the server is told to stop";
        Fd "fd" = "N":
            "in place of --socket-path: an inherited socket, which listens or is connected. The server ends with its client.";
        ReadOnly "read-only": "the disk may only be read";
        PrintCapabilities "print-capabilities": "print as JSON what of this there is, whatever else is said, and end";
    }
    Server Some {
        Workers "workers" = "N": "threads that serve requests; default 1";
        PollUs "poll-us" = "N":
            "how long to poll after work before sleeping, in microseconds; at most; default 32. Less where it does not pay";
        MemMax "mem-max" = "SIZE": "memory that one session may register; default 64G";
        SessionsMax "sessions-max" = "N": "sessions at a time; default 256";
    }
    Server All {
        Verbose "verbose" "-v": "say more; up to three times (info, debug, trace)";
        Quiet "quiet" "-q": "say nothing at all. Of -v and -q the last one wins.";
    }
    Server Some {
        Help "help" "-h": "print this";
        Version "version" "-V": "print the version, the commit it was built from, and what it was built with";
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Homes {
    /// Every home has it.
    All,
    /// A home has it when its dialect says so.
    Some,
}

impl Name {
    /// The option of that name, without hyphens, if it is in that dialect.
    pub(super) fn of(text: &str, dialect: &Dialect) -> Option<Self> {
        dialect.described().find(|option| option.long == text).map(|option| option.name)
    }

    /// The option of that letter, and how it is written.
    pub(super) fn of_letter(letter: char, dialect: &Dialect) -> Option<(Self, &'static str)> {
        let is = |short: &&str| short.chars().nth(1) == Some(letter);
        dialect.described().find_map(|option| Some((option.name, option.short.filter(is)?)))
    }

    /// Whether it takes no value.
    pub(super) fn is_flag(self) -> bool {
        ALL.iter().any(|option| option.name == self && option.value.is_none())
    }

    /// The option that somebody may have meant: the same letters, however joined and in whatever letter case.
    pub(super) fn meant(text: &str, dialect: &Dialect) -> Option<Self> {
        let letters = |text: &'_ str| -> heapless::String<32> {
            let letters = text.chars().filter(char::is_ascii_alphanumeric);
            letters.take(32).map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = letters(text);
        dialect.described().find(|option| letters(option.long) == wanted).map(|option| option.name)
    }
}

impl Dialect {
    /// The options that it has, by their headings.
    pub fn described(&self) -> impl Iterator<Item = &'static Described> {
        let has = |option: &&Described| option.homes == Homes::All || self.options.contains(&option.long);
        ALL.iter().filter(has)
    }
}
