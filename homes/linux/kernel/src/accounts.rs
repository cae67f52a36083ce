//! Users and groups by name or number.
#![expect(unsafe_code, reason = "calls the C library for users and groups")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr;

/// Room for one entry of the user or group database; the largest that is tried.
const ENTRY_MAX: usize = 1 << 20;

/// The number of a user given by name or number.
pub(crate) fn user(word: &str) -> Option<u32> {
    number(word).or_else(|| {
        let name = CString::new(word).ok()?;
        lookup(|buffer| {
            let mut entry = MaybeUninit::<libc::passwd>::uninit();
            let mut found = ptr::null_mut();
            // SAFETY: all five pointers are valid for the call, and the length is the buffer's.
            let rc = unsafe {
                libc::getpwnam_r(
                    name.as_ptr(),
                    entry.as_mut_ptr(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                    &mut found,
                )
            };
            // SAFETY: `found` is null or points to `entry`, which the call then filled.
            (rc, unsafe { found.as_ref() }.map(|e| e.pw_uid))
        })
    })
}

/// The number of a group given by name or number.
pub(crate) fn group(word: &str) -> Option<u32> {
    number(word).or_else(|| {
        let name = CString::new(word).ok()?;
        lookup(|buffer| {
            let mut entry = MaybeUninit::<libc::group>::uninit();
            let mut found = ptr::null_mut();
            // SAFETY: all five pointers are valid for the call, and the length is the buffer's.
            let rc = unsafe {
                libc::getgrnam_r(
                    name.as_ptr(),
                    entry.as_mut_ptr(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                    &mut found,
                )
            };
            // SAFETY: `found` is null or points to `entry`, which the call then filled.
            (rc, unsafe { found.as_ref() }.map(|e| e.gr_gid))
        })
    })
}

/// A number; all ones stands for "unchanged" in chown and names nobody.
fn number(word: &str) -> Option<u32> {
    word.parse().ok().filter(|id| *id != u32::MAX)
}

fn lookup(mut ask: impl FnMut(&mut [libc::c_char]) -> (i32, Option<u32>)) -> Option<u32> {
    let mut buffer = vec![0; 4096];
    loop {
        match ask(&mut buffer) {
            (libc::ERANGE, _) if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 2, 0),
            (0, id) => return id,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number_and_nobody_else_is_made_up() {
        assert_eq!(
            (user("root"), user("0"), group("root"), group("17")),
            (Some(0), Some(0), Some(0), Some(17))
        );
        assert_eq!(
            (user("no such user"), group(""), user("4294967295"), user("a\0b")),
            (None, None, None, None)
        );
    }
}
