//! The operator's capability: whoever holds it may end sessions, drain devices and resume them, have controllers looked at again, let one go on after its write-back
//! failed, change how much is said, and have the audit trail go on in another file.
//!
//! One datagram is one request, words separated by NUL; the reply is an `i32` (0 or a negative errno) and then JSON or a message.
//! It mints nothing, and takes no descriptor but that of the audit trail's next file. Each order has its line and its record.

use std::fs::File;
use std::os::fd::OwnedFd;

use nvme_audit::Record;
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose::dispose;
use nvme_linux::events::Interest;
use nvme_linux::factory::{Caller, Refusal, Request};
use nvme_linux::logger::{self, OPERATOR, REFUSAL, Verbosity};
use nvme_linux::socket::{self, Peer};
use nvme_platform::Time;
use nvme_policy::{Errno, Shown};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, statx};

use super::waiting::refused;
use super::{ACCEPTS_PER_TURN, Server, Watched};
use crate::audit;
use crate::devices::Served;
use crate::seat::Phase;

/// What an operator can ask.
const VERBS: &str =
    "use end ID, drain [DEV], limit ID WORD..., resume [DEV], rescan [SN], verbose N, slow [MS] or rotate";

/// Operators at a time.
const OPERATORS_MAX: usize = 8;

/// A request of the operator's.
pub(super) struct Order<'a> {
    /// Where the answer goes.
    operator: u64,
    pub(super) peer: Option<Peer>,
    /// Its words.
    pub(super) what: &'a str,
    pub(super) time: Time,
}

impl Order<'_> {
    /// Something was done for the operator.
    fn say(&self) {
        let who = self.peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::info!(target: OPERATOR, "admin{who}: {}", self.what);
    }
}

