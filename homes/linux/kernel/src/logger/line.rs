//! One line.

use std::fmt::{self, Write};

use log::Level;

/// The target of what an operator always sees, at level info: `log::info!(target: OPERATOR, …)`.
pub const OPERATOR: &str = "operator";
/// The same for what the server says of itself, a few times in its life: no flood of others' lines hides it.
pub const SERVER: &str = "server";
/// The target of lines that a client can cause: `log::warn!(target: REFUSAL, …)`.
pub const REFUSAL: &str = "refusal";

/// The longest line in bytes, its end included: what a pipe takes whole or not at all (pipe(7), PIPE_BUF).
const LENGTH: usize = 2048;
/// Stands at the end of what was cut.
const CUT: &str = "…";

/// A line in a buffer of fixed length: nothing is allocated, and nothing in it is a line of its own.
pub(super) struct Line {
    bytes: [u8; LENGTH],
    length: usize,
    cut: bool,
}

impl Line {
    /// `journal`: with the priority in front (sd-daemon(3)), and without what the journal knows by itself.
    pub(super) fn new(journal: bool, level: Level, target: &str, message: &dyn fmt::Display) -> Self {
        let mut line = Self { bytes: [0; LENGTH], length: 0, cut: false };
        let priority = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        // Writing into the buffer does not fail: it cuts.
        let _ = if journal { write!(line, "<{priority}>") } else { line.write_str("nvme-drv: ") };
        let _ = match level {
            Level::Error => line.write_str("error: "),
            Level::Warn if ![OPERATOR, SERVER].contains(&target) => line.write_str("warning: "),
            Level::Debug => line.write_str("debug: "),
            Level::Trace => line.write_str("trace: "),
            Level::Warn | Level::Info => Ok(()),
        };
        if level >= Level::Debug && ![OPERATOR, SERVER, REFUSAL].contains(&target) {
            let _ = write!(line, "{target}: ");
        }
        let _ = write!(line, "{message}");
        if line.cut {
            line.append(CUT.as_bytes());
        }
        line.append(b"\n");
        line
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }

    /// Room for text: all but what the end of a cut line takes.
    fn fits(&self, bytes: usize) -> bool {
        self.length + bytes < LENGTH - CUT.len()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.cut {
                break;
            }
            let mut utf8 = [0; 4];
            if is_plain(c) {
                let bytes = c.encode_utf8(&mut utf8).as_bytes();
                if self.fits(bytes.len()) {
                    self.append(bytes);
                } else {
                    self.cut = true;
                }
            } else {
                // At most `\u{10ffff}`; an escape is whole or not there.
                let escape = c.escape_default();
                if self.fits(escape.len()) {
                    escape.for_each(|e| self.append(e.encode_utf8(&mut utf8).as_bytes()));
                } else {
                    self.cut = true;
                }
            }
        }
        Ok(())
    }
}

/// Neither ends a line, nor commands a terminal, nor turns the direction of what follows.
fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends = matches!(c, '\u{2028}' | '\u{2029}');
    !c.is_control() && !turns && !ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(journal: bool, level: Level, target: &str, message: &str) -> String {
        let line = Line::new(journal, level, target, &message);
        String::from_utf8(line.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_journal_gets_priorities_and_a_terminal_words() {
        assert_eq!(line(false, Level::Info, OPERATOR, "ready"), "nvme-drv: ready\n");
        assert_eq!(line(true, Level::Info, OPERATOR, "ready"), "<6>ready\n");
        assert_eq!(line(false, Level::Warn, REFUSAL, "no"), "nvme-drv: warning: no\n");
        assert_eq!(line(true, Level::Warn, "x", "no"), "<4>warning: no\n");
        assert_eq!(line(true, Level::Error, "x", "no"), "<3>error: no\n");
        assert_eq!(line(true, Level::Debug, "nvme::queue", "x"), "<7>debug: nvme::queue: x\n");
        assert_eq!(line(false, Level::Trace, "t", "x"), "nvme-drv: trace: t: x\n");
    }

    #[test]
    fn nothing_that_a_client_says_is_a_line_or_a_command() {
        let said = "a\nb\r\x1b[31m\u{9b}\0\u{202e}\u{2028}ü";
        let wanted = "<6>a\\nb\\r\\u{1b}[31m\\u{9b}\\u{0}\\u{202e}\\u{2028}ü\n";
        assert_eq!(line(true, Level::Info, "x", said), wanted);
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_says_so() {
        for pad in 0..12 {
            let text = line(true, Level::Info, "x", &format!("{}{}", "y".repeat(pad), "ü\n".repeat(2000)));
            assert!(text.len() <= LENGTH);
            assert!(text.ends_with("…\n"), "{pad}");
            assert_eq!(text.matches('\n').count(), 1);
        }
    }

    #[test]
    fn a_line_that_just_fits_is_whole() {
        let room = LENGTH - CUT.len() - "<6>".len() - 1;
        let text = line(true, Level::Info, "x", &"y".repeat(room));
        assert!(text.ends_with("yy\n"), "{}", text.len());
        assert!(line(true, Level::Info, "x", &"y".repeat(room + 1)).ends_with("y…\n"));
    }
}
