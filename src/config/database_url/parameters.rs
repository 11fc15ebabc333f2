//! The parameters of a database's URL: which mean something here, and what to do about the others.

use super::Parts;

/// The parameters that mean something here, as libpq or sqlx spells them.
const KNOWN: [&str; 22] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "target_session_attrs",
    "target_server_type",
    "targetServerType",
    "user",
];

/// Parameters of other clients that lose nothing where they are left out.
const HARMLESS: [&str; 17] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "pool_timeout",
    "prepareThreshold",
    "prepared_statements",
    "sslsni",
    "statement_cache_size",
    "supa",
    "uselibpqcompat",
];

/// Parameters of other clients that are left out to a loss, and what to write in place of each.
const OF_OTHER_CLIENTS: [(&str, &str); 10] = [
    ("sslaccept", "write sslmode=verify-full, with sslrootcert"),
    ("sslcrl", "revoked certificates are not asked for: remove it"),
    ("sslnegotiation", "remove it"),
    ("schema", SEARCH_PATH),
    ("currentSchema", SEARCH_PATH),
    ("search_path", SEARCH_PATH),
    ("connection_limit", "set DATABASE_CONNECTIONS"),
    ("pool_max_conns", "set DATABASE_CONNECTIONS"),
    ("pgbouncer", "set DATABASE_POOLER=on, or remove it: a pooler is noticed"),
    ("pool_mode", "it is a setting of the pooler: remove it"),
];

const SEARCH_PATH: &str = "run `alter role ... in database ... set search_path`, or, where no pooler stands in front, write \
     options=-csearch_path%3D and the schema's name";

/// Parameters that are left out to a loss, each with what to do. Any other name that is not known
/// is not repeated: it may be the rest of a password.
pub fn ignored_parameters(url: &str) -> Vec<(&'static str, &'static str)> {
    let Ok(parts) = Parts::split(url) else { return Vec::new() };
    let unknown = parts
        .parameters
        .iter()
        .filter(|(name, _)| !is_known(name) && !HARMLESS.contains(&name.as_str()));
    let told = unknown.map(|(name, _)| {
        OF_OTHER_CLIENTS.iter().find(|(known, _)| known == name).copied().unwrap_or((
            "a parameter",
            "remove it; if it is a part of the password, percent-encode that",
        ))
    });
    told.collect()
}

pub(super) fn is_known(parameter: &str) -> bool {
    KNOWN.contains(&parameter) || parameter.starts_with("options[")
}
