//! Whoever comes for metrics: one request of HTTP, one answer, and the connection is over.
//!
//! What it says is read into a buffer of fixed length and parsed in place; nothing is allocated by it. A request that does not fit there, or
//! is none, is answered with an error. Bodies are not read: a request that has one is for something else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_linux::dispose::{ClientFd, dispose};
use nvme_linux::inventory::Format;
use nvme_linux::socket::{self, ReceiveError};
use rustix::io::Errno;

/// The longest request.
const REQUEST: usize = 4096;
/// Most headers in it.
const HEADERS: usize = 32;

/// One connection.
pub(crate) struct Scraper {
    socket: ClientFd,
    request: Box<[u8; REQUEST]>,
    filled: usize,
    /// What is being sent, once the request is whole.
    answer: Vec<u8>,
    sent: usize,
}

/// What a connection wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asks {
    /// It has not said all.
    More,
    /// The metrics.
    For(Format),
    /// Something that is answered with an error.
    Wrong(&'static str),
    /// It is over.
    Over,
}

impl Scraper {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: ClientFd::new(socket),
            request: Box::new([0; REQUEST]),
            filled: 0,
            answer: Vec::new(),
            sent: 0,
        }
    }

    /// Reads what has come.
    pub(crate) fn read(&mut self) -> Asks {
        loop {
            let Some(room) = self.request.get_mut(self.filled..).filter(|room| !room.is_empty()) else {
                return Asks::Wrong("431 Request Header Fields Too Large");
            };
            match socket::receive(&self.socket, room) {
                Ok((0, files)) => {
                    dispose(files);
                    return Asks::Over;
                }
                Ok((n, files)) => {
                    dispose(files);
                    self.filled += n;
                }
                Err(ReceiveError::Socket(Errno::INTR)) => continue,
                Err(ReceiveError::Socket(Errno::AGAIN)) => return Asks::More,
                Err(_) => return Asks::Over,
            }
            match asks(self.request.get(..self.filled).unwrap_or_default()) {
                Asks::More => {}
                whole => return whole,
            }
        }
    }

    /// Whether its answer is being sent.
    pub(crate) fn is_answered(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Answers with the metrics.
    pub(crate) fn answer(&mut self, text: &str, format: Format) {
        self.respond("200 OK", format.content_type(), text);
    }

    /// Answers that there is nothing of the kind.
    pub(crate) fn refuse(&mut self, status: &str) {
        self.respond(status, "text/plain", "GET /metrics is all there is here\n");
    }

    fn respond(&mut self, status: &str, kind: &str, body: &str) {
        let length = body.len();
        self.answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes();
    }

    /// Sends what the socket takes; true when the connection is over.
    pub(crate) fn send(&mut self) -> bool {
        while let Some(rest) = self.answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match socket::send(&self.socket, rest, &[]) {
                Ok(n) => self.sent += n,
                Err(e) => return e != Errno::AGAIN && e != Errno::INTR,
            }
        }
        true
    }
}

impl AsFd for Scraper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a request asks for.
fn asks(bytes: &[u8]) -> Asks {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(status) if status.is_partial() => return Asks::More,
        Ok(_) => {}
        Err(httparse::Error::TooManyHeaders) => return Asks::Wrong("431 Request Header Fields Too Large"),
        Err(_) => return Asks::Wrong("400 Bad Request"),
    }
    if request.method != Some("GET") {
        return Asks::Wrong("405 Method Not Allowed");
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some("/metrics") {
        return Asks::Wrong("404 Not Found");
    }
    let accepts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
    let open = accepts.flat_map(|header| header.value.split(|b| *b == b',')).any(|kind| {
        kind.trim_ascii_start().to_ascii_lowercase().starts_with(b"application/openmetrics-text")
    });
    Asks::For(if open { Format::OpenMetrics } else { Format::Text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_metrics_or_wrong_or_not_over_yet() {
        for (request, expected) in [
            ("", Asks::More),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", Asks::More),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Asks::For(Format::Text)),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Asks::For(Format::Text)),
            (
                "GET /metrics HTTP/1.1\r\naccept: text/plain;q=0.5, application/OpenMetrics-text;version=1.0.0\r\n\r\n",
                Asks::For(Format::OpenMetrics),
            ),
            ("GET / HTTP/1.1\r\n\r\n", Asks::Wrong("404 Not Found")),
            (
                "POST /metrics HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
                Asks::Wrong("405 Method Not Allowed"),
            ),
            ("GET /metrics\r\n\r\n", Asks::Wrong("400 Bad Request")),
            ("\u{1}\u{2}", Asks::Wrong("400 Bad Request")),
        ] {
            assert_eq!(asks(request.as_bytes()), expected, "{request:?}");
        }
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
        assert_eq!(asks(many.as_bytes()), Asks::Wrong("431 Request Header Fields Too Large"));
    }
}
