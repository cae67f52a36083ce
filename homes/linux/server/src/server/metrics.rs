//! The capability `metrics`: who connects there is told all numbers, sessions' names and activity among them.

use nvme_linux::events::Interest;
use nvme_linux::inventory::metrics;
use nvme_linux::socket;
use nvme_platform::Time;

use super::{ACCEPTS_PER_TURN, Server, Watched};
use crate::inventory;
use crate::scrape::{Asks, Scraper};
use crate::seat::STALL_MAX;

/// Connections at a time; one more is closed.
const SCRAPERS_MAX: usize = 8;

impl Server {
    pub(super) fn accept_scraper(&mut self, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.metrics else { return };
            let socket = match socket::accept(listener) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => return self.pause_accepting("metrics", e, time),
            };
            let scrapers = self.watched.values().filter(|w| matches!(w, Watched::Scraper(..))).count();
            if scrapers >= SCRAPERS_MAX {
                continue;
            }
            let scraper = Scraper::new(socket);
            let token = self.next_token;
            if self.epoll.add(&scraper, token, Interest::Read).is_ok() {
                self.token(Watched::Scraper(scraper, time + STALL_MAX));
                self.serve_scraper(token);
            }
        }
    }

    pub(super) fn serve_scraper(&mut self, token: u64) {
        let Some(Watched::Scraper(scraper, _)) = self.watched.get_mut(&token) else { return };
        if !scraper.is_answered() {
            match scraper.read() {
                Asks::More => return,
                Asks::Over => return self.forget(token),
                Asks::Wrong(status) => scraper.refuse(status),
                Asks::For(format) => {
                    let inventory = inventory::of(
                        &self.control,
                        &self.seats,
                        &self.trusted,
                        self.audit.as_ref(),
                        &self.workers,
                    );
                    scraper.answer(&metrics::text(&inventory, format), format);
                }
            }
            let _ = self.epoll.modify(&*scraper, token, Interest::Write);
        }
        if scraper.send() {
            self.forget(token);
        }
    }
}
