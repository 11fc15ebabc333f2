//! TLS with a mail server, and what was wrong with its certificate, in words.

use std::io;
use std::path::Path;
use std::sync::Arc;

use chrono::DateTime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::stream::Stream;

#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl Tls {
    /// Trusts the public authorities and those in the file.
    pub(super) fn new(host: &str, extra_roots: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = extra_roots {
            for root in certificates(path)? {
                let where_from = path.display();
                roots.add(root).map_err(|error| {
                    format!("the certificates from {where_from} cannot be used: {error}")
                })?;
            }
        }
        let host = ServerName::try_from(host.to_owned())
            .map_err(|_| "the host of the mail server is no name that TLS knows".to_owned())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), host })
    }

    pub(super) async fn over<S: Stream>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.connector.connect(self.host.clone(), stream).await
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let where_from = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| format!("the certificates from {where_from} cannot be read: {error}"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    read.ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| format!("the certificates from {where_from} are not in PEM form"))
}

/// Whether the server closed the connection: of TLS without its farewell, of TCP with a reset.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// What went wrong below SMTP, for the log.
pub(super) fn describe(error: &io::Error) -> String {
    if is_closed(error) {
        return "it closed the connection".to_owned();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidCertificate(why)) => format!("{CERTIFICATE} {}", of_certificate(why)),
        // What comes where a TLS record should: a greeting in the clear.
        Some(Error::InvalidMessage(_)) => NO_TLS.to_owned(),
        Some(error) => format!("TLS failed: {error}"),
        None => error.to_string(),
    }
}

pub(super) const NO_TLS: &str = "it speaks no TLS on this port";
pub(super) const CERTIFICATE: &str = "its certificate";
pub(super) const UNKNOWN_AUTHORITY: &str = "is from an authority that is not known here";
pub(super) const OTHER_NAME: &str = "is for another name";
pub(super) const EXPIRED: &str = "has expired";
pub(super) const NOT_YET: &str = "is not valid yet";
pub(super) const OF_AUTHORITY: &str = "is an authority's own (CA:TRUE)";

fn of_certificate(why: &CertificateError) -> String {
    let date = |at: &UnixTime| {
        let at = DateTime::from_timestamp(i64::try_from(at.as_secs()).unwrap_or(i64::MAX), 0);
        at.unwrap_or_default().format("%Y-%m-%d").to_string()
    };
    match why {
        CertificateError::UnknownIssuer => UNKNOWN_AUTHORITY.to_owned(),
        // One in SSL_CERT_FILE that was made anew since.
        CertificateError::BadSignature => format!("{UNKNOWN_AUTHORITY}, though one of its name is"),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("{OTHER_NAME} than {}: {}", expected.to_str(), names(presented))
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{EXPIRED}, on {}", date(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("{NOT_YET}, only from {}", date(not_before))
        }
        // The error of the crate below, which has no name here.
        CertificateError::Other(inner) if inner.to_string().contains("CaUsedAsEndEntity") => {
            OF_AUTHORITY.to_owned()
        }
        why => format!("does not hold: {why}"),
    }
}

/// As a certificate has them, in rustls' notation: `DnsName("mail.example.com")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")"));
        let inner =
            inner.or_else(|| name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')));
        inner
            .unwrap_or(name)
            .chars()
            .filter(|c| c.is_ascii_graphic() && *c != '@')
            .take(80)
            .collect()
    };
    let names: Vec<String> = presented.iter().map(bare).take(5).collect();
    if names.is_empty() { "it names no host (a CN is none)".to_owned() } else { names.join(", ") }
}
