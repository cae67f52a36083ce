//! Which options there are.

use super::Home;

macro_rules! options {
    ($($name:ident $text:literal $kind:ident $home:ident),+ $(,)?) => {
        /// A long option.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Name {
            $($name),+
        }

        const ALL: &[(Name, &str, Kind, Homes)] = &[$((Name::$name, $text, Kind::$kind, Homes::$home)),+];

        impl Name {
            /// As it is written, with its hyphens.
            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("--", $text)),+
                }
            }
        }
    };
}

options! {
    Verbose "verbose" Flag Both,
    Quiet "quiet" Flag Both,
    Client "client" Value Both,
    Device "device" Value Both,
    DsMax "ds-max" Value Both,
    Readonly "readonly" Flag Both,
    Nosgl "nosgl" Flag Both,
    Nomsi "nomsi" Flag Both,
    Nomsix "nomsix" Flag Both,
    RegisterDs "register-ds" Value Both,
    Cap "cap" Value Linux,
    PollUs "poll-us" Value Linux,
    Workers "workers" Value Linux,
    MemMax "mem-max" Value Linux,
    SessionsMax "sessions-max" Value Linux,
    Help "help" Flag Linux,
    Version "version" Flag Linux,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Homes {
    Both,
    Linux,
}

impl Name {
    /// The option of that name, without hyphens, if that home has it.
    pub(super) fn of(text: &str, home: Home) -> Option<Self> {
        let here = |homes| homes == Homes::Both || home == Home::Linux;
        ALL.iter().find(|(_, known, _, homes)| *known == text && here(*homes)).map(|(name, ..)| *name)
    }

    /// Whether it takes no value.
    pub(super) fn is_flag(self) -> bool {
        ALL.iter().any(|(name, _, kind, _)| *name == self && *kind == Kind::Flag)
    }

    /// The option that somebody may have meant: the same letters, however joined and in whatever letter case.
    pub(super) fn meant(text: &str) -> Option<Self> {
        let letters = |text: &'_ str| -> heapless::String<32> {
            let letters = text.chars().filter(char::is_ascii_alphanumeric);
            letters.take(32).map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = letters(text);
        ALL.iter().find(|(_, known, ..)| letters(known) == wanted).map(|(name, ..)| *name)
    }
}
