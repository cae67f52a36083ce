//! Events of the audit trail, one by one: limits, memory, static clients, starts and stops.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nvme_audit::{Event, Line, Record};
use nvme_client::message::RegionWords;
use nvme_client::{Client, Factory, Memory, Options, memfd};
use rustix::process::Signal;

use crate::audit::{audit, ctl, events, read, wait_for};
use crate::disk;
use crate::server::{Bench, WAIT, wait_until};

fn of(lines: &[Line], event: Event) -> Vec<Record> {
    lines.iter().map(|line| line.record.clone()).filter(|record| record.event == event).collect()
}

#[test]
fn a_limit_that_is_changed_is_a_record_of_what_holds_from_then_on_and_a_refused_one_is_the_operator_s() {
    let bench = Bench::new();
    let (word, admin) = (audit(&bench, ""), bench.socket("admin"));
    let mut server = bench.serve(&[&word, &admin]);
    let session = bench.create(&["device=partlabel:attack", "iops=500", "name=vm", "read-only"]);
    for (words, status) in [
        (&["limit", "1", "bytes=1M"][..], 0),
        (&["limit", "1", "iops=none"], 0),
        (&["limit", "1", "iops=0"], 2),
    ] {
        let (got, said) = ctl(&bench, words);
        assert_eq!(got, Some(status), "{said}");
    }
    assert_eq!(ctl(&bench, &["limit", "77", "none"]).0, Some(3));
    drop(session);
    assert_eq!(server.stop(), 0);
    let lines = read(&bench.path("audit")).1;
    let grant = of(&lines, Event::Grant).remove(0);
    let limits = of(&lines, Event::Limit);
    let rates: Vec<_> = limits
        .iter()
        .map(|record| {
            let policy = record.policy.as_ref().unwrap();
            // All that it was granted is what it still has.
            let mut same = policy.clone();
            (same.iops, same.bytes) = (Some(500), None);
            assert_eq!(Some(same), grant.policy);
            (policy.iops, policy.bytes, record.why.as_deref().unwrap())
        })
        .collect();
    assert_eq!(
        rates,
        [(Some(500), Some(1 << 20), "limit 1 bytes=1M"), (None, Some(1 << 20), "limit 1 iops=none")]
    );
    for record in &limits {
        let who = record.peer.unwrap();
        assert!(who.pid > 0 && who.pid != server.pid() && who.pid != std::process::id() as i32, "{who:?}");
        assert_eq!(
            (record.session, record.factory, &record.device, &record.name),
            (grant.session, Some(0), &grant.device, &grant.name)
        );
    }
    let refused = of(&lines, Event::Operator);
    let refused: Vec<_> = refused.iter().map(|r| (r.errno.unwrap(), r.why.clone().unwrap())).collect();
    assert!(
        matches!(&refused[..], [(22, a), (2, b)] if a.starts_with("limit 1 iops=0") && b.contains("limit 77 none")),
        "{refused:?}"
    );
}

/// `limit` has a record of its own, above; `slow` changes nothing, and has none.
#[test]
fn each_order_of_the_operator_has_its_line_and_its_record() {
    let bench = Bench::new();
    let (word, admin) = (audit(&bench, ""), bench.socket("admin"));
    let mut server = bench.serve(&["-v", &word, &admin]);
    let session = bench.create(&["device=partlabel:attack"]);
    let orders = [
        "drain SN 1:2:n1",
        "resume SN 1:2:n1",
        "drain",
        "resume",
        "rescan",
        "rescan SN 1:2",
        "verbose 1",
        "end 1",
    ];
    for order in orders {
        let words: Vec<&str> = order.splitn(2, ' ').collect();
        let (status, said) = ctl(&bench, &words);
        assert_eq!(status, Some(0), "{order}: {said}");
        // By whom: `nvme-ctl` is a process of its own.
        server.says(&format!("): {order}\n"));
    }
    assert_eq!(ctl(&bench, &["slow"]).0, Some(0));
    drop(session);
    assert_eq!(server.stop(), 0);
    let records = of(&read(&bench.path("audit")).1, Event::Operator);
    let written: Vec<_> = records.iter().map(|record| record.why.as_deref().unwrap()).collect();
    assert_eq!(written, orders);
    for record in &records {
        assert!(record.peer.is_some_and(|who| who.pid > 0 && who.pid != server.pid()), "{record:?}");
        assert_eq!(record.errno, None);
    }
}

