//! The one place where the core speaks: text, defmt frames, or nothing, by feature.
//!
//! | feature | a trace point becomes |
//! | --- | --- |
//! | (none) | nothing; its arguments are type-checked and never evaluated |
//! | `log` | a record of the `log` crate |
//! | `defmt` | a frame of a few bytes, formatted by the reader (also when `log` is chosen) |
//!
//! A format string holds `{}` and `{:?}` only, and arguments are numbers, `bool` and `&str`: what all three
//! understand. Never a client's bytes. A refusal is a value, which the home prints with the name of the peer.

#[doc(hidden)]
#[cfg(feature = "defmt")]
pub use defmt as __defmt;
#[doc(hidden)]
#[cfg(all(feature = "log", not(feature = "defmt")))]
pub use log as __log;

#[doc(hidden)]
#[cfg(feature = "defmt")]
#[macro_export]
macro_rules! __speak {
    // defmt's macros expand to paths that begin with `defmt::`.
    ($level:ident, $($arg:tt)+) => {{ use $crate::trace::__defmt as defmt; defmt::$level!($($arg)+) }};
}

#[doc(hidden)]
#[cfg(all(feature = "log", not(feature = "defmt")))]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => { $crate::trace::__log::$level!($($arg)+) };
}

#[doc(hidden)]
#[cfg(not(any(feature = "log", feature = "defmt")))]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => {{ let _ = || { let _ = ::core::format_args!($($arg)+); }; }};
}

/// A step on the data path.
#[macro_export]
macro_rules! trace { ($($arg:tt)+) => { $crate::__speak!(trace, $($arg)+) }; }
/// A step of control.
#[macro_export]
macro_rules! debug { ($($arg:tt)+) => { $crate::__speak!(debug, $($arg)+) }; }
/// What an operator looks for.
#[macro_export]
macro_rules! info { ($($arg:tt)+) => { $crate::__speak!(info, $($arg)+) }; }
/// Something is not as it should be, and is dealt with.
#[macro_export]
macro_rules! warn { ($($arg:tt)+) => { $crate::__speak!(warn, $($arg)+) }; }
/// Something failed.
#[macro_export]
macro_rules! error { ($($arg:tt)+) => { $crate::__speak!(error, $($arg)+) }; }
