//! The operator bounds a session, or lets it go on without bounds.

use nvme_core::server::message::SessionKey;
use nvme_linux::factory::Refusal;
use nvme_policy::{Errno, Rate, Shown};

use super::Server;
use super::admin::Order;
use super::waiting::refused;

impl Server {
    /// `limit ID WORD…`: bounds a session by these words from now on. Its answer is what holds then.
    pub(super) fn limit(&mut self, id: &str, words: &[&str], order: &Order<'_>) -> Result<String, Refusal> {
        let shown = Shown::new(id.as_bytes());
        let unknown = || refused(Errno::NotFound, &format!("there is no session {}", shown.as_str()));
        let key = SessionKey(id.parse().map_err(|_| unknown())?);
        let session = self.control.session(key).ok_or_else(unknown)?;
        let rate = session.rate().changed(words.iter().copied()).map_err(|wrong| {
            let wrong = Shown::new(wrong.as_bytes());
            let hint = "use iops=N, bytes=SIZE, iops=none, bytes=none, or none, each once";
            refused(Errno::Invalid, &format!("{}: {hint}", wrong.as_str()))
        })?;
        self.control.limit(key, rate).map_err(|_| refused(Errno::NotFound, "the session ends"))?;
        self.note_limit(key, rate, order);
        let Rate { iops, bytes } = rate;
        let word =
            |n: Option<core::num::NonZeroU64>, none| n.map_or_else(|| String::from(none), |n| n.to_string());
        let (i, b) = (word(iops, "null"), word(bytes, "null"));
        Ok(format!("{{\"session\":{},\"iops\":{i},\"bytes\":{b}}}", key.0))
    }
}
