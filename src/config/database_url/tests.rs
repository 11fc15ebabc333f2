use std::path::Path;

use super::*;

fn parsed(url: &str) -> Hosts {
    Hosts::parse(url, Role::Primary).unwrap_or_else(|complaint| panic!("{url}: {complaint}"))
}

fn addresses(url: &str) -> Vec<(String, u16)> {
    let hosts = parsed(url);
    hosts.list.iter().map(|host| (host.get_host().to_owned(), host.get_port())).collect()
}

#[test]
fn hosts_are_read_as_libpq_reads_them() {
    for (url, expected) in [
        ("postgres://ann@db.example/app", [("db.example", 5432)].as_slice()),
        ("postgresql://db.example:6000", &[("db.example", 6000)]),
        ("postgres://ann:p@[::1]:6000/app", &[("::1", 6000)]),
        ("postgres://[2001:db8::7]/app", &[("2001:db8::7", 5432)]),
        ("postgres://a:1,b,[::1]:3/app", &[("a", 1), ("b", 5432), ("::1", 3)]),
        ("postgres://ann@/app?host=a,b&port=1,2", &[("a", 1), ("b", 2)]),
        ("postgres://ann@/app?host=a,b&port=7", &[("a", 7), ("b", 7)]),
        ("postgres://ann:p%40ss@word@db.example/app", &[("db.example", 5432)]),
        ("postgres://db.example/app?hostaddr=10.0.0.7", &[("10.0.0.7", 5432)]),
    ] {
        let expected: Vec<_> =
            expected.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        assert_eq!(addresses(url), expected, "{url}");
    }
}

#[test]
fn a_socket_needs_no_host() {
    for url in [
        "postgres://ann@/app?host=/run/pg&port=6000",
        "postgres:///app?user=ann&host=/run/pg&port=6000",
        "postgres://ann@%2Frun%2Fpg:6000/app",
    ] {
        let hosts = parsed(url);
        assert_eq!(
            hosts.list[0].get_socket().map(|path| &**path),
            Some(Path::new("/run/pg")),
            "{url}"
        );
        assert_eq!(hosts.list[0].get_port(), 6000, "{url}");
        assert_eq!(hosts.list[0].get_username(), "ann", "{url}");
        assert_eq!(hosts.list[0].get_database(), Some("app"), "{url}");
    }
}

#[test]
fn what_cannot_be_meant_is_told_without_a_secret() {
    for (url, words) in [
        ("mysql://db.example/app", "must start with"),
        ("postgres://ann:se#cret@db.example/app", "%23"),
        ("postgres://ann:se/cret@db.example/app", "%2F"),
        ("postgres://ann:se?cret@db.example/app", "%3F"),
        ("postgres://ann:cret@db:x/app", "a port that is no number"),
        ("postgres://ann:cret@db:0/app", "a port that is no number"),
        ("postgres://ann:cret@::1/app", "brackets"),
        ("postgres://ann:%ffcret@db/app", "UTF-8"),
        ("postgres://a,b/app?port=1,2,3", "number of ports"),
        ("postgres://a/app?sslmode=cret", "sslmode"),
        ("postgres://a/app?statement-cache-capacity=cret", "statement-cache-capacity"),
        ("postgres://a/app?sslmode=require&sslrootcert=system", "verify-full"),
        ("postgres://a/app?sslrootcert=/nowhere.pem", "/nowhere.pem"),
        ("postgres://a/app?sslcert=/dev/null", "PEM"),
        ("postgres://a,b/app?target_session_attrs=standby", "target_session_attrs"),
    ] {
        let complaint = Hosts::parse(url, Role::Primary).expect_err(url);
        assert!(complaint.contains(words), "{url}: {complaint}");
        assert!(!complaint.contains("cret"), "{url}: {complaint}");
    }
}

#[test]
fn servers_of_a_list_have_to_be_what_the_url_is_for() {
    for (url, role, wanted) in [
        ("postgres://a/x", Role::Primary, None),
        ("postgres://a,b/x", Role::Primary, Some(Role::Primary)),
        ("postgres://a,b/x?target_session_attrs=any", Role::Primary, Some(Role::Primary)),
        ("postgres://a/x?target_session_attrs=read-write", Role::Primary, Some(Role::Primary)),
        ("postgres://a/x?targetServerType=primary", Role::Primary, Some(Role::Primary)),
        (
            "postgres://a,b/x?target_session_attrs=prefer-standby",
            Role::Standby,
            Some(Role::Standby),
        ),
        ("postgres://a/x", Role::Standby, None),
    ] {
        let hosts = Hosts::parse(url, role);
        assert_eq!(hosts.map(|hosts| hosts.wanted), Ok(wanted), "{url}");
    }
}

#[test]
fn encryption_is_libpqs() {
    let mode = |url| parsed(url).list[0].get_ssl_mode();
    let ssl_modes = [
        ("postgres://a/x?sslmode=disable", PgSslMode::Disable),
        ("postgres://a/x?ssl=true", PgSslMode::Require),
        ("postgres://a/x?ssl=true&sslmode=verify-ca", PgSslMode::VerifyCa),
        ("postgres://a/x?sslmode=require", PgSslMode::Require),
        ("postgres://a/x?sslrootcert=system", PgSslMode::VerifyFull),
        (
            "postgres://a/x?sslmode=require&sslrootcert=-----BEGIN+CERTIFICATE-----",
            PgSslMode::VerifyCa,
        ),
    ];
    for (url, expected) in ssl_modes {
        // sqlx's type has no `PartialEq`.
        assert_eq!(format!("{:?}", mode(url)), format!("{expected:?}"), "{url}");
    }
}
