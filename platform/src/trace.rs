//! The one place where the core speaks: through the `log` crate, or to nobody, by feature.
//!
//! For what an operator or a developer may want to see. A refusal is a value, which the home prints with the
//! name of the peer.

#[doc(hidden)]
#[cfg(feature = "log")]
pub use log as __log;

#[doc(hidden)]
#[cfg(feature = "log")]
#[macro_export]
macro_rules! __speak {
    ($level:ident, $($arg:tt)+) => { $crate::trace::__log::$level!($($arg)+) };
}

#[doc(hidden)]
#[cfg(not(feature = "log"))]
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
