//! What a hostile client may try with rings, requests and memory. Each test is named after what it holds.

mod churn;
mod double_fetch;
mod driver;
mod durability;
mod notify;
mod requests;
mod rings;
