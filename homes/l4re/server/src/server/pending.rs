//! A call that takes time.

use nvme_l4re::kernel::Cap;
use nvme_platform::Time;
use nvme_policy::Policy;

use crate::label::Number;
use crate::message::{Meta, SessionCall};

/// What is asked, and by whom.
pub(super) enum Asked {
    Factory(Meta),
    Create(Policy),
    Session(Number, SessionCall),
}

/// A call that is worked on.
pub(super) struct Pending {
    pub(super) asked: Asked,
    /// What came with it, as long as nobody took it.
    pub(super) cap: Option<Cap>,
    pub(super) since: Time,
}
