//! The mail server: connect, encrypt, log in; send only if asked to.

use std::time::Duration;

use tokio::time::timeout;

use super::{Findings, PATIENCE};
use crate::config::Config;
use crate::mail::{Mailer, SendError, SmtpSettings, advice, message};

/// Longer than the mailer takes at most.
const SENDING_PATIENCE: Duration = Duration::from_secs(100);

pub(super) async fn examine(config: &Config, mailer: &Mailer, send_to: Option<&str>) -> Findings {
    let mut findings = Findings::default();
    match mailer {
        Mailer::Smtp(smtp) => {
            over_smtp(config, mailer, smtp.settings(), send_to, &mut findings).await;
        }
        // The settings have been complained about.
        Mailer::Off if config.smtp.is_some() => {}
        Mailer::Off => findings.warn(
            "mail",
            "no mail server is set and letters wait: set SMTP_URL and MAIL_FROM, or GMAIL_ADDRESS and \
             GMAIL_APP_PASSWORD",
        ),
        Mailer::Folder(_) | Mailer::Memory(_) => {
            findings.ok("mail", "letters are kept, see /dev/mailbox");
        }
    }
    if send_to.is_some() && !matches!(mailer, Mailer::Smtp(_)) {
        findings
            .fail("mail", "--send-to has nobody to carry the letter: set SMTP_URL and MAIL_FROM");
    }
    if !config.worker_inside {
        findings.ok("mail", "WORKER=off: letters are sent by `doorward worker`, if that runs");
    }
    findings
}

async fn over_smtp(
    config: &Config,
    mailer: &Mailer,
    settings: &SmtpSettings,
    send_to: Option<&str>,
    findings: &mut Findings,
) {
    if let Err(error) = in_time(
        "connecting to the mail server",
        PATIENCE + PATIENCE / 10,
        Box::pin(mailer.check(PATIENCE)),
    )
    .await
    {
        return findings.fail("mail", with_advice(&error));
    }
    if settings.is_exposed() {
        findings.warn(
            "mail",
            "letters and the links in them cross the network in the clear: take ?tls=required or smtps://, unless the \
             network between here and the mail server is your own",
        );
    }
    let login = if settings.login.is_some() { "lets us in" } else { "is not asked for a login" };
    let how = format!("the mail server answers, {login}, and lets MAIL_FROM send");
    findings.ok("mail", how);
    let Some(to) = send_to else { return };
    let message_id = format!("<{}@{}>", uuid::Uuid::now_v7(), config.site());
    let letter = message::test(&message_id, to, &config.app_name, None);
    match in_time("sending", SENDING_PATIENCE, Box::pin(mailer.send(&letter))).await {
        Ok(()) => findings.ok("mail", "the letter was taken: look for it in the mailbox"),
        Err(error @ SendError::Permanent(_)) => {
            findings.fail("mail", format!("the letter was not taken, {error}: check the address"));
        }
        Err(error) => findings.fail(
            "mail",
            format!(
                "the mail server has not said that it took the letter, {}",
                with_advice(&error)
            ),
        ),
    }
}

fn with_advice(error: &SendError) -> String {
    match advice(error) {
        Some(advice) => format!("{error}: {advice}"),
        None => error.to_string(),
    }
}

async fn in_time(
    what: &str,
    patience: Duration,
    answer: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    timeout(patience, answer).await.unwrap_or_else(|_| {
        let why = format!("{what}: no answer within {patience:?}");
        Err(SendError::Transient(why))
    })
}
