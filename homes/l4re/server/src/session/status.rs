//! The status register (virtio 1.2, 2.1), as L4virtio has it: what the driver asks for, and what becomes of it.

/// The driver has seen the device.
pub(crate) const ACKNOWLEDGE: u8 = 1;
/// It can drive it.
pub(crate) const DRIVER: u8 = 2;
/// It is set up.
pub(crate) const DRIVER_OK: u8 = 4;
/// Features are agreed on.
pub(crate) const FEATURES_OK: u8 = 8;
/// The device is in trouble.
pub(crate) const NEEDS_RESET: u8 = 0x40;
/// The driver has given up.
pub(crate) const FAILED: u8 = 0x80;

/// Nothing is served in these.
const FAIL: u8 = NEEDS_RESET | FAILED;
const RUNNING: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/// Whether queues can be set up.
pub(crate) fn may_configure(status: u8) -> bool {
    status & FAIL == 0 && status & ACKNOWLEDGE != 0 && status & DRIVER != 0
}

/// Whether the driver may be told of anything.
pub(crate) fn is_driver_ok(status: u8) -> bool {
    status & DRIVER_OK != 0
}

/// Whether the queue is to be served.
pub(crate) fn is_running(status: u8) -> bool {
    status == RUNNING
}

/// What becomes of a status that the driver asked for; not of zero, which is a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// This is the status.
    Is(u8),
    /// Likewise, and the queue is to be served.
    Run(u8),
    /// Likewise, and it is not served any more.
    Stop(u8),
    /// Everything is as after a reset, but the status is this.
    Broken(u8),
}

/// `agree` settles the features that the driver acknowledged, and says whether they will do; `has_queue`: the queue was set up.
pub(crate) fn next(current: u8, asked: u8, agree: impl FnOnce() -> bool, has_queue: bool) -> Next {
    if (current | asked) & FAIL != 0 {
        return Next::Stop(current | (asked & FAIL));
    }
    let lacks = |bit: u8, needed: u8| asked & bit != 0 && asked & needed == 0;
    // Steps may be taken together, but not out of order.
    if lacks(DRIVER, ACKNOWLEDGE) || lacks(FEATURES_OK, DRIVER) || lacks(DRIVER_OK, FEATURES_OK) {
        return Next::Stop(current | NEEDS_RESET);
    }
    let settled = current & FEATURES_OK != 0 && asked & DRIVER_OK != 0;
    let agreed = asked & FEATURES_OK == 0 || settled || agree();
    match (agreed, is_running(asked)) {
        (true, false) => Next::Is(asked),
        (true, true) if has_queue => Next::Run(asked),
        (true, true) => Next::Broken(current | NEEDS_RESET),
        // The driver has to look whether the bit is still there.
        (false, false) => Next::Is(asked & !FEATURES_OK),
        (false, true) => Next::Stop(current | NEEDS_RESET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_goes_step_by_step() {
        assert_eq!(next(0, 1, || false, false), Next::Is(1));
        assert_eq!(next(1, 3, || false, false), Next::Is(3));
        assert_eq!(next(3, 11, || true, false), Next::Is(11));
        assert_eq!(next(11, 15, || false, true), Next::Run(15), "features are settled by then");
        assert_eq!(next(0, 15, || true, true), Next::Run(15), "or all at once");
    }

    #[test]
    fn features_that_will_not_do_are_not_taken() {
        assert_eq!(next(3, 11, || false, false), Next::Is(3));
        assert_eq!(next(3, 15, || false, true), Next::Stop(3 | NEEDS_RESET));
    }

    #[test]
    fn driver_ok_without_a_queue_needs_a_reset() {
        assert_eq!(next(11, 15, || true, false), Next::Broken(11 | NEEDS_RESET));
    }

    #[test]
    fn steps_out_of_order_need_a_reset() {
        for asked in [2, 8, 9, 4, 5, 7, 6, 12, 13, 10, 14] {
            assert_eq!(next(1, asked, || true, true), Next::Stop(1 | NEEDS_RESET), "{asked:#x}");
        }
    }

    #[test]
    fn a_failure_stays_until_a_reset() {
        assert_eq!(next(15, FAILED, || true, true), Next::Stop(15 | FAILED));
        assert_eq!(next(15 | FAILED, 15, || true, true), Next::Stop(15 | FAILED));
        assert_eq!(next(3 | NEEDS_RESET, 11, || true, true), Next::Stop(3 | NEEDS_RESET));
        assert!(!may_configure(3 | NEEDS_RESET) && !is_running(15 | FAILED) && may_configure(3));
    }
}
