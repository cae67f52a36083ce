//! Whether a file is what was written.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::chain::{Hash, Head, Line};
use super::record::{Event, SCHEMA};

/// A line is not longer.
const LINE_MAX: u64 = 64 << 10;

/// What is wrong, and where.
#[derive(Debug)]
pub enum Broken {
    /// The file cannot be read.
    Read(io::Error),
    /// That line, counted from 1 in this file, is no record.
    NoRecord(u64),
    /// It is a record of another version.
    Schema(u64, u32),
    /// It does not follow the one before: that was changed, or something between them is missing.
    NotNext(u64),
    /// The file ends before that line.
    CutOff(Head),
    /// The line of that number is another.
    Another(Head),
    /// The line of that number is in a file before this one.
    Before(Head),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(e) => write!(f, "{e}"),
            Self::NoRecord(at) => write!(f, "line {at} is no record"),
            Self::Schema(at, v) => write!(f, "line {at} is of version {v}, and this program reads {SCHEMA}"),
            Self::NotNext(at) => write!(
                f,
                "line {at} does not follow the one before: a line was changed, added or taken out there"
            ),
            Self::CutOff(head) => write!(f, "the file ends before record {}: it was cut off", head.seq),
            Self::Another(head) => {
                write!(f, "record {} is not the one of that head: the file was changed", head.seq)
            }
            Self::Before(head) => write!(f, "record {} is in a file before this one", head.seq),
        }
    }
}

impl std::error::Error for Broken {}

/// What was found to be sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Records in the file.
    pub records: u64,
    /// The last one.
    pub head: Head,
    /// How many records follow the head that was given: nothing but the chain itself speaks for them. All, if none was given.
    pub unproven: u64,
    /// Records that say that others were lost.
    pub gaps: u64,
    /// Lines that were torn, each behind which the server closed it.
    pub torn: u64,
}

/// Reads a file from its start. `head`: a line that was written down elsewhere. `each`: is given every record, in order.
///
/// The first line may follow one of another file. A line that was torn, as by a power cut, is skipped where the next one says so.
pub fn verify(
    mut file: impl BufRead,
    head: Option<Head>,
    mut each: impl FnMut(&Line),
) -> Result<Verified, Broken> {
    let mut last: Option<Head> = None;
    let mut verified = Verified { records: 0, head: Head::NONE, unproven: 0, gaps: 0, torn: 0 };
    let mut proven = false;
    let mut torn: Option<u64> = None;
    let mut text = Vec::new();
    for at in 1.. {
        text.clear();
        let read = Read::take(&mut file, LINE_MAX).read_until(b'\n', &mut text).map_err(Broken::Read)?;
        if read == 0 {
            break;
        }
        let whole = text.pop_if(|b| *b == b'\n').is_some();
        let line: Option<Line> = serde_json::from_slice(&text).ok().filter(|_| whole);
        let Some(line) = line else {
            // One at most, and only if what comes next says so.
            if torn.replace(at).is_some() {
                return Err(Broken::NoRecord(at));
            }
            continue;
        };
        if line.v != SCHEMA {
            return Err(Broken::Schema(at, line.v));
        }
        if let Some(torn) = torn.take() {
            if line.record.event != Event::Torn {
                return Err(Broken::NoRecord(torn));
            }
            verified.torn += 1;
        }
        let follows = last.is_none_or(|last| {
            last.seq.checked_add(1) == Some(line.seq) && line.prev == last.hash.to_string()
        });
        if !follows || (last.is_none() && line.seq == 1 && line.prev != Hash::NONE.to_string()) {
            return Err(Broken::NotNext(at));
        }
        let this = Head { seq: line.seq, hash: Hash::of(&text) };
        match head {
            Some(head) if last.is_none() && head.seq < this.seq && head.seq + 1 != this.seq => {
                return Err(Broken::Before(head));
            }
            Some(head) if last.is_none() && head.seq + 1 == this.seq => {
                if line.prev != head.hash.to_string() {
                    return Err(Broken::Another(head));
                }
                proven = true;
                verified.unproven += 1;
            }
            Some(head) if head.seq == this.seq => {
                if head.hash != this.hash {
                    return Err(Broken::Another(head));
                }
                proven = true;
            }
            Some(head) if this.seq < head.seq => {}
            _ => verified.unproven += 1,
        }
        verified.gaps += u64::from(line.record.event == Event::Lost);
        verified.records += 1;
        last = Some(this);
        each(&line);
    }
    verified.head = last.unwrap_or(Head::NONE);
    // A last line without its end is one that is being written, or was torn and nobody has come to close it: it is none.
    match head {
        Some(head) if !proven && head.seq > 0 => Err(Broken::CutOff(head)),
        _ => Ok(verified),
    }
}

/// Where a trail goes on: its last whole line, and whether another one behind that was torn.
///
/// Reads no more than the end of the file. `None`: there is no line at its end that is a record.
pub fn resume(mut file: impl Read + Seek) -> io::Result<Option<(Head, bool)>> {
    let end = file.seek(SeekFrom::End(0))?;
    let start = end.saturating_sub(2 * LINE_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(2 * LINE_MAX).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(Some((Head::NONE, false)));
    }
    let torn = bytes.pop_if(|b| *b == b'\n').is_none();
    let mut lines = bytes.rsplit(|b| *b == b'\n');
    if torn {
        lines.next();
    }
    let Some(last) = lines.next() else { return Ok((start == 0).then_some((Head::NONE, true))) };
    let line: Option<Line> = serde_json::from_slice(last).ok();
    Ok(line.filter(|line| line.v == SCHEMA).map(|line| (Head { seq: line.seq, hash: Hash::of(last) }, torn)))
}

/// Whether a file begins with something that no trail begins with: then none should be gone on with there.
pub fn is_foreign(mut file: impl Read + Seek) -> io::Result<bool> {
    /// The first field of every record; what was torn off behind it may have been one.
    const BEGINNING: &[u8] = b"{\"v\":";
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(BEGINNING.len() as u64).read_to_end(&mut bytes)?;
    Ok(!BEGINNING.starts_with(&bytes))
}

#[cfg(test)]
mod tests;