#[test]
fn memory_that_is_registered_or_refused_is_written_down_and_a_flood_of_it_is_counted() {
    let bench = Bench::new();
    const LEN: u64 = 1 << 16;
    std::fs::write(bench.path("ram"), [0; LEN as usize]).unwrap();
    let (word, ram) = (audit(&bench, ""), format!("--cap=ram=file:{}", bench.path("ram").display()));
    let mut server = bench.serve(&[&word, &ram, "-d", "ram"]);
    let session = bench.create(&["device=partlabel:attack", "name=vm"]);
    let options = Options { scratch: 0, queues: 0, ..Options::default() };
    let client = Client::negotiate(session, Memory::new(), &options).unwrap();
    let words = |guest| RegionWords { guest, size: LEN, user: 1 << 40, offset: 0 };
    let trusted = File::options().read(true).write(true).open(bench.path("ram")).unwrap();
    let other = memfd(LEN, false).unwrap();
    client.front.add_mem_reg(words(0), trusted.as_fd()).unwrap();
    for _ in 0..100 {
        assert!(client.front.add_mem_reg(words(1 << 30), other.as_fd()).is_err());
    }
    // What it holds lies over one another.
    assert!(client.front.add_mem_reg(words(4096), trusted.as_fd()).is_err());
    drop(client);
    server.says("session 1: ended");
    assert_eq!(server.stop(), 0);
    let lines = read(&bench.path("audit")).1;
    let [registered] = &of(&lines, Event::Dataspace)[..] else { panic!("{lines:#?}") };
    assert_eq!((registered.dataspace.as_deref(), registered.size), (Some("ram"), Some(LEN)));
    let refused = of(&lines, Event::DataspaceRefused);
    let (written, counted): (Vec<_>, Vec<_>) = refused.into_iter().partition(|r| r.count.is_none());
    let all = written.len() as u64 + counted.iter().map(|r| r.count.unwrap()).sum::<u64>();
    assert!(all == 101 && (32..40).contains(&written.len()), "{} {counted:?}", written.len());
    for record in written.iter().chain([registered]) {
        assert_eq!((record.session, record.factory, record.name.as_deref()), (Some(1), Some(0), Some("vm")));
        assert_eq!(record.device.as_deref(), Some("SN 1:2:n1:2"));
        assert_eq!(record.peer.unwrap().pid, std::process::id() as i32);
    }
    // Which file that was, by what everybody can look up.
    let inode = {
        use std::os::unix::fs::MetadataExt;
        File::from(other).metadata().unwrap().ino()
    };
    for record in &written {
        assert!(record.dataspace.as_ref().unwrap().ends_with(&format!(":{inode}")), "{record:?}");
        assert!(
            record.why.as_ref().is_some_and(|why| !why.is_empty()) && record.size.is_none(),
            "{record:?}"
        );
    }
}

/// Refused again and again, through factories that it makes for that: one tenant's refusals are written, and the rest is counted.
#[test]
fn a_tenant_has_no_more_refusals_written_for_making_factories() {
    let bench = Bench::new();
    let word = audit(&bench, "");
    let mut server = bench.serve(&["-q", &word]);
    let svr = bench.factory();
    let delegate = |at: &Factory, words: &[&str]| {
        let reply = at.request("factory", words, None).unwrap();
        let [factory, lifetime] = <[OwnedFd; 2]>::try_from(reply.fds).unwrap();
        (Factory::from_fd(factory, WAIT), lifetime)
    };
    let (loud, _held) = delegate(&svr, &["device=attack", "factories=1"]);
    let (quiet, _too) = delegate(&svr, &["device=after"]);
    for _ in 0..20 {
        let (below, lifetime) = delegate(&loud, &["device=attack"]);
        for _ in 0..40 {
            assert!(below.create(&["device=after"], None).is_err());
        }
        drop(lifetime);
        // Its end is known when its maker may make the next.
        wait_until("its end", || loud.list().is_ok_and(|listing| !listing.contains("\"parent\":1")));
    }
    assert!(quiet.create(&["device=attack"], None).is_err());
    assert_eq!(server.stop(), 0);
    let lines = read(&bench.path("audit")).1;
    let (written, counted): (Vec<_>, Vec<_>) =
        of(&lines, Event::Refusal).into_iter().partition(|r| r.count.is_none());
    let of_quiet = written.iter().filter(|record| record.factory == Some(2)).count();
    let of_loud = written.len() - of_quiet;
    let rest = counted.iter().map(|record| record.count.unwrap()).sum::<u64>();
    // One more in 10 s.
    assert!((32..50).contains(&of_loud) && of_quiet == 1, "{of_loud} {of_quiet}");
    assert_eq!(of_loud as u64 + rest, 800);
    assert!(counted.iter().all(|record| record.factory == Some(1)), "{counted:?}");
    let made = |event| of(&lines, event).iter().filter(|r| r.session.is_none()).count();
    assert_eq!(
        (made(Event::Delegation), made(Event::End)),
        (22, 22),
        "what is made and ends is written all the same"
    );
}

