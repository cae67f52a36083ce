//! What the program starts with: its environment, its named capabilities, the kernel's information page, and the time.
#![expect(unsafe_code, reason = "reads what the kernel and L4Re left for the program")]

use super::arch::Clock;
use super::c;
use super::types::{L4_INVALID_CAP_BIT, l4re_env_cap_entry_t, l4re_env_t};
use crate::kernel::Cap;

/// Most initial capabilities that are looked at.
const CAPS_MAX: usize = 1 << 16;
/// Where the kernel's information page says how fast the CPU counts, in kHz.
const KIP_FREQUENCY: usize = 0x28;

/// The environment.
pub(super) fn get() -> l4re_env_t {
    // SAFETY: the pointer is set before `main` and never changes.
    let env = unsafe { c::l4re_global_env };
    // SAFETY: it points to an environment that lives as long as the program, and that nobody writes any more.
    unsafe { env.read() }
}

/// The capability of this name.
pub(super) fn cap(name: &str) -> Option<Cap> {
    let caps = get().caps;
    for at in 0..CAPS_MAX {
        let entry: *const l4re_env_cap_entry_t = caps.wrapping_add(at);
        // SAFETY: the table has an entry with all flags set behind its last; the loop ends there.
        let entry = unsafe { entry.read() };
        if entry.flags == usize::MAX {
            return None;
        }
        // What is behind the NUL is garbage.
        let len = entry.name.iter().position(|byte| *byte == 0).unwrap_or(entry.name.len());
        if entry.name.get(..len) == Some(name.as_bytes()) && entry.cap & L4_INVALID_CAP_BIT == 0 {
            return Some(Cap(entry.cap));
        }
    }
    None
}

/// A clock. The kernel's own counts timer interrupts, some of which get lost when the machine is emulated; the CPU's counter goes on.
pub(super) fn clock() -> Clock {
    // SAFETY: set before `main` and never changed.
    let kip = unsafe { c::l4_global_kip };
    let frequency = kip.wrapping_add(KIP_FREQUENCY).cast::<u64>();
    // SAFETY: the page has this field, aligned, in every version; the kernel does not change it.
    Clock::new(unsafe { frequency.read_volatile() })
}
