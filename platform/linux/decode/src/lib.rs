//! Turns the defmt frames of a server into text, outside of the server.
//!
//! The stream is what `nvme_linux::frames` writes: records of a thread's number (`u16`), a length (`u16`), both
//! little-endian, and so many bytes of encoded frames. The strings come from the symbol table and the section `.defmt` of
//! the very program that wrote it.
#![forbid(unsafe_code)]

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
