//! The log: lines through the log capability.
#![expect(unsafe_code, reason = "calls L4Re's C functions")]

use core::fmt::{self, Write};

use super::{c, env};

/// Longest piece that is sent at once.
const PIECE: usize = 200;

/// Writes into the log. Collects what is short, so that a line goes out in one message where it fits.
pub struct Log {
    buffer: [u8; PIECE],
    used: usize,
}

impl Log {
    /// An empty one.
    pub fn new() -> Self {
        Self { buffer: [0; PIECE], used: 0 }
    }

    /// Sends bytes as they are.
    pub fn send(bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            // SAFETY: the bytes are read only, and `len` of them are there; at most PIECE.
            unsafe {
                c::l4re_log_printn_srv(env::get().log, piece.as_ptr().cast(), piece.len() as core::ffi::c_int)
            };
        }
    }

    fn flush(&mut self) {
        Self::send(self.buffer.get(..self.used).unwrap_or_default());
        self.used = 0;
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used == PIECE {
                self.flush();
            }
            if let Some(place) = self.buffer.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes one line.
pub fn line(text: fmt::Arguments<'_>) {
    let mut log = Log::new();
    let _ = log.write_fmt(text);
    let _ = log.write_str("\n");
}
