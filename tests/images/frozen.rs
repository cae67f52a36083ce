//! Storage that hangs: its own requests wait, as long as it does, and nobody else.

use std::time::{Duration, Instant};

use nvme_client::{Io, Segment, kind};

use crate::server::{Bench, wait_until};
use crate::storage::{Loop, MIB, Mount, able, run, serve, session, sparse, vbus};

/// Longer than a command of hardware may take before the controller is suspected.
const FROZEN: Duration = Duration::from_secs(35);
/// Writes that the frozen image is given: more than it may have under way.
const WRITES: u64 = 100;

#[test]
fn a_frozen_file_system_makes_its_own_requests_wait_and_ends_nobody() {
    if !able() {
        return;
    }
    for (engine, frozen) in [("uring", FROZEN), ("threads", Duration::from_secs(3))] {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 64 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::ext4(&device.0);
        let (image, other) = (system.path("image"), bench.path("other"));
        sparse(&image, 32 * MIB);
        sparse(&other, 32 * MIB);
        let options = format!(",engine={engine}");
        let words =
            [vbus(&image, &format!(",serial=a{options}")), vbus(&other, &format!(",serial=b{options}"))];
        let mut server = serve(&bench, &words);
        let mut slow = session(&bench, &["device=a:n1"]);
        let mut bystander = session(&bench, &["device=b:n1"]);
        slow.write(0, &[1; 4096]).unwrap();
        run("fsfreeze", &["-f", system.0.path().to_str().unwrap()]);
        let scratch = slow.scratch;
        let queue = slow.queue(0).unwrap();
        for n in 0..WRITES {
            let segments = [Segment { addr: scratch, len: 4096 }];
            queue
                .submit(Io { kind: kind::OUT, sector: n * 8, segments: &segments, to_device: true }, n)
                .unwrap();
        }
        queue.publish().unwrap();
        queue.kick().unwrap();
        let began = Instant::now();
        let mut worst = Duration::ZERO;
        while began.elapsed() < frozen {
            let before = Instant::now();
            bystander.write(0, &[2; 4096]).unwrap();
            bystander.flush().unwrap();
            worst = worst.max(before.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(slow.queue(0).unwrap().poll().unwrap().is_none(), "{engine}: it was not frozen");
        run("fsfreeze", &["-u", system.0.path().to_str().unwrap()]);
        assert!(worst < Duration::from_secs(2), "{engine}: the bystander waited {worst:?}");
        let mut ended = 0;
        wait_until("the end of what waited", || {
            while let Some(completion) = slow.queue(0).unwrap().poll().unwrap() {
                assert_eq!(completion.status, nvme_client::Status::Ok);
                ended += 1;
            }
            ended == WRITES
        });
        let said = server.said();
        assert!(!said.contains("late") && !said.contains("abort") && !said.contains("reset"), "{said}");
        slow.flush().unwrap();
        drop((slow, bystander));
        assert_eq!(server.stop(), 0);
    }
}
