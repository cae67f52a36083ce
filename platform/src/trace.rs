//! The one place where the core speaks: text, defmt frames, or nothing, by feature.
//!
//! | feature | `trace!`, `debug!` | `info!`, `warn!`, `error!` |
//! | --- | --- | --- |
//! | (none) | nothing; arguments are type-checked and never evaluated | likewise |
//! | `log` | a record of the `log` crate | likewise |
//! | `defmt` | a frame of a few bytes, formatted by the reader | likewise |
//! | `log` and `defmt` | a frame | a record: it is meant for the operator |
//!
//! In a format string of `trace!` and `debug!` arguments follow by position, with a hint at most (`{:#06x}`), and are numbers,
//! `bool` and `&str`: what `log` and defmt both understand. Never a client's bytes. A refusal is a value, which the home prints with
//! the name of the peer.

#[doc(hidden)]
#[cfg(feature = "defmt")]
pub use defmt as __defmt;
#[doc(hidden)]
#[cfg(feature = "log")]
pub use log as __log;

#[doc(hidden)]
#[cfg(feature = "defmt")]
#[macro_export]
macro_rules! __step {
    // defmt's macros expand to paths that begin with `defmt::`.
    ($level:ident, $($arg:tt)+) => {{ use $crate::trace::__defmt as defmt; defmt::$level!($($arg)+) }};
}

#[doc(hidden)]
#[cfg(not(feature = "defmt"))]
#[macro_export]
macro_rules! __step {
    ($level:ident, $($arg:tt)+) => { $crate::__speak!($level, $($arg)+) };
}

#[doc(hidden)]
#[cfg(feature = "log")]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => { $crate::trace::__log::$level!($($arg)+) };
}

#[doc(hidden)]
#[cfg(all(feature = "defmt", not(feature = "log")))]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => { $crate::__step!($level, $($arg)+) };
}

#[doc(hidden)]
#[cfg(not(any(feature = "log", feature = "defmt")))]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => {{ let _ = || { let _ = ::core::format_args!($($arg)+); }; }};
}

/// A step on the data path.
#[macro_export]
macro_rules! trace { ($($arg:tt)+) => { $crate::__step!(trace, $($arg)+) }; }
/// A step of control.
#[macro_export]
macro_rules! debug { ($($arg:tt)+) => { $crate::__step!(debug, $($arg)+) }; }
/// What an operator looks for.
#[macro_export]
macro_rules! info { ($($arg:tt)+) => { $crate::__speak!(info, $($arg)+) }; }
/// Something is not as it should be, and is dealt with.
#[macro_export]
macro_rules! warn { ($($arg:tt)+) => { $crate::__speak!(warn, $($arg)+) }; }
/// Something failed.
#[macro_export]
macro_rules! error { ($($arg:tt)+) => { $crate::__speak!(error, $($arg)+) }; }
