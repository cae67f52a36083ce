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

/// What a parser of command lines has to say: what is wrong, to standard error, or what was asked for (`--help`). Returns
/// the exit status.
pub fn answer(program: &str, text: &str, wrong: bool) -> u8 {
    if wrong {
        complain(format_args!("{}", text.trim_end()));
        return 2;
    }
    match print(text.as_bytes()) {
        Ok(()) => 0,
        Err(why) => {
            complain(format_args!("{program}: {why}"));
            1
        }
    }
}
