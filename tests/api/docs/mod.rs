//! What the documents promise, and that they are true.

mod decisions;
mod floors;
mod openapi;
mod readme;
mod security;
