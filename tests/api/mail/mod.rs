//! Letters: how they are sent, and what happens while the mail server is in trouble.

mod outbox;
mod smtp;
mod trouble;
mod worker;
