//! Descriptors by number.

use serde::{Deserialize, Serialize};

/// A descriptor that goes with a document: the how manieth it is of those, from 0. In a document each is named exactly once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct File(pub u32);
