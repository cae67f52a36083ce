//! Who the requests of a queue pair come from.

use nvme_platform::Window;
use nvme_session::memory::DmaRange;
use nvme_session::queue::{Asked, Fault, Tag};

/// Whoever keeps the virtqueues that requests come from.
pub trait Clients {
    /// Client memory, for data that was bounced.
    fn window(&self, tag: Tag, range: &DmaRange) -> Option<Window>;
    /// Whether a request that failed for the moment is still to be done: its session has not ended, nor its namespace.
    fn wants(&self, tag: Tag) -> bool;
    /// Whose it is: the session's number, where that is known.
    fn session(&self, tag: Tag) -> Option<u64> {
        let _ = tag;
        None
    }
    /// The controller failed a command for good, for whoever counts that. Never said of what ends well.
    fn failed(&self, tag: Tag, asked: Asked, fault: Fault) {
        let _ = (tag, asked, fault);
    }
}
