//! How an image is reached, by the word in the SPEC.

/// Who makes the calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// A window for memory, io_uring for the rest where there is one, else threads.
    #[default]
    Auto,
    /// The image is mapped, and copied.
    Window,
    /// io_uring.
    Uring,
    /// Threads.
    Threads,
}

impl Engine {
    /// From the word in the SPEC.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Auto, Self::Window, Self::Uring, Self::Threads]
            .into_iter()
            .find(|engine| engine.word() == word)
    }

    /// The word in the SPEC.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Window => "window",
            Self::Uring => "uring",
            Self::Threads => "threads",
        }
    }
}
