//! What can be told from the settings alone.

use secrecy::ExposeSecret;
use url::Url;

use super::{DATABASE_URLS, Findings, is_about, is_usable};
use crate::cli::create_admin;
use crate::config::limits::{LIMITS, Limit, RateLimits};
use crate::config::{Config, is_loopback_url};
use crate::telemetry;

type Check = fn(&Config, &mut Findings);

pub(super) fn examine(config: &Config, complaints: &[String]) -> Findings {
    let mut findings = Findings::default();
    let mode = if config.is_production() { "production" } else { "development" };
    findings
        .ok("settings", format!("this is {mode}, listening on {}:{}", config.host, config.port));
    for complaint in complaints {
        let is_of_database = DATABASE_URLS.iter().any(|name| is_about(name, complaint));
        findings.fail(if is_of_database { "database" } else { "settings" }, complaint);
    }
    if !telemetry::is_filter(&config.log) {
        findings.warn(
            "settings",
            "LOG cannot be read and counts as info: write info, or info,doorward=debug",
        );
    }
    first_admin(config, &mut findings);
    traces(config, &mut findings);
    // A setting that was complained about holds its default, which needs no check.
    let checks: [(&str, Check); 6] = [
        ("SECRET_KEY", secret),
        ("PUBLIC_URL", public_url),
        ("CORS_ORIGINS", cors),
        ("TRUSTED_PROXY_HOPS", proxies),
        ("RATE_LIMITS", limits),
        ("METRICS_TOKEN", metrics),
    ];
    checks
        .iter()
        .filter(|(name, _)| is_usable(name, complaints))
        .for_each(|(_, check)| check(config, &mut findings));
    findings
}

fn first_admin(config: &Config, findings: &mut Findings) {
    match create_admin::check_first_admin(config) {
        Err(complaint) => findings.fail("first admin", complaint.to_string()),
        Ok(()) if config.first_admin.is_some() => findings.ok(
            "first admin",
            "made at the start while there is none: remove ADMIN_EMAIL and ADMIN_PASSWORD afterwards",
        ),
        Ok(()) => {}
    }
}

fn secret(config: &Config, findings: &mut Findings) {
    let Some(key) = config.secret_key.as_ref().map(ExposeSecret::expose_secret) else {
        if !config.is_production() {
            findings.ok("secret", "a generated key is kept under .doorward/");
        }
        return;
    };
    let previous = config.secret_key_previous.as_ref().map(ExposeSecret::expose_secret);
    if key.trim() != key {
        let message = "SECRET_KEY begins or ends with white space, which is a part of the key: remove it, before other \
                       instances are set without";
        findings.warn("secret", message);
    }
    if looks_made_up(key) {
        let message = "SECRET_KEY looks made up rather than random, and whoever guesses it signs tokens: make one with \
                       `openssl rand -base64 48`";
        findings.warn("secret", message);
    } else if previous == Some(key) {
        let message = "SECRET_KEY_PREVIOUS is SECRET_KEY itself: remove it, or set the key before";
        findings.warn("secret", message);
    } else if previous.is_some() {
        findings.ok("secret", "two keys are accepted: a rotation is under way");
    } else {
        findings.ok("secret", "SECRET_KEY is set");
    }
}

