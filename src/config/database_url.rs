//! A database's URL, read as libpq reads it: PostgreSQL's manual, "Connection URIs", with lists of
//! hosts.

mod parameters;

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

pub use parameters::ignored_parameters;
use parameters::is_known;

/// The servers that one URL names, in its order.
#[derive(Clone)]
pub struct Hosts {
    /// One or more.
    pub list: Vec<PgConnectOptions>,
    /// What the one that is used has to be; `None` where it is taken as it is.
    pub wanted: Option<Role>,
}

/// What a server has to be before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Standby,
}

impl fmt::Debug for Hosts {
    /// Without the passwords in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.list.iter().map(|host| (host.get_host(), host.get_port()));
        f.debug_list().entries(places).finish()
    }
}

impl From<PgConnectOptions> for Hosts {
    /// One host, taken as it is.
    fn from(options: PgConnectOptions) -> Self {
        Self { list: vec![options], wanted: None }
    }
}

/// What is wrong with a URL: one clause, which repeats nothing that may be a secret.
type Complaint = Cow<'static, str>;

impl Hosts {
    /// The servers of a URL that is written to, or read from alone (`role`: a standby).
    pub fn parse(url: &str, role: Role) -> Result<Self, Complaint> {
        let parts = Parts::split(url)?;
        let wanted = wanted(&parts, role)?;
        let list = parts
            .hosts()?
            .into_iter()
            .map(|(host, port)| options(&parts, &host, port))
            .collect::<Result<Vec<_>, _>>()?;
        let is_list = list.len() > 1;
        Ok(Self { list, wanted: wanted.or(is_list.then_some(role)) })
    }

    #[must_use]
    pub fn map(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { list: self.list.into_iter().map(change).collect(), ..self }
    }
}

/// What `target_session_attrs` asks for, or JDBC's word for it. It may agree with what the URL is
/// for, and nothing else.
fn wanted(parts: &Parts, role: Role) -> Result<Option<Role>, Complaint> {
    let names = ["target_session_attrs", "target_server_type", "targetServerType"];
    let Some(asked) = names.iter().find_map(|name| parts.parameter(name)) else {
        return Ok(None);
    };
    match (asked, role) {
        ("any", _) => Ok(None),
        ("read-write" | "primary" | "master", Role::Primary)
        | (
            "standby" | "prefer-standby" | "read-only" | "secondary" | "preferSecondary",
            Role::Standby,
        ) => Ok(Some(role)),
        (_, Role::Primary) => {
            Err("is written to: target_session_attrs is read-write, primary or any".into())
        }
        (_, Role::Standby) => {
            Err("is a standby's: target_session_attrs is standby, prefer-standby, read-only or any"
                .into())
        }
    }
}

/// A URL that is taken to pieces. The `url` crate knows one host alone, and none that is empty.
struct Parts {
    user: Option<String>,
    password: Option<String>,
    /// `a:5432,[::1]`, as it is written.
    hosts: String,
    database: Option<String>,
    parameters: Vec<(String, String)>,
}

impl Parts {
    fn split(url: &str) -> Result<Self, Complaint> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("must start with postgres:// or postgresql://")?;
        if rest.contains('#') {
            return Err("holds a #: in a user or a password, write %23".into());
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = path.split_once('/').unwrap_or((path, ""));
        if database.contains(['@', '/']) {
            return Err("holds a / before its host: in a user or a password, write %2F".into());
        }
        if query
            .split('&')
            .any(|pair| pair.split('=').next().is_some_and(|name| name.contains('@')))
        {
            return Err("holds a ? before its host: in a user or a password, write %3F".into());
        }
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?).filter(|it| !it.is_empty())),
            None => (credentials, None),
        };
        let user = decoded(user)?;
        let database = decoded(database)?;
        Ok(Self {
            user: Some(user).filter(|user| !user.is_empty()),
            password,
            hosts: hosts.to_owned(),
            database: Some(database).filter(|name| !name.is_empty()),
            parameters: parameters(query)?,
        })
    }

    /// The last value of a parameter, which counts.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Names or addresses, with their ports. An empty name is the default: a socket, or this
    /// machine.
    fn hosts(&self) -> Result<Vec<(String, Option<u16>)>, Complaint> {
        let mut hosts = Vec::new();
        for host in self.hosts.split(',') {
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => (name, Some(port)),
                _ => (host, None),
            };
            if name.contains(':') && !name.starts_with('[') {
                return Err("holds a : too many: an IPv6 address stands in brackets, and in a user or a password a : \
                            is %3A"
                    .into());
            }
            let port = port.filter(|port| !port.is_empty()).map(number).transpose()?;
            hosts.push((decoded(name.trim_matches(['[', ']']))?, port));
        }
        if let Some(named) = self.parameter("hostaddr").or_else(|| self.parameter("host")) {
            let ports: Vec<_> = hosts.iter().map(|(_, port)| *port).collect();
            let port = |place: usize| ports.get(place).or(ports.first()).copied().flatten();
            hosts = named
                .split(',')
                .enumerate()
                .map(|(place, name)| (name.trim_matches(['[', ']']).to_owned(), port(place)))
                .collect();
        }
        if let Some(ports) = self.parameter("port") {
            let ports = ports.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
            if ports.len() != 1 && ports.len() != hosts.len() {
                return Err("names another number of ports than of hosts".into());
            }
            for (place, host) in hosts.iter_mut().enumerate() {
                host.1 = ports.get(place).or(ports.first()).copied();
            }
        }
        Ok(hosts)
    }
}

