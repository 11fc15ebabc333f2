//! The service from outside: the production router on a real PostgreSQL, and the real binary.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod admin_list;
mod admin_pages;
mod admin_users;
mod auth_confirm;
mod auth_confirm_page;
mod auth_login;
mod auth_login_hash;
mod auth_logout;
mod auth_refresh;
mod auth_refresh_tabs;
mod binary;
mod codes;
mod commands;
mod crash;
mod floors;
mod forge;
mod http_body;
mod http_contract;
mod http_cors;
mod http_outage;
mod http_tokens;
mod instances;
mod limits;
mod local_postgres;
mod mail;
mod mail_trouble;
mod openapi;
mod pooler;
mod races;
mod readme;
mod settings;
mod smoke;
mod smtp_sink;
mod support;
mod tokens;
mod tokens_forged;
mod users_change_password;
mod users_me;
mod users_me_email;
mod users_register;
mod users_register_fields;
mod users_verify_email;
mod without_database;
mod worker;
