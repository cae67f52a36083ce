//! The Linux home.
