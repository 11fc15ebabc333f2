//! The limits on attempts, letters and changes.

mod letters;
pub mod logins;
mod uncertain;
