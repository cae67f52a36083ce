//! A call that failed, on its way into Lua.

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
