//! L4Re's C functions that are symbols of its libraries (libc, l4re_c, l4re_c-util, libio-vbus).
#![expect(unsafe_code, reason = "declares L4Re's C functions")]

use core::ffi::{c_char, c_int, c_uint, c_void};

use super::types::{
    l4_addr_t, l4_cap_idx_t, l4_ret_t, l4re_ds_stats_t, l4re_env_t, l4vbus_device_handle_t, l4vbus_device_t,
    l4vbus_resource_t,
};
use crate::kernel::L4Error;

/// Rights of an attached region.
pub(super) const RM_R: u32 = 4;
pub(super) const RM_RW: u32 = 6;
/// Attached at a multiple of this power of two, at least.
pub(super) const PAGE_SHIFT: u8 = 12;

unsafe extern "C" {
    pub(super) static l4re_global_env: *const l4re_env_t;
    pub(super) static l4_global_kip: *const u8;

    /// Of the C library, whatever its `sigaction` looks like. `handler` is a function that takes the signal, or SIG_DFL.
    pub(super) fn signal(signal: c_int, handler: usize) -> usize;

    pub(super) fn l4re_util_cap_alloc() -> l4_cap_idx_t;
    pub(super) fn l4re_util_cap_free_um(cap: l4_cap_idx_t);

    pub(super) fn l4re_log_printn_srv(log: l4_cap_idx_t, text: *const c_char, len: c_int);

    pub(super) fn l4re_ma_alloc_align_srv(
        allocator: l4_cap_idx_t,
        size: isize,
        dataspace: l4_cap_idx_t,
        flags: usize,
        align: usize,
    ) -> l4_ret_t;
    pub(super) fn l4re_ds_info(dataspace: l4_cap_idx_t, stats: *mut l4re_ds_stats_t) -> l4_ret_t;

    pub(super) fn l4re_rm_attach_srv(
        rm: l4_cap_idx_t,
        start: *mut *mut c_void,
        size: usize,
        flags: u32,
        dataspace: l4_cap_idx_t,
        offset: u64,
        align: u8,
    ) -> c_int;
    pub(super) fn l4re_rm_detach_srv(
        rm: l4_cap_idx_t,
        at: l4_addr_t,
        dataspace: *mut l4_cap_idx_t,
        task: l4_cap_idx_t,
    ) -> c_int;

    pub(super) fn l4re_dma_space_map(
        space: l4_cap_idx_t,
        dataspace: l4_cap_idx_t,
        offset: u64,
        size: *mut usize,
        attributes: usize,
        direction: c_int,
        at: *mut u64,
    ) -> l4_ret_t;
    pub(super) fn l4re_dma_space_unmap(
        space: l4_cap_idx_t,
        at: u64,
        size: usize,
        attributes: usize,
        direction: c_int,
    ) -> l4_ret_t;

    pub(super) fn l4vbus_get_next_device(
        vbus: l4_cap_idx_t,
        parent: l4vbus_device_handle_t,
        child: *mut l4vbus_device_handle_t,
        depth: c_int,
        info: *mut l4vbus_device_t,
    ) -> c_int;
    pub(super) fn l4vbus_get_device_by_hid(
        vbus: l4_cap_idx_t,
        parent: l4vbus_device_handle_t,
        child: *mut l4vbus_device_handle_t,
        hid: *const c_char,
        depth: c_int,
        info: *mut l4vbus_device_t,
    ) -> c_int;
    pub(super) fn l4vbus_get_resource(
        vbus: l4_cap_idx_t,
        device: l4vbus_device_handle_t,
        index: c_uint,
        resource: *mut l4vbus_resource_t,
    ) -> c_int;
    pub(super) fn l4vbus_vicu_get_cap(
        vbus: l4_cap_idx_t,
        icu: l4vbus_device_handle_t,
        cap: l4_cap_idx_t,
    ) -> c_int;
    pub(super) fn l4vbus_assign_dma_domain(
        vbus: l4_cap_idx_t,
        domain: c_uint,
        flags: c_uint,
        space: l4_cap_idx_t,
    ) -> c_int;
    pub(super) fn l4vbus_pcidev_cfg_read(
        vbus: l4_cap_idx_t,
        device: l4vbus_device_handle_t,
        register: u32,
        value: *mut u32,
        width: u32,
    ) -> c_int;
    pub(super) fn l4vbus_pcidev_cfg_write(
        vbus: l4_cap_idx_t,
        device: l4vbus_device_handle_t,
        register: u32,
        value: u32,
        width: u32,
    ) -> c_int;
    pub(super) fn l4vbus_pcidev_irq_enable(
        vbus: l4_cap_idx_t,
        device: l4vbus_device_handle_t,
        trigger: *mut u8,
        polarity: *mut u8,
    ) -> c_int;
}

/// The answer of a C function as a result.
pub(super) fn check(answer: impl Into<i64>) -> Result<i64, L4Error> {
    let answer = answer.into();
    if answer < 0 { Err(L4Error(answer)) } else { Ok(answer) }
}
