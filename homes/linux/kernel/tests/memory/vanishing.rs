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
    assert_eq!(bytes, [0x55; 0x1000], "what is still there stays");
    window.write(0x2000, b"goes nowhere").unwrap();
    window.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 0x1000], "more than a page: the whole window");
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
    assert_eq!(window.load16(0x1ffe), Ok(7), "the window's own now");
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

/// Windows whose file is gone.
fn vanished(len: u64) -> nvme_mem::Window {
    let fd = unsealable(len);
    let window = open(fd.try_clone().unwrap()).unwrap().map(0, len).unwrap();
    ftruncate(&fd, 0).unwrap();
    window
}

#[test]
fn more_windows_than_there_are_pages_for_read_as_zeroes_and_never_as_each_other() {
    let windows: Vec<_> = (0..200).map(|_| vanished(0x4_0000)).collect();
    let mut bytes = vec![1; 0x4_0000];
    for _ in 0..3 {
        for (own, window) in (1..=200u8).zip(&windows) {
            window.read(0, &mut bytes).unwrap();
            // What is written there is the window's own, or is forgotten.
            assert!(window.failed() && bytes.iter().all(|b| *b == 0 || *b == own), "somebody else's bytes");
            window.fill(0, 0x4_0000, own).unwrap();
        }
        let fresh = vanished(0x4_0000);
        bytes.fill(1);
        fresh.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 0), "somebody else's bytes");
    }
}

#[test]
fn a_large_window_that_vanished_costs_little_memory_and_few_mappings() {
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let len = 256 << 20;
    let window = vanished(len);
    let before = mappings();
    let anonymous = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    let had = anonymous();
    window.fill(0, len as usize, 0xff).unwrap();
    assert!(window.failed());
    assert!(anonymous() < had + (32 << 20), "{} of {had}", anonymous());
    // Other tests run beside this one, and have some of their own.
    assert!(mappings() < before + 1000, "{} of {before}", mappings());
}

#[test]
fn an_access_across_a_border_of_what_is_replaced_ends() {
    let window = vanished(0x20_0000);
    for at in (0x1_0000..0x1f_0000).step_by(0x1_0000) {
        window.write(at - 4, &[7; 8]).unwrap();
    }
    assert!(window.failed());
}