impl Server {
    pub(super) fn accept_admin(&mut self, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(admin) = &self.admin else { return };
            let socket = match socket::accept(admin) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => return self.pause_accepting("admin", e, time),
            };
            let operators = self.watched.values().filter(|w| matches!(w, Watched::Operator(_))).count();
            // Who comes beyond that is told by the end of the connection.
            let Some(Ok(operator)) = (operators < OPERATORS_MAX).then(|| Caller::new(socket)) else {
                continue;
            };
            let token = self.next_token;
            if self.epoll.add(&operator, token, Interest::Read).is_ok() {
                self.token(Watched::Operator(operator));
                self.serve_operator(token, time);
            }
        }
    }

    pub(super) fn serve_operator(&mut self, token: u64, time: Time) {
        let Some(Watched::Operator(operator)) = self.watched.get_mut(&token) else { return };
        let received = operator.receive_with_file();
        let peer = operator.peer();
        let (what, answer) = match received {
            Ok(None) => return,
            Err(_) => return self.forget(token),
            Ok(Some(Err(refusal))) => ("a request".to_owned(), Err(refusal)),
            Ok(Some(Ok(mut request))) => {
                let what = request.words().collect::<Vec<_>>().join(" ");
                let file = request.take_listener();
                let order = Order { operator: token, peer, what: &what, time };
                match self.administer(&request, file, &order) {
                    Ok(None) => return,
                    Ok(Some(answer)) => (what, Ok(answer)),
                    Err(refusal) => (what, Err(refusal)),
                }
            }
        };
        if let Err(refusal) = &answer {
            let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
            log::warn!(target: REFUSAL, "admin{who}: refused: {}", refusal.message);
            self.note_operator(peer, &what, Some(refusal), time);
        }
        self.answer_operator(token, &answer);
    }

    /// Answers what was asked, at once or later.
    pub(super) fn answer_operator(&mut self, token: u64, answer: &Result<String, Refusal>) {
        let Some(Watched::Operator(operator)) = self.watched.get_mut(&token) else { return };
        let sent = match answer {
            Ok(text) => operator.answer(text),
            Err(refusal) => operator.reply(Err(refusal)),
        };
        if sent.is_err() {
            self.forget(token);
        }
    }

    /// Does what the operator asks. `None`: the answer comes later.
    fn administer(
        &mut self,
        request: &Request,
        file: Option<OwnedFd>,
        order: &Order<'_>,
    ) -> Result<Option<String>, Refusal> {
        let words: Vec<&str> = request.words().collect();
        if let Some(file) = file {
            if let ["rotate", name @ ..] = words.as_slice() {
                return self.rotate_trail(file, name, order).map(|()| None);
            }
            dispose([file]);
            return Err(refused(Errno::Invalid, "a file comes with rotate, and with nothing else"));
        }
        match words.as_slice() {
            ["end", id] => self.end_by_number(id, order),
            ["limit", id, words @ ..] if !words.is_empty() => {
                let answer = self.limit(id, words, order)?;
                // Its record is one of its own, with what holds from now on.
                order.say();
                return Ok(Some(answer));
            }
            ["verbose", steps] => set_verbosity(steps),
            ["rescan", name @ ..] if name.len() <= 1 => {
                self.rescan(order.operator, name.first().copied(), order.time)?;
                self.done(order);
                return Ok(None);
            }
            ["resume"] => self.resume(None),
            ["resume", device] => self.resume(Some(device)),
            ["drain", device @ ..] if device.len() <= 1 => {
                self.drain(order.operator, device.first().copied(), order.time)?;
                self.done(order);
                return Ok(None);
            }
            // It changes nothing: no line, and no record.
            ["slow", ms @ ..] if ms.len() <= 1 => {
                return self.slow(ms.first().copied(), order.time).map(Some);
            }
            ["rotate", ..] => Err(refused(Errno::Invalid, "rotate: a file has to come with it")),
            [what, ..] => {
                Err(refused(Errno::Invalid, &format!("`{}`: {VERBS}", Shown::new(what.as_bytes()).as_str())))
            }
            [] => Err(refused(Errno::Invalid, "a request without words")),
        }
        .map(|answer| {
            self.done(order);
            Some(answer)
        })
    }

    /// Something was done for the operator: a line, and a record.
    pub(super) fn done(&mut self, order: &Order<'_>) {
        order.say();
        self.note_operator(order.peer, order.what, None, order.time);
    }

    /// Ends a session. A static client's begins anew, for whoever connects next.
    fn end_by_number(&mut self, id: &str, order: &Order<'_>) -> Result<String, Refusal> {
        let wrong = |_| {
            let shown = Shown::new(id.as_bytes());
            refused(Errno::Invalid, &format!("`{}` is no session's number", shown.as_str()))
        };
        let number: u64 = id.parse().map_err(wrong)?;
        let seat = self.by_session.get(&SessionKey(number)).copied();
        let seat = seat.filter(|id| self.seats.get(id).is_some_and(|seat| seat.phase != Phase::Ending));
        let seat = seat.ok_or_else(|| refused(Errno::NotFound, &format!("there is no session {number}")))?;
        if let Some(seat) = self.seats.get_mut(&seat) {
            // As with a device that comes back.
            seat.away = seat.cap.is_some();
        }
        let who = order.peer.map_or_else(String::new, |p| format!(" ({p})"));
        self.end(seat, &format!("the operator{who} ended it"));
        Ok(format!("{{\"session\":{number}}}"))
    }

    /// The audit trail goes on in another file, which the operator opened.
    fn rotate_trail(&mut self, file: OwnedFd, name: &[&str], order: &Order<'_>) -> Result<(), Refusal> {
        let checked = if self.audit.is_none() {
            Err(refused(Errno::NotFound, "there is no audit trail: the server has no capability audit"))
        } else if name.len() > 1 {
            Err(refused(Errno::Invalid, "rotate takes one word, the file's name, which is for people"))
        } else {
            identity_of_trail(&file)
                .map_err(|why| refused(Errno::Invalid, &format!("rotate: the file {why}")))
        };
        let identity = match checked {
            Ok(identity) => identity,
            Err(refusal) => {
                dispose([file]);
                return Err(refusal);
            }
        };
        let name = name.first().map_or_else(String::new, |name| format!("{name} "));
        let last = Record {
            peer: audit::peer(order.peer),
            why: Some(format!("it goes on in {name}({identity})")),
            ..Record::of(nvme_audit::Event::Rotated)
        };
        self.done(order);
        self.rotate(order.operator, File::from(file), last, order.time);
        Ok(())
    }

    /// The images of that name: a serial number, or a device of it.
    fn named(&self, name: &str) -> Vec<Served> {
        let is = |served: &&Served| {
            let rest = name.strip_prefix(served.stored.image().serial());
            rest.is_some_and(|rest| rest.is_empty() || rest == ":n1" || rest.starts_with(":n1:"))
        };
        self.images.iter().flatten().filter(is).cloned().collect()
    }

    /// Goes on with what was drained, and with images whose write-back failed.
    fn resume(&mut self, device: Option<&str>) -> Result<String, Refusal> {
        let drained = self.resume_drained(device);
        let Some(device) = device else {
            let released = drained?;
            return Ok(self.resumed(&[], released));
        };
        let mut resumed = self.named(device);
        resumed.retain(|served| served.stored.image().resume());
        // A device that is not there now may be one of an image that is.
        let released = drained.or_else(|why| if resumed.is_empty() { Err(why) } else { Ok(false) })?;
        if !released && resumed.is_empty() && self.drains() {
            let why = format!(
                "{device} was not drained, or not by this name: resume what was, or all without a name"
            );
            return Err(refused(Errno::NotFound, &why));
        }
        Ok(self.resumed(&resumed, released))
    }

    /// What came of it, as JSON. That what was acknowledged may be lost is forgotten image by image, by whoever names it, and nothing of what
    /// is still known is passed over.
    fn resumed(&self, resumed: &[Served], released: bool) -> String {
        let latched = self.images.iter().flatten().filter(|served| served.stored.image().lost().is_some());
        let latched: Vec<&Served> = latched.collect();
        for image in latched.iter().map(|served| served.stored.image()) {
            log::warn!(
                target: OPERATOR,
                "{0}: its write-back failed, and its flushes fail until `nvme-ctl resume {1}`",
                image.name(),
                image.serial()
            );
        }
        let names = |all: &mut dyn Iterator<Item = &Served>| {
            all.map(|served| quoted(served.stored.image().serial(), 1)).collect::<Vec<_>>().join(",")
        };
        let failed = names(&mut latched.into_iter());
        let failed = if failed.is_empty() { failed } else { format!(",\"latched\":[{failed}]") };
        let drained = if released { ",\"drained\":true" } else { "" };
        format!("{{\"resumed\":[{}]{failed}{drained}}}", names(&mut resumed.iter()))
    }

    /// Says which images came to this server with a write-back that had failed.
    pub(crate) fn say_losses(&self) {
        self.images.iter().flatten().for_each(|served| served.stored.image().say_taken_loss());
    }

    /// Devices that went for good are no namespaces any more: whoever has one is told that it is lost.
    pub(super) fn lose_images(&mut self, time: Time) {
        let mut gone = Vec::new();
        for served in &mut self.images {
            if let Some(Served { handle, stored }) = served.take_if(|served| served.stored.image().is_gone())
            {
                handle.remove(1);
                gone.push(format!("{}:n1", stored.image().serial()));
            }
        }
        for device in gone {
            let why = Some("it went for good".to_owned());
            self.note(
                Record { device: Some(device), why, ..Record::of(nvme_audit::Event::DeviceLost) },
                time,
            );
        }
    }
}

