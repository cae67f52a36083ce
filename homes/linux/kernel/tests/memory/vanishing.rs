//! Memory that vanishes under the server.

use std::sync::atomic::{AtomicBool, Ordering};

use nvme_linux::memory::failures;
use rustix::fs::ftruncate;

use crate::support::*;

#[test]
fn a_file_that_shrinks_reads_as_zeroes_and_fails_its_windows_alone() {
    let fd = unsealable(0x4000);
    let file = open(fd.try_clone().unwrap()).unwrap();
    let neighbour = open(unsealable(0x4000)).unwrap().map(0, 0x4000).unwrap();
    let untouched = file.map(0, 0x1000).unwrap();
    let window = file.map(0, 0x4000).unwrap();
    let part = window.sub(0x1000, 0x1000).unwrap();
    for w in [&neighbour, &window] {
        w.fill(0, 0x4000, 0x55).unwrap();
    }
    ftruncate(&fd, 0x1000).unwrap();
    let mut bytes = [1; 0x1000];
    window.read(0x3000, &mut bytes).unwrap();
    assert!(window.failed() && part.failed() && bytes == [0; 0x1000]);
    window.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 0x1000], "the whole window");
    window.write(0x2000, b"goes nowhere").unwrap();
    neighbour.read(0, &mut bytes).unwrap();
    assert!(!neighbour.failed() && bytes == [0x55; 0x1000]);
    untouched.read(0, &mut bytes).unwrap();
    assert!(!untouched.failed() && bytes == [0x55; 0x1000]);
    assert!(failures().unwrap().take());
}

#[test]
fn a_write_into_a_file_that_shrank_does_no_harm() {
    let fd = unsealable(0x2000);
    let window = open(fd.try_clone().unwrap()).unwrap().map(0, 0x2000).unwrap();
    ftruncate(&fd, 0).unwrap();
    window.store16(0x1ffe, 7).unwrap();
    assert!(window.failed());
    assert_eq!(window.load16(0x1ffe), Ok(7), "private memory now");
}

#[test]
fn a_read_only_window_that_fails_stays_read_only() {
    let fd = unsealable(0x1000);
    let window = open(reopen(&fd, false)).unwrap().map(0, 0x1000).unwrap();
    ftruncate(&fd, 0).unwrap();
    assert_eq!((window.load32(0), window.failed()), (Ok(0), true));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| l.starts_with(&format!("{:x}-", window.address()))).unwrap();
    assert!(line.contains(" r--p "), "{line}");
}

#[test]
fn windows_come_and_go_while_others_fail() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let windows: Vec<_> =
                        (0..8).map(|_| open(memfd(0x2000)).unwrap().map(0, 0x2000).unwrap()).collect();
                    for window in &windows {
                        window.fill(0, 0x2000, 0xaa).unwrap();
                        assert!(!window.failed());
                    }
                }
            });
        }
        for _ in 0..300 {
            let fd = unsealable(0x3000);
            let window = open(fd.try_clone().unwrap()).unwrap().map(0, 0x3000).unwrap();
            window.fill(0, 0x3000, 0xff).unwrap();
            ftruncate(&fd, 0).unwrap();
            // Both at once, in the same window.
            std::thread::scope(|both| {
                for at in [0, 0x2000] {
                    let window = &window;
                    both.spawn(move || {
                        assert_eq!((window.read_value::<u64>(at), window.failed()), (Ok(0), true))
                    });
                }
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
}