/// Its device appears when the trail cannot be written: nobody is served there until it can.
#[test]
fn a_static_client_is_not_served_before_its_session_is_written_down_where_that_is_required() {
    let bench = Bench::new();
    let (word, admin, cl1) = (audit(&bench, ",required"), bench.socket("admin"), bench.socket("cl1"));
    let words = [&word, &admin, &cl1, "--client", "cl1", "--device", "partlabel:later", "--readonly"];
    let mut server = bench.serve(&words);
    let mut whole = Client::from_fd(bench.create(&["device=SN 1:2:n1"]), &Options::default()).unwrap();
    let labels = ["before", "attack", "later", "bystander"];
    for (at, chunk) in disk::image_of(512, labels).chunks(64 << 10).enumerate() {
        whole.write(at as u64 * 128, chunk).unwrap();
    }
    std::fs::remove_file(bench.path("audit")).unwrap();
    drop(whole);
    server.says("cl1: the audit trail cannot be written, and nothing is granted without it");
    // Whoever comes meanwhile is served by nobody, and learns nothing.
    let impatient = Options { wait: Duration::from_millis(500), ..Options::default() };
    assert!(Client::connect(bench.path("cl1"), &impatient).is_err());
    let next = bench.path("next");
    let (status, said) = ctl(&bench, &["audit", "--rotate", next.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{said}");
    wait_until("its client", || {
        Client::connect(bench.path("cl1"), &Options::default())
            .is_ok_and(|mut client| client.read(0, &mut [0; 512]).is_ok())
    });
    let is_grant = |line: &Line| line.record.event == Event::Grant;
    let lines = wait_for(Path::new(&next), "the grant", |lines| lines.iter().any(is_grant));
    let granted = of(&lines, Event::Grant);
    let last = granted.last().unwrap();
    assert_eq!((last.client.as_deref(), last.peer), (Some("cl1"), None));
    assert_eq!(last.device.as_deref(), Some("SN 1:2:n1:3"));
    assert!(last.policy.as_ref().is_some_and(|policy| policy.read_only), "{last:?}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_start_and_a_stop_are_records_and_a_server_that_was_killed_left_none() {
    let bench = Bench::new();
    let (word, path) = (audit(&bench, ""), bench.path("audit"));
    for (round, how) in (1..).zip([Signal::TERM, Signal::KILL, Signal::INT]) {
        let mut server = bench.serve(&[&word]);
        server.says("ready");
        drop(bench.create(&["device=partlabel:attack"]));
        server.says("session 1: ended");
        let all =
            |lines: &[Line], event| lines.iter().filter(|line| line.record.event == event).count() >= round;
        wait_for(&path, "its start and its end", |lines| all(lines, Event::Start) && all(lines, Event::End));
        server.signal(how);
        server.wait();
    }
    let lines = read(&path).1;
    let kept: Vec<Event> =
        events(&lines).into_iter().filter(|e| matches!(e, Event::Start | Event::Stop)).collect();
    use Event::{Start, Stop};
    assert_eq!(kept, [Start, Stop, Start, Start, Stop]);
    for record in of(&lines, Start) {
        assert!(record.why.as_ref().unwrap().contains(env!("CARGO_PKG_VERSION")), "{record:?}");
    }
}
