//! Capabilities (those of capabilities(7)) and what could bring them back.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};

use super::SandboxError;

/// Empties every set. Returns whether there was anything in one.
pub(super) fn drop_capabilities() -> Result<bool, SandboxError> {
    let before = capabilities(None).map_err(SandboxError::step("reading the capabilities"))?;
    let had = !before.permitted.is_empty() || !before.effective.is_empty() || !before.inheritable.is_empty();
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..64u32 {
            let Some(bit) = 1u64.checked_shl(number) else { break };
            let capability = CapabilitySet::from_bits_retain(bit);
            // The kernel refuses the numbers that it does not know.
            if matches!(capability_is_in_bounding_set(capability), Ok(true)) {
                remove_capability_from_bounding_set(capability)
                    .map_err(SandboxError::step("emptying the capability bounding set"))?;
            }
        }
        // User 0 is nobody special from here on.
        use CapabilitiesSecureBits as Bits;
        set_capabilities_secure_bits(
            Bits::NO_ROOT
                | Bits::NO_ROOT_LOCKED
                | Bits::NO_SETUID_FIXUP
                | Bits::NO_SETUID_FIXUP_LOCKED
                | Bits::KEEP_CAPS_LOCKED
                | Bits::NO_CAP_AMBIENT_RAISE
                | Bits::NO_CAP_AMBIENT_RAISE_LOCKED,
        )
        .map_err(SandboxError::step("setting the secure bits"))?;
    }
    clear_ambient_capability_set().map_err(SandboxError::step("emptying the ambient capability set"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(SandboxError::step("dropping the capabilities"))?;
    Ok(had)
}

/// No program that is started gains anything, and nobody of the same user can trace us or read our memory.
pub(super) fn no_new_privileges() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(SandboxError::step("setting no_new_privs"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(SandboxError::step("setting PR_SET_DUMPABLE"))
}
