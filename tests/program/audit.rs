//! The audit trail of the running server.

use std::fs::{File, OpenOptions};
use std::io::BufReader;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nvme_audit::{Event, Head, Line, Verified, verify};
use nvme_client::{Client, Factory, Options};
use rustix::process::Signal;

use crate::server::{Bench, WAIT, wait_until};

const EIO: i32 = 5;

/// The records of a trail, which is sound.
pub(crate) fn read(path: &Path) -> (Verified, Vec<Line>) {
    let mut lines = Vec::new();
    let file = BufReader::new(File::open(path).unwrap());
    let verified = verify(file, None, |line| lines.push(line.clone())).unwrap();
    (verified, lines)
}

pub(crate) fn events(lines: &[Line]) -> Vec<Event> {
    lines.iter().map(|line| line.record.event).collect()
}

/// The word for the capability, over `audit` in the bench's folder.
pub(crate) fn audit(bench: &Bench, options: &str) -> String {
    format!("--cap=audit=file:{}{options}", bench.path("audit").display())
}

pub(crate) fn wait_for(path: &Path, what: &str, is: impl Fn(&[Line]) -> bool) -> Vec<Line> {
    wait_until(what, || is(&read(path).1));
    read(path).1
}

pub(crate) fn ctl(bench: &Bench, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ctl"));
    command.env("NVME_DRV_ADMIN", bench.path("admin")).env("NVME_DRV_CTL", bench.path("ctl"));
    let done = command.args(words).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_trail_says_who_was_given_what_who_was_refused_and_why_it_ended() {
    let bench = Bench::new();
    let (word, cl1) = (audit(&bench, ""), bench.socket("cl1"));
    let fixed = ["--client", "cl1", "--device", "partlabel:after", "--readonly"];
    let words: Vec<&str> = [word.as_str(), cl1.as_str()].into_iter().chain(fixed).collect();
    let mut server = bench.serve(&words);
    let session = bench.create(&["device=partlabel:attack", "ds-max=3", "name=vm one"]);
    let mut client = Client::from_fd(session, &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(bench.refused(&["device=nobody"]).0, 19);
    let made = bench.factory().request("factory", &["device=partlabel:before", "read-only"], None).unwrap();
    let [factory, lifetime] = <[OwnedFd; 2]>::try_from(made.fds).unwrap();
    let factory = Factory::from_fd(factory, WAIT);
    let below = factory.create(&["device=partlabel:before", "read-only"], None).unwrap();
    drop(client);
    let path = bench.path("audit");
    let ended = |lines: &[Line]| lines.iter().any(|l| l.record.event == Event::End);
    wait_for(&path, "the first end", ended);
    drop(lifetime);
    wait_for(&path, "the factory's end", |lines| {
        lines.iter().any(|l| l.record.event == Event::End && l.record.session.is_none())
    });
    assert_eq!(server.stop(), 0);
    drop((below, factory));

    let (verified, lines) = read(&path);
    let me = std::process::id() as i32;
    let of = |event| lines.iter().map(|l| &l.record).filter(move |r| r.event == event).collect::<Vec<_>>();
    assert_eq!(events(&lines)[0], Event::Start);
    let [fixed, granted, minted] = of(Event::Grant)[..] else { panic!("{lines:#?}") };
    assert_eq!((fixed.client.as_deref(), fixed.peer), (Some("cl1"), None));
    let policy = granted.policy.as_ref().unwrap();
    assert_eq!(
        (policy.devices.as_slice(), policy.read_only, policy.ds_max),
        (&["SN 1:2:n1:2".to_owned()][..], false, 3)
    );
    assert_eq!((granted.name.as_deref(), granted.factory), (Some("vm one"), Some(0)));
    assert_eq!(granted.peer.unwrap().pid, me);
    let [refused] = of(Event::Refusal)[..] else { panic!("{lines:#?}") };
    assert!(refused.errno == Some(19) && refused.why.as_ref().unwrap().contains("nobody"), "{refused:?}");
    let [delegation] = of(Event::Delegation)[..] else { panic!("{lines:#?}") };
    assert_eq!((delegation.factory, delegation.parent), (Some(1), Some(0)));
    let policy = delegation.policy.as_ref().unwrap();
    assert!(
        policy.devices == ["SN 1:2:n1:1"] && policy.read_only && policy.factories == Some(0),
        "{policy:?}"
    );
    assert_eq!((minted.factory, minted.device.as_deref()), (Some(1), Some("SN 1:2:n1:1")));
    // Its connection is a pair that the server made: who sent the message counts.
    assert_eq!(minted.peer.unwrap().pid, me);
    let [dataspace] = of(Event::Dataspace)[..] else { panic!("{lines:#?}") };
    assert_eq!(dataspace.session, granted.session);
    assert!(
        dataspace.size.unwrap() > 0 && dataspace.dataspace.as_ref().unwrap().contains(':'),
        "{dataspace:?}"
    );
    assert_eq!(dataspace.peer.unwrap().pid, me);
    let ends: Vec<_> =
        of(Event::End).iter().map(|r| (r.session, r.factory, r.why.clone().unwrap())).collect();
    let end = |session, factory, why: &str| (session, Some(factory), why.to_owned());
    assert_eq!(
        ends,
        [
            end(granted.session, 0, "the client hung up"),
            end(minted.session, 1, "factory 1 was taken back"),
            end(None, 1, "its capability was closed"),
            end(fixed.session, 0, "the server is stopping"),
        ]
    );
    assert_eq!(of(Event::Stop).len(), 1);
    // The head in the log is the whole of it.
    let said = server.said();
    assert!(said.contains(&format!("audit: head {}", verified.head)), "{said}");
}

/// A factory's connection is passed on to a program of another user: what is said, listed and written down names that one.
#[test]
fn a_factory_s_connection_that_was_passed_on_tells_who_has_it_now() {
    let bench = Bench::new();
    let (word, path) = (audit(&bench, ""), bench.path("audit"));
    let mut server = bench.serve(&[&word]);
    server.says("ready");
    let root = rustix::process::geteuid().is_root();
    let other = if root { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    let nvme_ctl = env!("CARGO_BIN_EXE_nvme-ctl");
    let mint =
        format!("exec {other} {nvme_ctl} --factory fd={{factory}} run d=partlabel:attack,read-only -- true");
    let svr = bench.path("svr");
    let words = ["--svr", svr.to_str().unwrap(), "delegate", "device=partlabel:attack", "read-only"];
    let child = Command::new(nvme_ctl).args(words).args(["--", "sh", "-c", &mint]).output().unwrap();
    assert!(child.status.success(), "{child:?}");
    assert_eq!(server.stop(), 0);
    let lines = read(&path).1;
    let peer = |event| {
        let record = lines.iter().map(|l| &l.record).find(|record| record.event == event);
        record.and_then(|record| record.peer).unwrap()
    };
    let (maker, holder) = (peer(Event::Delegation), peer(Event::Grant));
    assert!(holder.pid != maker.pid && holder.pid != server.pid() && holder.pid > 0, "{maker:?} {holder:?}");
    assert_eq!(
        (maker.uid, holder.uid),
        (rustix::process::geteuid().as_raw(), if root { 65534 } else { maker.uid })
    );
    let said = server.said();
    assert!(said.contains(&format!("for pid {} uid {}", holder.pid, holder.uid)), "{said}");
}

#[test]
fn a_trail_goes_on_at_the_next_start_and_a_torn_line_is_closed_before() {
    let bench = Bench::new();
    let (word, path) = (audit(&bench, ""), bench.path("audit"));
    let mut server = bench.serve(&[&word]);
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    let before = read(&path).0;
    use std::io::Write;
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"v\":1,\"seq\":").unwrap();
    let mut server = bench.serve(&[&word]);
    server.says("ready");
    assert_eq!(server.stop(), 0);
    let (after, lines) = read(&path);
    assert_eq!((after.torn, after.gaps), (1, 0));
    let next = &lines[before.records as usize..];
    assert_eq!(events(next), [Event::Torn, Event::Start, Event::Stop]);
}

#[test]
fn what_is_no_file_to_append_to_is_refused_before_anything_is_served() {
    let bench = Bench::new();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let refuses = |word: &str, fds: &[(&str, std::os::fd::BorrowedFd<'_>)], why: &str| {
        let words: Vec<&str> =
            [disk.as_str(), svr.as_str()].into_iter().chain(Some(word).filter(|w| !w.is_empty())).collect();
        let mut server = bench.start(&words, fds, &[]);
        assert_eq!(server.wait(), 2, "{}", server.said());
        assert!(server.said().contains("audit") && server.said().contains(why), "{}", server.said());
    };
    let word = |name: &str| format!("--cap=audit=file:{}", bench.path(name).display());
    // A pipe, by name and by path; a directory; a place that is not there; a file that is gone; something else's file.
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    refuses("", &[("audit", writer.as_fd())], "a pipe");
    rustix::fs::mknodat(rustix::fs::CWD, bench.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    refuses(&word("fifo"), &[], "a pipe");
    std::fs::create_dir(bench.path("folder")).unwrap();
    refuses(&word("folder"), &[], "directory");
    refuses(&word("nowhere/audit"), &[], "No such file");
    let gone = File::create(bench.path("gone")).unwrap();
    std::fs::remove_file(bench.path("gone")).unwrap();
    refuses("", &[("audit", gone.as_fd())], "no name leads to");
    std::fs::write(bench.path("other"), "[Unit]\n").unwrap();
    refuses(&word("other"), &[], "something else");
    let full = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
    refuses("", &[("audit", full.as_fd())], "a character device");
    refuses("--cap=audit=unix:/nowhere", &[], "a socket");
    let file = File::open(bench.path("other")).unwrap();
    refuses("", &[("audit", file.as_fd())], "reading only");
    // By name, it is a file of the parent's.
    let file = OpenOptions::new().read(true).append(true).create(true).open(bench.path("audit")).unwrap();
    let mut server = bench.start(&[&disk, &svr], &[("audit", file.as_fd())], &[]);
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    assert!(events(&read(&bench.path("audit")).1).contains(&Event::Grant));
}

#[test]
fn a_file_that_was_removed_counts_as_none_until_the_trail_goes_on_in_another() {
    let bench = Bench::new();
    let (word, admin) = (audit(&bench, ",required"), bench.socket("admin"));
    let mut server = bench.serve(&[&word, &admin]);
    drop(bench.create(&["device=partlabel:attack"]));
    std::fs::remove_file(bench.path("audit")).unwrap();
    assert_eq!(bench.refused(&["device=partlabel:attack"]).0, EIO);
    let next = bench.path("next");
    let (status, said) = ctl(&bench, &["audit", "--rotate", next.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{said}");
    server.says("audit: records are written again");
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    let (verified, lines) = read(&next);
    assert!(verified.gaps == 1 && events(&lines).contains(&Event::Grant), "{lines:#?}");
}

#[test]
fn refusals_are_counted_and_push_out_no_grants() {
    let bench = Bench::new();
    let (word, path) = (audit(&bench, ""), bench.path("audit"));
    let mut server = bench.serve(&[&word]);
    let factory = bench.factory();
    let mut sessions = 0;
    for n in 0..2000 {
        assert!(factory.create(&["device=nobody"], None).is_err());
        if n % 100 == 0 {
            drop(bench.create(&["device=partlabel:attack"]));
            sessions += 1;
        }
    }
    assert_eq!(server.stop(), 0);
    let (verified, lines) = read(&path);
    assert_eq!(verified.gaps, 0);
    let of = |event| lines.iter().map(|l| &l.record).filter(move |r| r.event == event);
    let (written, counted): (Vec<_>, Vec<_>) = of(Event::Refusal).partition(|r| r.count.is_none());
    let refusals = written.len() as u64 + counted.iter().map(|r| r.count.unwrap()).sum::<u64>();
    // (A session that still drains refuses the next, now and then.)
    assert!((2000..2100).contains(&refusals) && written.len() < 50, "{} and {counted:?}", written.len());
    assert_eq!((of(Event::Grant).count(), of(Event::End).count()), (sessions, sessions));
    assert!(std::fs::metadata(&path).unwrap().len() < 64 << 10);
}

#[test]
fn the_operator_rotates_the_trail_and_a_head_proves_it() {
    let bench = Bench::new();
    let (word, admin, inspect) = (audit(&bench, ""), bench.socket("admin"), bench.socket("ctl"));
    let mut server = bench.serve(&[&word, &admin, &inspect]);
    drop(bench.create(&["device=partlabel:attack"]));
    let (old, new) = (bench.path("audit"), bench.path("audit.1"));
    let new_word = new.to_str().unwrap();
    let (status, said) = ctl(&bench, &["audit", "--rotate", new_word]);
    assert_eq!(status, Some(0), "{said}");
    // From the answer on, nothing is written to the old one.
    let before = std::fs::read(&old).unwrap();
    drop(bench.create(&["device=partlabel:attack"]));
    wait_for(&new, "records in the new file", |lines| events(lines).contains(&Event::Grant));
    assert_eq!(std::fs::read(&old).unwrap(), before);
    let last = read(&old).1.pop().unwrap().record;
    let me = last.peer.unwrap();
    assert!(last.event == Event::Rotated && last.why.as_ref().unwrap().contains(new_word), "{last:?}");
    assert!(
        me.pid > 0 && me.pid != server.pid() && me.uid == rustix::process::geteuid().as_raw(),
        "{last:?}"
    );
    // One that is there is not gone on with, and not removed.
    let (status, said) = ctl(&bench, &["audit", "--rotate", old.to_str().unwrap()]);
    assert!(status == Some(2) && old.exists(), "{said}");
    // The head that `ls` shows holds for the new file, and finds a line that was cut off behind it.
    let (_, document) = ctl(&bench, &["ls", "--json"]);
    let head: Head =
        document.split("\"head\":\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert_eq!(server.stop(), 0);
    let check = |words: &[&str]| ctl(&bench, &[&["audit", new_word, "--verify"][..], words].concat());
    let word = head.to_string();
    let (status, said) = check(&["--head", &word]);
    assert_eq!(status, Some(0), "{said}");
    let text = std::fs::read_to_string(&new).unwrap();
    let upto: String = text
        .lines()
        .take_while(|l| !l.contains(&format!("\"seq\":{},", head.seq)))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&new, &upto).unwrap();
    assert!(check(&[]).0 == Some(0) && check(&["--head", &word]).0 == Some(1));
    std::fs::write(&new, text.replacen("grant", "limit", 1)).unwrap();
    assert_eq!(check(&["--head", &word]).0, Some(1));
}

#[test]
fn a_request_to_rotate_is_refused_where_it_makes_no_sense() {
    let bench = Bench::new();
    let (word, admin) = (audit(&bench, ""), bench.socket("admin"));
    let mut server = bench.serve(&[&word, &admin]);
    server.says("ready");
    let operator = Factory::connect(bench.path("admin"), WAIT).unwrap();
    let ask = |words: &[&str], fds: &[std::os::fd::BorrowedFd<'_>]| {
        operator.send_raw(words.join("\0").as_bytes(), fds).unwrap();
        let reply = operator.receive().unwrap();
        assert!(reply.fds.is_empty());
        (reply.code, reply.message)
    };
    let open =
        |name: &str| OpenOptions::new().read(true).append(true).create(true).open(bench.path(name)).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let unappended =
        File::options().read(true).write(true).create(true).truncate(false).open(bench.path("a")).unwrap();
    std::fs::write(bench.path("b"), "x").unwrap();
    assert_eq!(ask(&["rotate"], &[]).0, -22);
    for (file, why) in [
        (reader.as_fd(), "no file"),
        (writer.as_fd(), "no file"),
        (unappended.as_fd(), "appending"),
        (open("b").as_fd(), "something in it"),
    ] {
        let (code, message) = ask(&["rotate"], &[file]);
        assert!(code == -22 && message.contains(why), "{message}");
    }
    assert_eq!(ask(&["rescan"], &[open("c").as_fd()]).0, -22);
    assert_eq!(ask(&["rotate", "c"], &[open("c").as_fd()]).0, 0);
    assert_eq!(server.stop(), 0);
    assert_eq!(events(&read(&bench.path("audit")).1).last(), Some(&Event::Rotated));
    // Without a trail there is nothing to rotate.
    let without = Bench::new();
    let admin = without.socket("admin");
    let mut server = without.serve(&[&admin]);
    server.says("ready");
    let (status, said) = ctl(&without, &["audit", "--rotate", without.path("x").to_str().unwrap()]);
    assert!(status == Some(3) && said.contains("no audit trail") && !without.path("x").exists(), "{said}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
}
