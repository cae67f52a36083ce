//! A program's output under its tag, line by line, as L4Re's log shows it.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest piece of a line that is kept together, in bytes.
const LINE_MAX: u64 = 8192;

/// Of a tag, so many characters are shown, as on L4Re.
const TAG_MAX: usize = 8;

/// The tag and colour of a program's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    name: String,
    colour: Option<u8>,
}

impl Tag {
    /// From ned's `log = { "tag", "colour" }`. A capital letter at the start of a colour makes it bright; what is no colour
    /// is none.
    pub(crate) fn new(words: &[String], program: &str) -> Tag {
        let name = words.first().map_or(program, String::as_str);
        let name = name.chars().take(TAG_MAX).collect();
        Tag { name, colour: words.get(1).and_then(|word| colour(word)) }
    }

    fn write(&self, out: &mut dyn Write, line: &[u8], coloured: bool) -> io::Result<()> {
        // A priority for the journal stands at the start of a line, or it is none.
        let priority = match line {
            [b'<', b'0'..=b'7', b'>', ..] => 3,
            _ => 0,
        };
        let (priority, line) = line.split_at_checked(priority).unwrap_or((&[], line));
        out.write_all(priority)?;
        match self.colour.filter(|_| coloured) {
            Some(colour) => write!(out, "\x1b[{colour}m{:<8}\x1b[0m| ", self.name)?,
            None => write!(out, "{:<8}| ", self.name)?,
        }
        out.write_all(line)?;
        if !line.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// The number of a colour in a terminal.
fn colour(word: &str) -> Option<u8> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    const LETTERS: [&str; 8] = ["k", "r", "g", "y", "b", "m", "c", "w"];
    let bright = word.starts_with(|c: char| c.is_ascii_uppercase());
    let lower = word.to_ascii_lowercase();
    let index = (0_u8..)
        .zip(NAMES.iter().zip(LETTERS))
        .find(|(_, (name, letter))| **name == lower || *letter == lower);
    index.map(|(index, _)| if bright { 90 + index } else { 30 + index })
}

/// Copies what comes out of a pipe to standard output or standard error, under a tag, until the pipe's end.
pub(crate) fn copy(from: OwnedFd, tag: Tag, to_error: bool) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("output".into()).spawn(move || {
        let mut reader = BufReader::new(std::fs::File::from(from));
        let coloured = if to_error { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => (),
            }
            // Nobody to read it is no reason to stop the program.
            let _ = if to_error {
                tag.write(&mut io::stderr().lock(), &line, coloured)
            } else {
                tag.write(&mut io::stdout().lock(), &line, coloured)
            };
        }
    })
}

/// Lets the copies end, for a moment: a grandchild may hold a pipe for ever.
pub(crate) fn finish(copies: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + Duration::from_secs(1);
    for copy in copies {
        while !copy.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tag: &Tag, line: &[u8], coloured: bool) -> String {
        let mut out = Vec::new();
        tag.write(&mut out, line, coloured).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_stand_behind_their_tag_and_a_priority_stays_in_front() {
        let tag = Tag::new(&["nvme".into(), "Green".into()], "nvme-drv");
        assert_eq!(written(&tag, b"ready\n", false), "nvme    | ready\n");
        assert_eq!(written(&tag, b"cut", false), "nvme    | cut\n");
        assert_eq!(written(&tag, b"<4>careful\n", false), "<4>nvme    | careful\n");
        assert_eq!(written(&tag, b"x\n", true), "\x1b[92mnvme    \x1b[0m| x\n");
    }

    #[test]
    fn a_program_s_name_is_its_tag_when_it_has_none() {
        assert_eq!(written(&Tag::new(&[], "nvme-drv"), b"x\n", true), "nvme-drv| x\n");
        assert_eq!(written(&Tag::new(&["much too long".into()], ""), b"x\n", false), "much too| x\n");
        assert_eq!(colour("no colour"), None);
        assert_eq!(colour("r"), Some(31));
        assert_eq!(colour("R"), Some(91));
    }
}
