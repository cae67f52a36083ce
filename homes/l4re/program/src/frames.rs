//! The core's trace points as defmt frames, as lines of the log: `frames` and bytes in hexadecimal, which `nvme-decode --log` turns
//! into text. A trace point writes a few bytes here; the lines go out between two turns of the server.
#![expect(unsafe_code, reason = "is the global logger of defmt")]

use core::sync::atomic::{AtomicBool, Ordering};

use nvme_l4re::sys;
use nvme_platform::frame::{Ended, Frame};
use spin::Mutex;

/// Bytes that wait for the log.
const CAPACITY: usize = 64 * 1024;
/// Bytes in a line, and lines between two turns.
const LINE: usize = 80;
const LINES: usize = 16;

static ON: AtomicBool = AtomicBool::new(false);
static STATE: Mutex<State> =
    Mutex::new(State { frame: Frame::new(), bytes: [0; CAPACITY], first: 0, held: 0, lost: 0 });

struct State {
    frame: Frame,
    /// A ring of what waits.
    bytes: [u8; CAPACITY],
    first: usize,
    held: usize,
    /// Frames that were dropped.
    lost: u64,
}

impl State {
    fn end(&mut self) {
        let whole = match self.frame.end() {
            Ended::Whole(frame) if frame.len() <= CAPACITY - self.held => frame,
            Ended::Inner => return,
            _ => {
                self.lost += 1;
                return;
            }
        };
        for byte in whole {
            if let Some(place) = self.bytes.get_mut((self.first + self.held) % CAPACITY) {
                *place = *byte;
                self.held += 1;
            }
        }
    }

    fn take(&mut self, into: &mut [u8; LINE]) -> usize {
        let len = self.held.min(LINE);
        for byte in into.iter_mut().take(len) {
            *byte = self.bytes.get(self.first).copied().unwrap_or_default();
            self.first = (self.first + 1) % CAPACITY;
        }
        self.held -= len;
        len
    }
}

/// From here on, trace points are kept.
pub(crate) fn start() {
    ON.store(true, Ordering::Relaxed);
}

/// Writes some of what waits into the log.
pub(crate) fn flush() {
    for _ in 0..LINES {
        let mut line = [0; LINE];
        let (len, lost) = {
            let mut state = STATE.lock();
            (state.take(&mut line), core::mem::take(&mut state.lost))
        };
        if lost > 0 {
            sys::line(format_args!("warning: {lost} frames were dropped"));
        }
        if len == 0 {
            return;
        }
        sys::line(format_args!("frames {}", Hex(line.get(..len).unwrap_or_default())));
    }
}

struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What defmt's macros call.
#[defmt::global_logger]
struct Frames;

fn with_state(act: impl FnOnce(&mut State)) {
    if ON.load(Ordering::Relaxed)
        && let Some(mut state) = STATE.try_lock()
    {
        act(&mut state);
    }
}

// SAFETY: defmt asks that frames are not mixed up and that nothing panics. There is one thread, and whoever finds the state locked
// leaves it alone.
unsafe impl defmt::Logger for Frames {
    fn acquire() {
        with_state(|state| state.frame.begin());
    }

    unsafe fn flush() {}

    unsafe fn release() {
        with_state(State::end);
    }

    unsafe fn write(bytes: &[u8]) {
        with_state(|state| state.frame.write(bytes));
    }
}
