//! What the documents, the manifest and the scripts say, and that it is true.

mod decisions;
mod dependencies;
mod floors;
mod openapi;
mod page;
mod permissions;
mod postgres_places;
mod readme;
mod scaling;
mod security;