/// How much is said from now on: as with so many `-v`.
fn set_verbosity(steps: &str) -> Result<String, Refusal> {
    let steps: u8 = steps.parse().ok().filter(|steps| *steps <= 3).ok_or_else(|| {
        let shown = Shown::new(steps.as_bytes());
        refused(Errno::Invalid, &format!("`{}`: verbose takes 0 to 3", shown.as_str()))
    })?;
    logger::set_verbosity(Verbosity::from_steps(steps));
    Ok(format!("{{\"verbose\":{steps}}}"))
}

/// Which file that is, by device and inode; or what is wrong with it. Nothing here waits for its file system.
fn identity_of_trail(file: &OwnedFd) -> Result<String, String> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found =
        statx(file, "", flags, StatxFlags::BASIC_STATS).map_err(|e| format!("cannot be looked at: {e}"))?;
    if FileType::from_raw_mode(found.stx_mode.into()) != FileType::RegularFile || found.stx_nlink == 0 {
        return Err("is no file with a name".into());
    }
    if found.stx_size > 0 {
        return Err("has something in it already".into());
    }
    let open = fcntl_getfl(file).map_err(|e| e.to_string())?;
    if !open.contains(OFlags::APPEND) || open & OFlags::RWMODE == OFlags::RDONLY {
        return Err("is not open for appending".into());
    }
    Ok(format!("{}:{}:{}", found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// A namespace as a JSON string. Serial numbers are printable ASCII.
pub(super) fn quoted(serial: &str, nsid: u32) -> String {
    let escaped = serial.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}:n{nsid}\"")
}
