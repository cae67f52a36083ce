//! How long calls may take.

use core::time::Duration;

/// How long a call may take that waits for a device, all in all. What a device has not done by then may take much longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long control may work on a change that a call waits for.
pub(super) const MAPPING_PATIENCE: Duration = Duration::from_secs(30);
