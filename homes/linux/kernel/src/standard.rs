//! Standard output and standard error of the programs.
//!
//! `print!` and `eprint!` panic when nobody takes what they say: a full disk, a closed descriptor. Here that is an error, or
//! nothing.

use std::fmt;
use std::io::{self, Write};

/// Writes to standard output, all of it. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| io::Error::new(error.kind(), format!("standard output: {error}"))),
    }
}

/// Writes a line to standard error, where that takes one.
pub fn complain(line: fmt::Arguments<'_>) {
    // One write: lines of several processes must not be mixed. Whoever closed it wants to hear nothing.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
