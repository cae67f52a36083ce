//! The models. Each is one promise, and panics, deadlocks or races in some order when it is not kept.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::events::{self, Doorbell};
use crate::frames::Ring;
use crate::gate::Gate;
use crate::laggards::Place;
use crate::memory::Windows;
use crate::rings::Rings;

/// How often a thread may be interrupted where it would not have waited: an entry's ten fields, or three threads, have too many orders with more
/// of that.
const INTERRUPTED_MAX: usize = 2;

/// Steps a model of that kind.
fn bounded(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTED_MAX);
    builder.check(model);
}

/// Memory that is there, until it is taken away: who looks at it while that happens is found out.
#[derive(Debug)]
struct Mapped(UnsafeCell<bool>);

impl Mapped {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(true)))
    }

    /// Uses it.
    fn touch(&self) {
        self.0.with(|_| ());
    }

    /// Takes it away.
    fn unmap(&self) {
        self.0.with_mut(|_| ());
    }
}

/// A thread that sleeps is woken by whoever rings, whatever the order, and sees what was written before.
pub fn a_ring_is_never_lost(ringers: u32) {
    bounded(move || {
        let Ok(bell) = Doorbell::new() else { return };
        let Some(edge) = events::last_edge() else { return };
        let (bell, sent) = (Arc::new(bell), Arc::new(AtomicU32::new(0)));
        let threads: Vec<_> = (0..ringers)
            .map(|_| {
                let (bell, sent) = (Arc::clone(&bell), Arc::clone(&sent));
                thread::spawn(move || {
                    // Nothing but the bell orders this.
                    sent.fetch_add(1, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        let mut seen = 0;
        while seen < ringers {
            if bell.take() {
                seen = sent.load(Ordering::Relaxed);
            } else if bell.arm() {
                edge.wait();
                bell.disarm();
            }
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
}

/// What control takes away behind a gate that it closed and passed, no engine reaches any more.
pub fn behind_a_closed_gate_nobody_is_inside() {
    loom::model(|| {
        let (gate, memory) = (Arc::new(Gate::new(())), Mapped::new());
        let engine = {
            let (gate, memory) = (Arc::clone(&gate), Arc::clone(&memory));
            thread::spawn(move || {
                for _ in 0..2 {
                    if let Some(inside) = gate.enter() {
                        memory.touch();
                        drop(inside);
                    }
                }
            })
        };
        gate.close();
        drop(gate.pass(thread::yield_now));
        memory.unmap();
        let _ = engine.join();
        assert!(gate.enter().is_none());
    });
}

/// Two at the door: each gets in, and none while the engine is inside.
pub fn all_who_wait_at_a_gate_pass() {
    loom::model(|| {
        let (gate, memory) = (Arc::new(Gate::new(())), Mapped::new());
        let control = {
            let (gate, memory) = (Arc::clone(&gate), Arc::clone(&memory));
            thread::spawn(move || {
                let inside = gate.pass(thread::yield_now);
                assert!(inside.is_ok());
                memory.unmap();
            })
        };
        if let Some(inside) = gate.enter() {
            memory.unmap();
            drop(inside);
        }
        let inside = gate.pass(thread::yield_now);
        assert!(inside.is_ok());
        memory.unmap();
        drop(inside);
        let _ = control.join();
        assert!(!gate.asked() && gate.enter().is_some());
    });
}

/// A reader has frames as they were written, whole and in order, or they are counted as lost.
pub fn frames_come_whole_and_in_order() {
    loom::model(|| {
        let ring = Arc::new(Ring::new(4));
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                for frame in 1..=3 {
                    ring.push(&[frame; 2]);
                }
            })
        };
        let (mut got, mut bytes) = (Vec::new(), [0; 4]);
        for _ in 0..2 {
            let count = ring.pop(&mut bytes);
            got.extend(bytes.iter().take(count).copied());
        }
        let _ = writer.join();
        let count = ring.pop(&mut bytes);
        got.extend(bytes.iter().take(count).copied());
        let frames: Vec<[u8; 2]> = got.as_chunks().0.to_vec();
        assert!(got.len() % 2 == 0 && frames.iter().all(|[one, two]| one == two), "{got:?}");
        assert!(frames.is_sorted_by(|[one, _], [two, _]| one < two), "{got:?}");
        assert_eq!(frames.len() as u64 + ring.take_lost(), 3);
    });
}

/// A handler uses no window that is gone, though its entry is cleared, and filled again, while it looks.
pub fn a_handler_uses_no_window_that_is_gone(again: bool) {
    bounded(move || {
        let (windows, memory) = (Arc::new(Windows::<1>::new()), Mapped::new());
        let Some(index) = windows.enter(1, 100) else { return };
        let handler = {
            let (windows, memory) = (Arc::clone(&windows), Arc::clone(&memory));
            thread::spawn(move || {
                windows.fault(1, |owner| {
                    assert_eq!(owner, 100);
                    memory.touch();
                })
            })
        };
        windows.clear(index);
        memory.unmap();
        windows.give_back(index);
        if again {
            assert_eq!(windows.enter(2, 200), Some(index));
            assert!(windows.fault(2, |owner| assert_eq!(owner, 200)));
        }
        let _ = handler.join();
        assert!(!windows.fault(1, |_| ()));
    });
}

/// A handler finds its window, which stays, though others come and go beside it.
pub fn a_handler_finds_its_window_beside_others_that_change() {
    bounded(|| {
        let windows = Arc::new(Windows::<2>::new());
        let Some(other) = windows.enter(3, 300) else { return };
        assert!(windows.enter(1, 100).is_some());
        let handler = {
            let windows = Arc::clone(&windows);
            thread::spawn(move || windows.fault(1, |owner| assert_eq!(owner, 100)))
        };
        windows.clear(other);
        windows.give_back(other);
        assert_eq!(handler.join().ok(), Some(true), "its own window was not found");
    });
}

/// What is read of a place was written at once, while somebody writes there: for the first time, and again.
pub fn a_request_that_took_long_is_read_whole() {
    for before in [None, Some(1)] {
        loom::model(move || {
            let place = Arc::new(Place::new());
            before.iter().for_each(|word| place.write(*word));
            let writer = {
                let place = Arc::clone(&place);
                thread::spawn(move || place.write(2))
            };
            if let Some([one, two]) = place.read() {
                assert!(one == two && (one == 2 || Some(one) == before), "{one}, {two}");
            }
            drop(writer.join());
            assert_eq!(place.read(), Some([2, 2]));
        });
    }
}

/// Of two that write to one place at a time one is left out at most, and neither writes into the other's.
pub fn a_place_is_one_s_as_long_as_it_writes_there() {
    loom::model(|| {
        let place = Arc::new(Place::new());
        let other = {
            let place = Arc::clone(&place);
            thread::spawn(move || place.write(1))
        };
        place.write(2);
        drop(other.join());
        assert!(matches!(place.read(), Some([1, 1] | [2, 2])), "{:?}", place.read());
    });
}

/// Neither side of a virtqueue sleeps while the other one waits for it: both sleep when there is nothing to be told, and are woken by what the other says.
pub fn neither_side_of_a_virtqueue_sleeps_through_what_the_other_has_for_it() {
    bounded(|| {
        const REQUESTS: u16 = 2;
        let (rings, kick, call) = (Arc::new(Rings::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let device = {
            let (rings, kick, call) = (Arc::clone(&rings), Arc::clone(&kick), Arc::clone(&call));
            thread::spawn(move || {
                let mut next = 0;
                while next < REQUESTS {
                    let seen = rings.look();
                    if seen == next {
                        if !rings.listen(next) {
                            kick.wait();
                        }
                        continue;
                    }
                    if rings.publish(next, seen) {
                        call.notify();
                    }
                    next = seen;
                }
            })
        };
        for asked in 0..REQUESTS {
            if rings.offer(asked, asked + 1) {
                kick.notify();
            }
        }
        let mut seen = 0;
        while seen < REQUESTS {
            seen = rings.used();
            if seen < REQUESTS && !rings.wait(seen) {
                call.wait();
            }
        }
        drop(device.join());
    });
}
