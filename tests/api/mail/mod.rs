//! Letters: how they are sent, and what happens while the mail server is in trouble.

mod clean_up;
mod letters;
mod names;
mod outbox;
mod postfix;
mod purge;
mod replies;
mod sender;
mod smtp;
mod smtp_security;
mod templates;
mod trouble;
mod without_server;
mod worker;