/// Whether a key repeats itself, counts up or down, or is made of words. 32 random bytes, in
/// hexadecimal or Base64, do none of these.
fn looks_made_up(key: &str) -> bool {
    let bytes = key.as_bytes();
    let repeats =
        (1..24.min(bytes.len())).any(|period| bytes[period..] == bytes[..bytes.len() - period]);
    let steps = bytes.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count();
    repeats
        || steps * 2 > bytes.len()
        || !bytes.iter().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

fn public_url(config: &Config, findings: &mut Findings) {
    let leads_here = Url::parse(&config.public_url).is_ok_and(|url| is_loopback_url(&url));
    if config.is_production() && leads_here {
        let message = "PUBLIC_URL is this machine: the links in letters lead to the reader's own. Write the name that \
                       browsers use";
        findings.warn("public url", message);
    } else if config.is_production() && !config.is_https() {
        let message = "PUBLIC_URL is not https: passwords and tokens travel in the clear. Put a proxy that ends TLS in \
                       front, and write https://";
        findings.fail("public url", message);
    } else {
        findings.ok("public url", format!("{} starts every link", config.public_url));
    }
    if let Some(url) = &config.confirm_redirect_url {
        let origin = url.origin().ascii_serialization();
        findings.ok("public url", format!("who has confirmed an address goes on to {origin}"));
    }
    if let Some(url) = &config.confirm_url {
        let origin = url.origin().ascii_serialization();
        findings.ok(
            "public url",
            format!("the links in letters lead to {origin}, which has to call us: see cors"),
        );
    }
    findings.ok("name", format!("people know the service as {}: APP_NAME", config.app_name));
}

fn cors(config: &Config, findings: &mut Findings) {
    let origins = &config.cors_origins;
    let list: Vec<String> = origins.entries().collect();
    if origins.allows_loopback() {
        findings.ok("cors", "any page on this machine may call");
    }
    if list.is_empty() {
        if !origins.allows_loopback() {
            let message =
                "no browser app of another origin may call: name it in CORS_ORIGINS if one is to";
            findings.ok("cors", message);
        }
        return;
    }
    findings.ok("cors", format!("these may call: {}", list.join(", ")));
    let plain = |origin: &&String| {
        Url::parse(origin).is_ok_and(|url| url.scheme() == "http" && !is_loopback_url(&url))
    };
    if let Some(plain) = list.iter().find(plain).filter(|_| config.is_https()) {
        let message = format!(
            "{plain} in CORS_ORIGINS is not https: whoever is on the way changes its pages, and calls as its \
             users do"
        );
        findings.warn("cors", message);
    }
}

fn proxies(config: &Config, findings: &mut Findings) {
    match config.trusted_proxy_hops {
        0 if config.is_https() => findings.warn(
            "proxies",
            "TRUSTED_PROXY_HOPS is 0, yet somebody ends TLS in front of us: unless that keeps the clients' addresses, \
             all of them share one address, and the limits. Set how many proxies add to x-forwarded-for: behind Heroku 1",
        ),
        0 => findings.ok("proxies", "none in front: x-forwarded-for is not believed"),
        hops => findings.ok(
            "proxies",
            format!("{hops} in front: the client is entry {hops} of x-forwarded-for from the right"),
        ),
    }
}

fn limits(config: &Config, findings: &mut Findings) {
    let message = "RATE_LIMITS=off: passwords can be guessed as fast as they can be hashed";
    match (config.rate_limits, config.is_production()) {
        (RateLimits::Nobody, true) => findings.fail("limits", format!("{message}. Remove it")),
        (RateLimits::Nobody, false) => findings.warn("limits", message),
        (RateLimits::Everybody, _) => findings.ok("limits", in_force(config)),
        (RateLimits::OtherMachines, _) => {
            let whom = "callers from this machine are not limited (RATE_LIMITS=on limits them too); others: ";
            findings.ok("limits", whom.to_owned() + &in_force(config));
        }
    }
}

/// The limits as they would be set.
fn in_force(config: &Config) -> String {
    let show = |limit: &&Limit| format!("{} {}", limit.name, config.allowances[limit]);
    LIMITS.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn traces(config: &Config, findings: &mut Findings) {
    let Some(url) = &config.traces_to else { return };
    if cfg!(feature = "otlp") {
        findings.ok("traces", format!("sent to {}", url.origin().ascii_serialization()));
    } else {
        let message = "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this binary sends no traces: build it with --features otlp";
        findings.warn("traces", message);
    }
}

fn metrics(config: &Config, findings: &mut Findings) {
    let Some(token) = config.metrics_token.as_ref().map(ExposeSecret::expose_secret) else {
        return;
    };
    if looks_made_up(token) {
        let message = "METRICS_TOKEN looks made up rather than random, and whoever guesses it reads the figures: make \
                       one with `openssl rand -hex 24`";
        findings.warn("metrics", message);
    } else {
        findings.ok("metrics", "GET /metrics answers whoever has METRICS_TOKEN");
    }
}

#[cfg(test)]
mod tests {
    use super::looks_made_up;
    use crate::security::{random_bytes, random_secret};

    #[test]
    fn random_keys_are_told_from_made_up_ones() {
        for key in [
            "change-me-1-change-me-1-change-me-1-",
            "0123456789abcdefghijklmnopqrstuvwxyz",
            "a secret that somebody has thought of",
            "12345678901234567890123456789012345",
        ] {
            assert!(looks_made_up(key), "{key}");
        }
        for _ in 0..1000 {
            let hex = format!("{:02x?}", random_bytes::<32>()).replace(['[', ']', ',', ' '], "");
            for key in [random_secret(), hex] {
                assert!(!looks_made_up(&key), "{key}");
            }
        }
    }
}