/// A plus sign is one, and no blank: these are no fields of a form.
fn parameters(query: &str) -> Result<Vec<(String, String)>, Complaint> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    });
    pairs.collect()
}

fn decoded(raw: &str) -> Result<String, Complaint> {
    let decoded = percent_decode_str(raw).decode_utf8();
    Ok(decoded.map_err(|_| "holds bytes that are no UTF-8 behind a %")?.into_owned())
}

fn number(raw: &str) -> Result<u16, Complaint> {
    raw.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        "has a port that is no number from 1 to 65535: in a user or a password, a : is %3A, a / is %2F and an @ is %40"
            .into()
    })
}

/// One host of the URL, with all that they share.
fn options(parts: &Parts, host: &str, port: Option<u16>) -> Result<PgConnectOptions, Complaint> {
    // sqlx reads what is not named here from PGHOST, PGUSER and so on, and passwords from .pgpass.
    let mut url = Url::parse("postgres:///").expect("it is one");
    {
        let mut query = url.query_pairs_mut();
        let named = [
            ("host", Some(host).filter(|host| !host.is_empty())),
            ("user", parts.user.as_deref()),
            ("password", parts.password.as_deref()),
            ("dbname", parts.database.as_deref()),
        ];
        for (name, value) in named {
            query.extend_pairs(value.map(|value| (name, value)));
        }
        query.extend_pairs(port.map(|port| ("port", port.to_string())));
        let ours = |name: &str| {
            matches!(name, "host" | "hostaddr" | "port" | "ssl" | "sslmode" | "ssl-mode")
                || name.starts_with("target")
                || is_root_certificate(name)
        };
        query.extend_pairs(
            parts.parameters.iter().filter(|(name, _)| is_known(name) && !ours(name)),
        );
    }
    let options = url.as_str().parse().map_err(
        |_| "holds a parameter that cannot be read: statement-cache-capacity is a whole number",
    )?;
    encrypted(options, parts)
}

fn is_root_certificate(name: &str) -> bool {
    matches!(name, "sslrootcert" | "ssl-root-cert" | "ssl-ca")
}

/// Sets how the connection is encrypted, and whom it trusts: as libpq does, `require` with a root
/// certificate verifies the authority.
fn encrypted(options: PgConnectOptions, parts: &Parts) -> Result<PgConnectOptions, Complaint> {
    let asked = parts.parameter("sslmode").or_else(|| parts.parameter("ssl-mode"));
    let asked = match (asked, parts.parameter("ssl")) {
        (None, Some("true" | "1")) => Some("require"),
        (asked, _) => asked,
    };
    let mode = asked.map(str::parse::<PgSslMode>).transpose().map_err(
        |_| "has an sslmode that is not disable, allow, prefer, require, verify-ca or verify-full",
    )?;
    for name in ["sslcert", "ssl-cert", "sslkey", "ssl-key"] {
        if let Some(path) = parts.parameter(name) {
            pem(name, path)?;
        }
    }
    let root = parts.parameters.iter().rev().find(|(name, _)| is_root_certificate(name));
    let Some((name, root)) = root else {
        return Ok(mode.into_iter().fold(options, PgConnectOptions::ssl_mode));
    };
    if root == "system" {
        return match mode {
            None | Some(PgSslMode::VerifyFull) => Ok(options.ssl_mode(PgSslMode::VerifyFull)),
            Some(_) => Err("has sslrootcert=system, which wants sslmode=verify-full".into()),
        };
    }
    pem(name, root)?;
    let mode = match mode {
        Some(PgSslMode::Require) => Some(PgSslMode::VerifyCa),
        mode => mode,
    };
    Ok(mode.into_iter().fold(options.ssl_root_cert(root), PgConnectOptions::ssl_mode))
}

/// Whether a file in PEM is there. sqlx would find out at each connection, and wait for it.
fn pem(name: &str, path: &str) -> Result<(), Complaint> {
    if path.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    // What is no path may be the key itself.
    let is_path = !name.ends_with("key") && path.len() < 256 && path.starts_with(['/', '.', '~']);
    let shown = if is_path { format!("{name}={path}") } else { format!("{name} with a file") };
    let read = std::fs::read(path);
    let read = read.map_err(|error| format!("has {shown}, which cannot be read: {error}"))?;
    if read.windows(11).any(|part| part == b"-----BEGIN ") {
        return Ok(());
    }
    Err(format!("has {shown}, which holds nothing in PEM (-----BEGIN ...)").into())
}

#[cfg(test)]
mod tests;
