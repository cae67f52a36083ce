//! Which options there are.

use super::Dialect;

macro_rules! options {
    ($($name:ident $text:literal $kind:ident $homes:ident),+ $(,)?) => {
        /// A long option.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Name {
            $($name),+
        }

        const ALL: &[(Name, &str, Kind, Homes)] = &[$((Name::$name, $text, Kind::$kind, Homes::$homes)),+];

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
    Verbose "verbose" Flag All,
    Quiet "quiet" Flag All,
    Client "client" Value All,
    Device "device" Value All,
    DsMax "ds-max" Value All,
    Readonly "readonly" Flag All,
    Nosgl "nosgl" Flag All,
    Nomsi "nomsi" Flag All,
    Nomsix "nomsix" Flag All,
    RegisterDs "register-ds" Value All,
    Cap "cap" Value Some,
    PollUs "poll-us" Value Some,
    Workers "workers" Value Some,
    MemMax "mem-max" Value Some,
    SessionsMax "sessions-max" Value Some,
    Help "help" Flag Some,
    Version "version" Flag Some,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Homes {
    /// Every home has it.
    All,
    /// A home has it when its dialect says so.
    Some,
}

impl Name {
    /// The option of that name, without hyphens, if it is in that dialect.
    pub(super) fn of(text: &str, dialect: &Dialect) -> Option<Self> {
        in_dialect(dialect).find(|(_, known, ..)| *known == text).map(|(name, ..)| *name)
    }

    /// Whether it takes no value.
    pub(super) fn is_flag(self) -> bool {
        ALL.iter().any(|(name, _, kind, _)| *name == self && *kind == Kind::Flag)
    }

    /// The option that somebody may have meant: the same letters, however joined and in whatever letter case.
    pub(super) fn meant(text: &str, dialect: &Dialect) -> Option<Self> {
        let letters = |text: &'_ str| -> heapless::String<32> {
            let letters = text.chars().filter(char::is_ascii_alphanumeric);
            letters.take(32).map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = letters(text);
        in_dialect(dialect).find(|(_, known, ..)| letters(known) == wanted).map(|(name, ..)| *name)
    }
}

fn in_dialect(dialect: &Dialect) -> impl Iterator<Item = &'static (Name, &'static str, Kind, Homes)> {
    ALL.iter().filter(|(_, known, _, homes)| *homes == Homes::All || dialect.options.contains(known))
}
