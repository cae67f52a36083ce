//! A call that failed, on its way into Lua.

use std::borrow::Cow;
use std::io;

use mlua::{IntoLua, IntoLuaMulti, Lua, MultiValue, Value};
use rustix::io::Errno;

/// What ned's error table holds: a negative errno, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(errno: Errno, text: impl Into<String>) -> Failure {
        Failure { code: -errno.raw_os_error(), text: text.into() }
    }

    /// An error of the system, with what was tried.
    pub(crate) fn io(what: impl std::fmt::Display, error: &io::Error) -> Failure {
        let code = -error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
        Failure { code, text: format!("{what}: {error}") }
    }
}

/// What a native function returns: its value; or nil, the code and the text.
pub(crate) struct Outcome<T>(pub(crate) Result<T, Failure>);

impl<T: IntoLua> IntoLuaMulti for Outcome<T> {
    fn into_lua_multi(self, lua: &Lua) -> mlua::Result<MultiValue> {
        match self.0 {
            Ok(value) => value.into_lua_multi(lua),
            Err(failure) => (Value::Nil, failure.code, failure.text).into_lua_multi(lua),
        }
    }
}

/// Without the tracebacks that the library puts behind an error: they are of its own functions.
pub(crate) fn first_lines(text: &str) -> String {
    let end = text.find("\nstack traceback:").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).trim_start_matches("runtime error: ").trim_end().to_owned()
}

/// What L4Re says for an error number; what it has none of, as Linux says it.
pub(crate) fn l4_text(code: i64) -> Cow<'static, str> {
    let text = match -code {
        0 => "OK",
        1 => "Operation not permitted",
        2 => "No such object found",
        5 => "I/O error",
        11 => "Try again",
        12 => "Insufficient memory",
        13 => "Access not permitted",
        14 => "Invalid memory address",
        16 => "Function busy",
        17 => "Object exists",
        19 => "No such device",
        20 => "Not a directory",
        22 => "Invalid argument",
        34 => "Argument out of range",
        36 => "Name too long",
        38 => "Function not implemented",
        39 => "Invalid protocol",
        99 => "Address not available",
        number => {
            let text = io::Error::from_raw_os_error(number.try_into().unwrap_or(0)).to_string();
            return text.split(" (os error").next().unwrap_or_default().to_owned().into();
        }
    };
    text.into()
}
