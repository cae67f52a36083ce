//! The words of `create()`, and what they ask for.
//!
//! * [`SessionRequest`]: `create(0, …)`. [`FactoryRequest`]: `create("factory", …)`. Both say only what was said: what is had of it, a
//!   [`Ceiling`](crate::Ceiling) decides.
//! * `draft`: where words and options are gathered, each once. [`Refusal`]: which word is wrong, and why.

mod draft;
mod factory;
mod refusal;
mod session;
#[cfg(test)]
mod tests;

pub use draft::Trusted;
pub(crate) use draft::{Draft, Named};
pub use factory::FactoryRequest;
pub(crate) use factory::Terms;
pub use refusal::{Refusal, Why};
pub use session::{Policy, SessionRequest};
