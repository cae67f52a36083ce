//! Client memory, trusted dataspaces, images, and what happens when they vanish.

mod files;
mod images;
mod support;
mod trusted;
mod vanishing;
