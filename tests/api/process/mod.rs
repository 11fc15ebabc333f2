//! The real binary: its commands, its start, its end, and several of it.

mod certificates;
mod commands;
mod crash;
mod create_admin;
pub mod doctor;
pub mod doctor_database;
mod dotenv;
mod first_start;
mod idle;
pub mod instances;
mod least_privilege;
mod letters;
mod listening;
mod local_postgres;
mod local_postgres_trouble;
mod people;
mod rolling;
mod settings;
mod shared_database;
mod smoke;
mod without_database;
