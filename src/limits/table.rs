//! The table of limits.

use chrono::TimeDelta;

use crate::store::limits::Allowance;

/// One line of the table of limits.
#[derive(Debug)]
pub struct Limit {
    /// Stable: what a refused client is told.
    pub name: &'static str,
    pub(super) allowance: Allowance,
}

const fn bucket(name: &'static str, burst: i32, seconds: i64) -> Limit {
    Limit { name, allowance: Allowance::Bucket { burst, every: TimeDelta::seconds(seconds) } }
}

const fn window(name: &'static str, count: i32, minutes: i64) -> Limit {
    Limit { name, allowance: Allowance::Window { count, length: TimeDelta::minutes(minutes) } }
}

/// Failed logins from one address, to any account.
pub static LOGIN_ADDRESS: Limit = bucket("login_address", 30, 4);
/// Failed logins to one account from one block of addresses.
pub static LOGIN_ACCOUNT: Limit = bucket("login_account", 10, 30);
/// Failed logins to one account from all addresses that never logged in to it.
pub static LOGIN_STRANGERS: Limit = window("login_strangers", 100, 60);
pub static REGISTER_HOUR: Limit = window("register_hour", 10, 60);
pub static REGISTER_DAY: Limit = window("register_day", 60, 24 * 60);
pub static MAIL_RECIPIENT_HOUR: Limit = window("mail_recipient_hour", 3, 60);
pub static MAIL_RECIPIENT_DAY: Limit = window("mail_recipient_day", 10, 24 * 60);
pub static MAIL_ADDRESS: Limit = window("mail_address", 20, 60);
/// Wrong present passwords of a user who is logged in.
pub static PASSWORD: Limit = window("password", 5, 15);
pub static REFRESH: Limit = window("refresh", 30, 1);
/// Changes of one user's own data: each leaves its row in the audit table, and asks whether a name
/// is taken.
pub static PROFILE: Limit = window("profile", 60, 60);

pub static ALL: [&Limit; 11] = [
    &LOGIN_ADDRESS,
    &LOGIN_ACCOUNT,
    &LOGIN_STRANGERS,
    &REGISTER_HOUR,
    &REGISTER_DAY,
    &MAIL_RECIPIENT_HOUR,
    &MAIL_RECIPIENT_DAY,
    &MAIL_ADDRESS,
    &PASSWORD,
    &REFRESH,
    &PROFILE,
];
