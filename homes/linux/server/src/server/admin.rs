//! The operator's capability: whoever holds it may have images looked at again, and let one go on after its write-back failed.
//!
//! One datagram is one request, words separated by NUL; the reply is an `i32` (0 or a negative errno) and then JSON or a message.
//! It mints nothing and takes no descriptor.

use nvme_linux::events::Interest;
use nvme_linux::factory::{Caller, Refusal, Request};
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket;
use nvme_platform::Time;
use nvme_policy::Errno;

use super::waiting::refused;
use super::{ACCEPTS_PER_TURN, Server, Watched};
use crate::devices::Served;

/// Operators at a time.
const OPERATORS_MAX: usize = 8;

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
                self.serve_operator(token);
            }
        }
    }

    pub(super) fn serve_operator(&mut self, token: u64) {
        let Some(Watched::Operator(operator)) = self.watched.get_mut(&token) else { return };
        let peer = operator.peer().map_or_else(String::new, |p| format!(" ({p})"));
        let answer = match operator.receive() {
            Ok(None) => return,
            Err(_) => return self.forget(token),
            Ok(Some(Err(refusal))) => Err(refusal),
            Ok(Some(Ok(request))) => self.administer(&request, &peer),
        };
        if let Err(refusal) = &answer {
            log::warn!(target: REFUSAL, "admin{peer}: refused: {}", refusal.message);
        }
        let Some(Watched::Operator(operator)) = self.watched.get_mut(&token) else { return };
        let sent = match &answer {
            Ok(text) => operator.answer(text),
            Err(refusal) => operator.reply(Err(refusal)),
        };
        if sent.is_err() {
            self.forget(token);
        }
    }

    fn administer(&mut self, request: &Request, peer: &str) -> Result<String, Refusal> {
        if request.has_listener() {
            return Err(refused(Errno::Invalid, "this capability takes no descriptor"));
        }
        let words: Vec<&str> = request.words().collect();
        match words.as_slice() {
            ["rescan"] => self.rescan_images(None, peer),
            ["rescan", serial] => self.rescan_images(Some(serial), peer),
            ["resume"] => self.resume_images(None, peer),
            ["resume", device] => self.resume_images(Some(device), peer),
            [what, ..] => Err(refused(Errno::Invalid, &format!("`{what}`: use rescan [SN] or resume [DEV]"))),
            [] => Err(refused(Errno::Invalid, "a request without words")),
        }
    }

    /// The images of that name: a serial number, or a device of it. All, without a name.
    fn named(&self, name: Option<&str>) -> Result<Vec<Served>, Refusal> {
        let is = |served: &&Served| {
            let serial = served.stored.image().serial();
            name.is_none_or(|name| {
                name == serial || name.strip_prefix(serial).is_some_and(|rest| rest.starts_with(":n1"))
            })
        };
        let found: Vec<Served> = self.images.iter().flatten().filter(is).cloned().collect();
        match name {
            Some(name) if found.is_empty() => {
                Err(refused(Errno::NotFound, &format!("no image has the serial number `{name}`")))
            }
            _ => Ok(found),
        }
    }

    fn rescan_images(&mut self, serial: Option<&str>, peer: &str) -> Result<String, Refusal> {
        let mut items = Vec::new();
        for Served { stored, handle } in self.named(serial)? {
            let image = stored.image();
            let bytes = image.rescan();
            handle.rescan(1);
            items.push(format!("{{\"device\":{},\"bytes\":{bytes}}}", quoted(image.serial())));
        }
        self.lose_images();
        log::info!(target: OPERATOR, "admin{peer}: rescan {}", serial.unwrap_or("of all images"));
        Ok(format!("[{}]", items.join(",")))
    }

    fn resume_images(&mut self, device: Option<&str>, peer: &str) -> Result<String, Refusal> {
        let images = self.named(device)?;
        let resumed = images.iter().filter(|served| served.stored.image().resume());
        let items: Vec<String> = resumed.map(|served| quoted(served.stored.image().serial())).collect();
        log::info!(target: OPERATOR, "admin{peer}: resume {}", device.unwrap_or("of all images"));
        Ok(format!("{{\"resumed\":[{}]}}", items.join(",")))
    }

    /// Devices that went for good are no namespaces any more: whoever has one is told that it is lost.
    pub(super) fn lose_images(&mut self) {
        for served in &mut self.images {
            if let Some(Served { handle, .. }) = served.take_if(|served| served.stored.image().is_gone()) {
                handle.remove(1);
            }
        }
    }

    /// Looks whether images grew: before somebody new is told how large they are.
    pub(super) fn look_at_images(&mut self) {
        for Served { stored, handle } in self.images.iter().flatten() {
            stored.image().rescan();
            handle.rescan(1);
        }
        self.lose_images();
    }
}

/// The namespace of an image as a JSON string. Serial numbers are printable ASCII.
fn quoted(serial: &str) -> String {
    let escaped = serial.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}:n1\"")
}
