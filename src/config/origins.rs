//! The origins of frontends that may call the API (`CORS_ORIGINS`).

use url::Url;

/// Which browser origins may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    list: Vec<Pattern>,
    /// `localhost`, `127.0.0.1` and `[::1]` on any port: in development.
    loopback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// Compared as text, whatever its scheme: apps have origins such as `capacitor://localhost`.
    Exact(String),
    /// `https://*.example.com`: one or more labels before the suffix, which begins with a dot and
    /// may end with a port.
    Below { suffix: String },
}

impl Origins {
    /// Reads a list, separated by commas; each complaint is a sentence about one entry.
    pub(super) fn parse(raw: &str, loopback: bool) -> (Self, Vec<String>) {
        let entries = raw.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let (mut list, mut complaints) = (Vec::new(), Vec::new());
        for entry in entries {
            match Pattern::parse(entry) {
                Ok(pattern) => list.push(pattern),
                Err(why) => {
                    // What stands before an @ may be a password.
                    let shown = entry.rsplit('@').next().unwrap_or_default();
                    complaints.push(format!("CORS_ORIGINS holds {shown:?}: {why}."));
                }
            }
        }
        (Self { list, loopback }, complaints)
    }

    pub(super) fn loopback_alone() -> Self {
        Self { list: Vec::new(), loopback: true }
    }

    /// Whether no origin at all may call.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && !self.loopback
    }

    /// Whether the list has this origin.
    pub fn lists(&self, origin: &str) -> bool {
        self.list.iter().any(|pattern| pattern.fits(origin))
    }

    /// The entries as they were set.
    pub fn entries(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|pattern| match pattern {
            Pattern::Exact(origin) => origin.clone(),
            Pattern::Below { suffix } => format!("https://*{suffix}"),
        })
    }

    /// Whether any page on this machine may call.
    pub fn allows_loopback(&self) -> bool {
        self.loopback
    }
}

impl Pattern {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        if entry == "*" {
            return Err("any page of the web could call with what it knows: list the origins, or \
                        https://*.example.com for all below one domain");
        }
        let Some((scheme, host)) = entry.split_once("://") else {
            return Err(if entry == "null" {
                "every sandboxed page and every local file has this origin"
            } else {
                "an origin begins with its scheme, such as https://app.example.com"
            });
        };
        if scheme == "file" {
            return Err(
                "browsers send null for local files, as for every sandboxed page: serve the \
                        page from a web server",
            );
        }
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c));
        if !is_scheme {
            return Err("its scheme has to be of small letters, as browsers send it");
        }
        if host.ends_with('/') {
            return Err("an origin has no slash at its end");
        }
        if host.contains(['/', '?', '#', '@']) || host.is_empty() {
            return Err("an origin is a scheme, a host and a port, and nothing else");
        }
        if host.contains(|c: char| c.is_ascii_uppercase()) {
            return Err("browsers send the host in small letters");
        }
        if !host.is_ascii() {
            return Err("browsers send a host of another script in its xn-- form");
        }
        if host.contains('*') {
            return Self::below(scheme, host);
        }
        if matches!(scheme, "http" | "https") {
            let sent = Url::parse(entry).ok().map(|url| url.origin().ascii_serialization());
            if sent.as_deref() != Some(entry) {
                return Err(
                    "browsers never send it like this: leave out a port that is the scheme's own, and \
                            check the host",
                );
            }
        } else if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) {
            return Err("its host has characters that none has");
        }
        Ok(Self::Exact(entry.to_owned()))
    }

    fn below(scheme: &str, host: &str) -> Result<Self, &'static str> {
        let suffix = host.strip_prefix('*').filter(|suffix| suffix.starts_with('.'));
        let Some(suffix) = suffix.filter(|suffix| scheme == "https" && !suffix.contains('*'))
        else {
            return Err(
                "a wildcard stands for labels before a domain, with https: https://*.example.com",
            );
        };
        let domain = &suffix[1..];
        let sample = format!("https://{domain}");
        let sent = Url::parse(&sample).ok().map(|url| url.origin().ascii_serialization());
        let labels = domain.split(':').next().unwrap_or_default().split('.');
        let is_domain = labels.clone().count() >= 2
            && labels.clone().all(|label| !label.is_empty())
            && !labels
                .clone()
                .next_back()
                .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if sent.as_deref() != Some(sample.as_str()) || !is_domain {
            return Err(
                "the domain after the wildcard needs two labels or more, such as https://*.example.com",
            );
        }
        Ok(Self::Below { suffix: suffix.to_owned() })
    }

    fn fits(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == origin,
            Self::Below { suffix } => {
                let host = origin.strip_prefix("https://");
                let labels = host.and_then(|host| host.strip_suffix(suffix.as_str()));
                labels.is_some_and(|labels| labels.split('.').all(is_label))
            }
        }
    }
}

fn is_label(label: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(raw: &str) -> Origins {
        let (origins, complaints) = Origins::parse(raw, false);
        assert_eq!(complaints, Vec::<String>::new(), "{raw}");
        origins
    }

    #[test]
    fn an_origin_is_compared_as_text_whatever_its_scheme() {
        for origin in [
            "https://app.example.com",
            "http://10.0.0.1:3000",
            "http://[2001:db8::1]:8080",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "http://tauri.localhost",
            "https://localhost",
            "app://obsidian.md",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://f0e1d2c3-0000-4000-8000-000000000000",
        ] {
            let origins = origins(origin);
            assert!(origins.lists(origin), "{origin}");
            for other in
                [format!("{origin}/"), format!("{origin}:1"), format!("x{origin}"), "null".into()]
            {
                assert!(!origins.lists(&other), "{other}");
            }
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels_and_nothing_else() {
        let below = origins("https://*.example.com, https://*.preview.example.org:8443");
        for origin in [
            "https://a.example.com",
            "https://a-1.b_c.example.com",
            "https://x.preview.example.org:8443",
        ] {
            assert!(below.lists(origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "http://a.example.com",
            "https://a.example.com:444",
            "https://aexample.com",
            "https://evil.test/a.example.com",
            "https://evil.test#.example.com",
            "https://user@a.example.com",
            "https://a.example.com.evil.test",
            "https://A.example.com",
            "https://x.preview.example.org",
            "null",
        ] {
            assert!(!below.lists(origin), "{origin}");
        }
    }

    #[test]
    fn what_can_never_match_or_would_match_anything_is_refused_with_the_reason() {
        for (bad, why) in [
            ("*", "any page of the web"),
            ("null", "every sandboxed page"),
            ("file://", "browsers send null"),
            ("app.example.com", "begins with its scheme"),
            ("https://app.example.com/", "no slash at its end"),
            ("https://app.example.com/path", "nothing else"),
            ("https://App.example.com", "small letters"),
            ("HTTPS://app.example.com", "small letters"),
            ("https://b\u{fc}cher.example", "xn--"),
            ("https://app.example.com:443", "never send it"),
            ("http://app.example.com:80", "never send it"),
            ("https://user@app.example.com", "nothing else"),
            ("https://*", "a wildcard stands for"),
            ("https://*.com", "two labels"),
            ("https://*.1.2.3.4", "two labels"),
            ("http://*.example.com", "a wildcard stands for"),
            ("https://a.*.example.com", "a wildcard stands for"),
            ("https://*example.com", "a wildcard stands for"),
            ("https://*.*.example.com", "a wildcard stands for"),
            ("https://", "nothing else"),
        ] {
            let (_, complaints) = Origins::parse(bad, false);
            assert!(complaints.len() == 1 && complaints[0].contains(why), "{bad}: {complaints:?}");
        }
    }
}
