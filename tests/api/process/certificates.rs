//! A database over TLS: who is trusted, and what is said of a certificate that is not.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use doorward::config::database_url::{Hosts, Role};
use doorward::store::db::Db;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::harness::home::Home;
use crate::harness::postgres::{Postgres, owned_folder};
use crate::process::doctor::Report;

/// An authority, and the certificates that it signs.
struct Authority {
    pem: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(pem: PathBuf) -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        fs::write(&pem, own.pem()).unwrap();
        fs::write(pem.with_extension("key"), key.serialize_pem()).unwrap();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// For a server of this name; the file of the certificate, beside which is its key.
    fn sign(&self, name: &str, pem: PathBuf, is_expired: bool) -> PathBuf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        fs::write(&pem, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(pem.with_extension("key"), key.serialize_pem()).unwrap();
        pem
    }
}

/// A server that answers over TLS alone, with this certificate.
async fn server(folder: &Path, certificate: &Path) -> Postgres {
    let key = certificate.with_extension("key");
    let owner = fs::metadata(folder).unwrap();
    chown(&key, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let files = [
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    Postgres::start(&["ssl=on", &files[0], &files[1]]).await
}

#[tokio::test]
async fn each_trouble_with_a_certificate_is_told_as_what_it_is() {
    let folder = owned_folder().await;
    let at = |name: &str| folder.path().join(name);
    let (authority, other) = (Authority::new(at("authority.pem")), Authority::new(at("other.pem")));
    let good = authority.sign("localhost", at("good.pem"), false);
    let servers = [
        server(folder.path(), &good).await,
        server(folder.path(), &authority.sign("db.example", at("name.pem"), false)).await,
        server(folder.path(), &authority.sign("localhost", at("old.pem"), true)).await,
        server(folder.path(), &authority.pem).await,
    ];
    let url = |number: usize, parameters: &str| {
        format!("postgres://doorward@localhost:{}/postgres?{parameters}", servers[number].port)
    };
    let (own, stranger) = (authority.pem.display(), other.pem.display());
    let trusted = [
        url(0, "sslmode=require"),
        url(0, &format!("sslmode=require&sslrootcert={own}")),
        url(0, &format!("sslmode=verify-full&sslrootcert={own}")),
        url(1, &format!("sslmode=verify-ca&sslrootcert={own}")),
        url(3, "sslmode=require"),
    ];
    for url in &trusted {
        let db = Db::new(Hosts::parse(url, Role::Primary).unwrap(), 1);
        db.acquire().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }
    let mut home = Home::new(&[("DOORWARD_ENV", "development")]);
    for (url, words) in [
        (url(0, "sslmode=verify-full"), "an authority that is not known here"),
        (url(0, "sslrootcert=system"), "an authority that is not known here"),
        // libpq verifies the authority once one is named.
        (
            url(0, &format!("sslmode=require&sslrootcert={stranger}")),
            "an authority that is not known here",
        ),
        (url(1, &format!("sslmode=verify-full&sslrootcert={own}")), "for other names"),
        (url(2, &format!("sslmode=verify-full&sslrootcert={own}")), "has expired"),
        (url(3, &format!("sslmode=verify-full&sslrootcert={own}")), "CA:FALSE"),
    ] {
        home.set("DATABASE_URL", &url);
        let report = Report::of(words, &home, &[]).await;
        report.assert_has("fail", "database", words);
        // What waiting mends is waited for, and nothing else.
        if !words.contains("expired") {
            let said = home.fails(&["serve"], "").await;
            assert!(said.contains("doorward: ") && said.contains(words), "{said}");
        }
    }
}
