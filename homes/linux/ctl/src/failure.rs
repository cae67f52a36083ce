//! How a command fails.

/// Why a command ends, and with which status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) status: u8,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, status: 1 }
    }
}
