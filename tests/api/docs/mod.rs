//! What the documents promise, and that they are true.

mod floors;
mod openapi;
mod readme;
mod security;
