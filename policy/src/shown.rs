//! Words of others made fit for a message.

use core::fmt::{self, Write};

/// The length of a [`Shown`] word in bytes, at most.
const SHOWN_MAX: usize = 71;
/// What stands in place of the rest of a word that was cut.
const CUT: &str = "…";

/// Prints text with everything escaped that is not printable, and nothing else.
pub(crate) fn printable(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| match c {
        '\'' | '"' | '\\' => f.write_char(c),
        c => fmt::Display::fmt(&c.escape_debug(), f),
    })
}

/// A word of somebody else's, fit to be shown to an operator: quotes, control characters and everything else that is not
/// printable are escaped, bytes that are not UTF-8 stand as `\xNN`, and a long word is cut. Prints within quotes.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    text: heapless::String<SHOWN_MAX, u8>,
}

impl Shown {
    /// Of a word that may hold anything.
    pub fn new(word: &[u8]) -> Self {
        let mut shown = Self { text: heapless::String::new() };
        // No result: a word that was cut is complete as far as the message goes.
        let _cut = shown.fill(word);
        shown
    }

    fn fill(&mut self, word: &[u8]) -> fmt::Result {
        for chunk in word.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\'' => self.add(format_args!("'")),
                    c => self.add(format_args!("{}", c.escape_debug())),
                }?;
            }
            for byte in chunk.invalid() {
                self.add(format_args!("\\x{byte:02x}"))?;
            }
        }
        Ok(())
    }

    /// Adds a whole piece, or the mark of a cut: an escape is never cut in the middle.
    fn add(&mut self, piece: fmt::Arguments<'_>) -> fmt::Result {
        let mut buffer = heapless::String::<12>::new();
        buffer.write_fmt(piece)?;
        if self.text.len() + buffer.len() + CUT.len() > SHOWN_MAX {
            self.text.write_str(CUT)?;
            return Err(fmt::Error);
        }
        self.text.write_str(&buffer)
    }

    /// The escaped text, without quotes around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_harmless_word_is_shown_as_it_is() {
        assert_eq!(Shown::new(b"device=it's:n1").to_string(), "\"device=it's:n1\"");
    }

    #[test]
    fn terminal_escapes_and_line_feeds_are_not_echoed() {
        assert_eq!(Shown::new(b"a\x1b[2J\nb\0\xffc\"").as_str(), "a\\u{1b}[2J\\nb\\0\\xffc\\\"");
        assert_eq!(Shown::new("\u{202e}x\u{9b}".as_bytes()).as_str(), "\\u{202e}x\\u{9b}");
    }

    #[test]
    fn a_long_word_is_cut_and_says_so() {
        let shown = Shown::new(&[b'x'; 5000]);
        assert_eq!(shown.as_str().len(), SHOWN_MAX);
        assert!(shown.as_str().ends_with("x…"));
        assert_eq!(Shown::new(&[b'x'; SHOWN_MAX - CUT.len()]).as_str().len(), SHOWN_MAX - CUT.len());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_printable(word in proptest::collection::vec(any::<u8>(), 0..200)) {
            let shown = Shown::new(&word);
            prop_assert!(shown.as_str().chars().all(|c| !c.is_control()));
            prop_assert!(shown.as_str().len() <= SHOWN_MAX);
        }
    }
}
