//! The reply's bytes.

use std::fmt;
use std::os::fd::OwnedFd;

use super::REPLY_MAX;

/// A refusal: an errno, and what to tell people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// A positive errno; the wire has it negative.
    pub errno: i32,
    /// What was wrong; it names the word.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", std::io::Error::from_raw_os_error(self.errno))
        } else {
            f.write_str(&self.message)
        }
    }
}

impl std::error::Error for Refusal {}

/// The bytes of a reply; `errno` is 0 or positive. A message that is too long is cut.
pub fn encode(errno: i32, message: &str) -> Vec<u8> {
    let room = REPLY_MAX - 4;
    let message = message.get(..message.floor_char_boundary(room)).unwrap_or("");
    let mut bytes = Vec::with_capacity(4 + message.len());
    bytes.extend_from_slice(&errno.saturating_neg().to_le_bytes());
    bytes.extend_from_slice(message.as_bytes());
    bytes
}

/// What the reply to a request says that asks for no capability: its text, or the refusal.
pub fn decode_answer(datagram: &[u8], files: &[OwnedFd]) -> Result<String, Refusal> {
    let broken = |what: &str| Refusal { errno: libc::EPROTO, message: format!("the server's reply {what}") };
    let (code, text) = datagram.split_first_chunk().ok_or_else(|| broken("is too short"))?;
    let text = String::from_utf8_lossy(text).into_owned();
    match i32::from_le_bytes(*code) {
        0 if files.is_empty() => Ok(text),
        0 => Err(broken("carries a descriptor")),
        code if code < 0 => Err(Refusal { errno: code.saturating_neg(), message: text }),
        _ => Err(broken("has a positive errno")),
    }
}

/// What a reply says that brings capabilities: those, with its message, or the refusal.
pub fn decode_all(datagram: &[u8], files: Vec<OwnedFd>) -> Result<(Vec<OwnedFd>, String), Refusal> {
    let broken = |what: &str| Refusal { errno: libc::EPROTO, message: format!("the factory's reply {what}") };
    let (code, message) = datagram.split_first_chunk().ok_or_else(|| broken("is too short"))?;
    let message = String::from_utf8_lossy(message).into_owned();
    match i32::from_le_bytes(*code) {
        0 => Ok((files, message)),
        code if code < 0 => Err(Refusal { errno: code.saturating_neg(), message }),
        _ => Err(broken("has a positive errno")),
    }
}

/// What a reply says: the session capability with its message, or the refusal. A reply that breaks the format is a
/// refusal with `EPROTO`.
pub fn decode(datagram: &[u8], files: Vec<OwnedFd>) -> Result<(OwnedFd, String), Refusal> {
    let broken = |what: &str| Refusal { errno: libc::EPROTO, message: format!("the factory's reply {what}") };
    let (mut files, message) = decode_all(datagram, files)?;
    match (files.pop(), files.is_empty()) {
        (Some(session), true) => Ok((session, message)),
        _ => Err(broken("does not carry exactly one descriptor")),
    }
}
