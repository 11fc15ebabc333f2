//! The table of limits: what each counts, how much it allows, and the setting that changes that.

use std::ops::Index;

use chrono::TimeDelta;

/// How much of something is allowed. 0 forbids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// `burst` at once; one more is allowed after each `every`.
    Bucket { burst: i32, every: TimeDelta },
    /// `count` in `length`, from the first one on.
    Window { count: i32, length: TimeDelta },
}

const fn bucket(burst: i32, seconds: i64) -> Allowance {
    Allowance::Bucket { burst, every: TimeDelta::seconds(seconds) }
}

const fn window(count: i32, minutes: i64) -> Allowance {
    Allowance::Window { count, length: TimeDelta::minutes(minutes) }
}

/// One line of the table.
#[derive(Debug)]
pub struct Limit {
    /// Stable: what a refused client is told.
    pub name: &'static str,
    /// The setting: `LIMIT_` and the name in capitals.
    pub variable: &'static str,
    default: Allowance,
    index: usize,
    /// The highest number that can be set.
    most: i32,
}

/// The highest number of a limit, unless its line says otherwise.
const MOST: i32 = 1_000_000;

macro_rules! limits {
    ($($(#[$doc:meta])* $id:ident = $name:literal $variable:literal $default:expr, $most:expr;)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "places in the table")]
        enum Place { $($id,)* }

        $($(#[$doc])*
        pub static $id: Limit = Limit {
            name: $name,
            variable: $variable,
            default: $default,
            index: Place::$id as usize,
            most: $most,
        };)*

        pub static LIMITS: &[&Limit] = &[$(&$id,)*];
    };
}

limits! {
    /// Failed logins from one address, to any account.
    LOGIN_ADDRESS = "login_address" "LIMIT_LOGIN_ADDRESS" bucket(30, 4), MOST;
    /// Failed logins from one IPv6 /48: a line at home may have 65,536 networks.
    LOGIN_NETWORK = "login_network" "LIMIT_LOGIN_NETWORK" bucket(120, 1), MOST;
    /// Failed logins to one account from one block of addresses; counted apart for its username
    /// and its e-mail address, so that the end of one does not tell that the other is the same
    /// account.
    LOGIN_ACCOUNT = "login_account" "LIMIT_LOGIN_ACCOUNT" bucket(5, 60), MOST;
    /// Failed logins to one account from all clients that never logged in to it, counted apart
    /// likewise.
    LOGIN_STRANGERS = "login_strangers" "LIMIT_LOGIN_STRANGERS" window(50, 60), MOST;
    /// Logins to one account that succeed: each leaves a session.
    LOGIN_SUCCESS_ACCOUNT = "login_success_account" "LIMIT_LOGIN_SUCCESS_ACCOUNT" window(600, 60), MOST;
    /// Logins from one address that succeed.
    LOGIN_SUCCESS_ADDRESS = "login_success_address" "LIMIT_LOGIN_SUCCESS_ADDRESS" window(2000, 60), MOST;
    /// Accounts made from one address.
    REGISTER_HOUR = "register_hour" "LIMIT_REGISTER_HOUR" window(60, 60), MOST;
    REGISTER_DAY = "register_day" "LIMIT_REGISTER_DAY" window(300, 24 * 60), MOST;
    /// Accounts made from one IPv6 /48.
    REGISTER_NETWORK = "register_network" "LIMIT_REGISTER_NETWORK" window(300, 60), MOST;
    /// Names and e-mail addresses that are taken, asked for by one address.
    REGISTER_TAKEN = "register_taken" "LIMIT_REGISTER_TAKEN" window(30, 60), MOST;
    MAIL_RECIPIENT_HOUR = "mail_recipient_hour" "LIMIT_MAIL_RECIPIENT_HOUR" window(3, 60), MOST;
    MAIL_RECIPIENT_DAY = "mail_recipient_day" "LIMIT_MAIL_RECIPIENT_DAY" window(10, 24 * 60), MOST;
    /// First letters of new accounts to one e-mail address, and letters for forgotten passwords, each
    /// from all clients together: each block of addresses has a budget of its own as well.
    MAIL_FIRST = "mail_first" "LIMIT_MAIL_FIRST" window(30, 24 * 60), MOST;
    /// Letters that calls from one address ask for.
    MAIL_ADDRESS = "mail_address" "LIMIT_MAIL_ADDRESS" window(20, 60), MOST;
    /// Letters for forgotten passwords that calls from one IPv6 /48 ask for.
    MAIL_NETWORK = "mail_network" "LIMIT_MAIL_NETWORK" window(100, 60), MOST;
    /// Wrong codes from letters to one e-mail address, whether or not an account has it.
    CODE_ACCOUNT = "code_account" "LIMIT_CODE_ACCOUNT" window(20, 24 * 60), MOST;
    /// Wrong present passwords in one session.
    PASSWORD = "password" "LIMIT_PASSWORD" window(5, 15), MOST;
    /// Wrong present passwords of one user, in all sessions.
    PASSWORD_USER = "password_user" "LIMIT_PASSWORD_USER" window(15, 15), MOST;
    /// New pairs of tokens of one session. Their times are kept with it, which bounds the number.
    REFRESH = "refresh" "LIMIT_REFRESH" window(30, 1), 1000;
    /// Invitations by one admin.
    INVITE = "invite" "LIMIT_INVITE" window(200, 24 * 60), MOST;
    /// Changes of one user's own data: each leaves its row in the audit log, and asks whether a
    /// name is taken.
    PROFILE = "profile" "LIMIT_PROFILE" window(60, 60), MOST;
    /// Exports of one user's data: each reads all that is held about them.
    EXPORT = "export" "LIMIT_EXPORT" window(5, 24 * 60), MOST;
}

impl Limit {
    /// Reads the setting: a number, or `BURST/SECONDS` for a bucket. The error says what is asked
    /// for.
    pub(super) fn parse(&self, raw: &str) -> Result<Allowance, String> {
        let number = |raw: &str| raw.trim().parse().ok().filter(|n| (0..=self.most).contains(n));
        let name = self.variable;
        match self.default {
            Allowance::Window { length, .. } => {
                let count = number(raw).ok_or_else(|| {
                    format!(
                        "{name} must be a whole number from 0, which forbids it, to {}.",
                        self.most
                    )
                })?;
                Ok(Allowance::Window { count, length })
            }
            Allowance::Bucket { every, .. } => {
                let (burst, seconds) = raw.split_once('/').unzip();
                let given = match (burst, seconds) {
                    (None, None) if raw.trim() == "0" => Some((0, every.num_seconds())),
                    (Some(burst), Some(seconds)) => {
                        let seconds = seconds.trim().parse().ok();
                        number(burst).zip(seconds.filter(|s| (1..=86_400).contains(s)))
                    }
                    _ => None,
                };
                given.map(|(burst, seconds)| bucket(burst, seconds)).ok_or_else(|| {
                    format!(
                        "{name} must be BURST/SECONDS, such as 30/4: so many at once, and one more after \
                         each so many seconds, from 1 to 86400; or 0, which forbids it."
                    )
                })
            }
        }
    }
}

/// How much each limit allows, as it was set.
#[derive(Clone, Debug)]
pub struct Allowances(Vec<Allowance>);

impl Default for Allowances {
    fn default() -> Self {
        Self(LIMITS.iter().map(|limit| limit.default).collect())
    }
}

impl Allowances {
    pub(super) fn set(&mut self, limit: &Limit, allowance: Allowance) {
        self.0[limit.index] = allowance;
    }
}

impl Index<&Limit> for Allowances {
    type Output = Allowance;

    fn index(&self, limit: &Limit) -> &Allowance {
        &self.0[limit.index]
    }
}

impl std::fmt::Display for Allowance {
    /// As it is set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bucket { burst, every } => write!(f, "{burst}/{}", every.num_seconds()),
            Self::Window { count, .. } => write!(f, "{count}"),
        }
    }
}

/// Whom the limits bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimits {
    Everybody,
    /// All but callers from this machine: for development.
    OtherMachines,
    Nobody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_the_name_of_its_limit() {
        for limit in LIMITS {
            assert_eq!(limit.variable, format!("LIMIT_{}", limit.name.to_ascii_uppercase()));
            assert!(std::ptr::eq(*limit, LIMITS[limit.index]));
        }
    }

    #[test]
    fn a_limit_is_a_number_or_a_burst_and_seconds_and_nothing_else() {
        assert_eq!(REGISTER_HOUR.parse("200"), Ok(window(200, 60)));
        assert_eq!(REGISTER_HOUR.parse("0"), Ok(window(0, 60)));
        assert_eq!(LOGIN_ADDRESS.parse("100/2"), Ok(bucket(100, 2)));
        assert_eq!(LOGIN_ADDRESS.parse("0"), Ok(bucket(0, 4)));
        assert_eq!(LOGIN_ADDRESS.parse("0/9"), Ok(bucket(0, 9)));
        for bad in ["-1", "1.5", "200/60", "many", "1000001", "1e3", "off"] {
            let complaint = REGISTER_HOUR.parse(bad).expect_err(bad);
            assert!(complaint.starts_with("LIMIT_REGISTER_HOUR must be"), "{complaint}");
        }
        for bad in ["30", "/", "30/", "/4", "30/0", "30/4/1", "-1/4", "30/-4", "30/86401", "a/b"] {
            let complaint = LOGIN_ADDRESS.parse(bad).expect_err(bad);
            assert!(complaint.starts_with("LIMIT_LOGIN_ADDRESS must be"), "{complaint}");
        }
        assert!(REFRESH.parse("1001").is_err());
    }
}
