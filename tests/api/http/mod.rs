//! What holds for every call, whatever it asks for.

mod body;
mod codes;
mod connection;
mod contract;
mod cors;
mod early_answers;
mod full_house;
mod outage;
mod pages;
mod public;
mod siege;
mod siege_answers;
mod token_headers;
