//! What a hostile client may try with rings, requests and memory. Each test is named after what it holds.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod churn;
mod double_fetch;
mod driver;
mod durability;
mod forms;
mod journal;
#[cfg(debug_assertions)]
mod mortal;
mod notify;
mod parts;
mod requests;
mod rings;
