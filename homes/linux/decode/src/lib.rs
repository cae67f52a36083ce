//! Turns the defmt frames of a server into text, outside of the server.
//!
//! The stream is what `nvme_linux::frames` writes: records of a thread's number (`u16`), a length (`u16`), both
//! little-endian, and so many bytes of encoded frames; on L4Re they are lines of the log ([`from_log`]). The strings come from the symbol table and the section `.defmt` of
//! the very program that wrote it.
#![forbid(unsafe_code)]

mod program;

pub use program::{command, main};

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use defmt_decoder::{DecodeError, StreamDecoder, Table};

/// Why nothing can be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is no ELF file, or of another version of defmt.
    #[error("the program cannot be read: {0}")]
    Program(String),
    /// The program has no trace points.
    #[error(
        "the program has no section `.defmt`: it must be built with the feature `defmt`, and not stripped"
    )]
    NoTable,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads records from `input` to its end and writes a line per frame: `[thread] LEVEL message`. `program`: the bytes
/// of the server's ELF file. Returns how many frames could not be understood.
pub fn decode(program: &[u8], mut input: impl Read, mut output: impl Write) -> Result<u64, Error> {
    let table =
        Table::parse(program).map_err(|error| Error::Program(format!("{error:#}")))?.ok_or(Error::NoTable)?;
    let mut threads: BTreeMap<u16, Box<dyn StreamDecoder + Send + Sync + '_>> = BTreeMap::new();
    let mut malformed = 0;
    let mut bytes = Vec::new();
    while let Some((thread, length)) = header(&mut input)? {
        bytes.resize(usize::from(length), 0);
        input.read_exact(&mut bytes)?;
        let decoder = threads.entry(thread).or_insert_with(|| table.new_stream_decoder());
        decoder.received(&bytes);
        // Each turn takes a frame's bytes from what was received, so this ends.
        loop {
            match decoder.decode() {
                Ok(frame) => {
                    let level = frame.level().map_or("-", |level| level.as_str());
                    writeln!(output, "[{thread}] {level:5} {}", frame.display_message())?;
                }
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => malformed += 1,
            }
        }
    }
    output.flush()?;
    Ok(malformed)
}

/// The next record's thread and length; `None` at the end of the stream.
fn header(input: &mut impl Read) -> io::Result<Option<(u16, u16)>> {
    let mut first = [0; 1];
    if input.read(&mut first)? == 0 {
        return Ok(None);
    }
    let mut rest = [0; 3];
    input.read_exact(&mut rest)?;
    let ([a], [b, c, d]) = (first, rest);
    Ok(Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))))
}

/// The stream of records in a log of L4Re's: lines that hold `frames` and bytes in hexadecimal, whatever stands before. What is cut short
/// is left out.
pub fn from_log(mut log: impl Read) -> io::Result<io::Cursor<Vec<u8>>> {
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let mut records = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((_, digits)) = line.rsplit_once("frames ") else { continue };
        let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let digits = digits.get(..end).unwrap_or_default();
        let (pairs, _) = digits.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = pairs.iter().filter_map(byte).collect();
        let length = u16::try_from(bytes.len()).unwrap_or(0);
        records.extend([0_u16.to_le_bytes(), length.to_le_bytes()].concat());
        records.extend(bytes.get(..usize::from(length)).unwrap_or_default());
    }
    Ok(io::Cursor::new(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_a_log_whatever_stands_around_them() {
        let log =
            "nvme    | frames 01ff\x1b[0m\r\nclient  | other\nnvme    | frames 7\n\x1b[32mnvme| frames 0aB\n";
        let mut bytes = Vec::new();
        from_log(log.as_bytes()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 2, 0, 1, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 0x0a]);
    }
}
