//! The qtest protocol: one line asks, one line answers.

use std::fmt::Arguments;
use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// A connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Qtest(Arc<Mutex<BufReader<UnixStream>>>);

impl Qtest {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(BufReader::new(stream))))
    }

    /// The value in the answer; 0 when there is none.
    fn ask(&self, line: Arguments<'_>) -> Result<u64> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        let mut words = answer.split_whitespace();
        let (Some("OK"), value) = (words.next(), words.next()) else {
            return Err(Error::new(ErrorKind::InvalidData, answer));
        };
        let Some(value) = value else { return Ok(0) };
        let digits = value.strip_prefix("0x").unwrap_or(value);
        u64::from_str_radix(digits, 16).map_err(|error| Error::new(ErrorKind::InvalidData, error))
    }

    /// A read of nobody's memory is all ones, and so is one of a machine that has ended.
    pub(crate) fn read32(&self, at: u64) -> u32 {
        self.ask(format_args!("readl {at:#x}")).map_or(u32::MAX, |value| value as u32)
    }

    pub(crate) fn write32(&self, at: u64, value: u32) {
        let _ = self.ask(format_args!("writel {at:#x} {value:#x}"));
    }

    pub(crate) fn read64(&self, at: u64) -> u64 {
        self.ask(format_args!("readq {at:#x}")).unwrap_or(u64::MAX)
    }

    pub(crate) fn write64(&self, at: u64, value: u64) {
        let _ = self.ask(format_args!("writeq {at:#x} {value:#x}"));
    }

    pub(crate) fn in32(&self, port: u16) -> u32 {
        self.ask(format_args!("inl {port:#x}")).map_or(u32::MAX, |value| value as u32)
    }

    pub(crate) fn out32(&self, port: u16, value: u32) {
        let _ = self.ask(format_args!("outl {port:#x} {value:#x}"));
    }
}
