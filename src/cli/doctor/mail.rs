//! The mail server: connect, encrypt, log in; send only if asked to.

use std::time::Duration;

use tokio::time::timeout;

use super::{Findings, PATIENCE};
use crate::config::Config;
use crate::mail::letters::{Letters, Values};
use crate::mail::{Mailer, SendError, SmtpSettings, advice};

/// Longer than the mailer takes at most.
const SENDING_PATIENCE: Duration = Duration::from_secs(100);

pub(super) async fn examine(
    config: &Config,
    (mailer, letters): (&Mailer, &Letters),
    send_to: Option<&str>,
) -> Findings {
    let mut findings = Findings::default();
    match mailer {
        Mailer::Smtp(smtp) => {
            if over_smtp(mailer, smtp.settings(), &mut findings).await
                && let Some(to) = send_to
            {
                send(config, (mailer, letters), to, &mut findings).await;
            }
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

/// Whether the mail server can be used.
async fn over_smtp(mailer: &Mailer, settings: &SmtpSettings, findings: &mut Findings) -> bool {
    if let Err(error) = in_time(
        "connecting to the mail server",
        PATIENCE + PATIENCE / 10,
        Box::pin(mailer.check(PATIENCE)),
    )
    .await
    {
        findings.fail("mail", with_advice(&error));
        return false;
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
    true
}

async fn send(
    config: &Config,
    (mailer, letters): (&Mailer, &Letters),
    to: &str,
    findings: &mut Findings,
) {
    let message_id = format!("<{}@{}>", uuid::Uuid::now_v7(), config.site());
    let letter = match letters.render("test", &message_id, to, &Values::new()) {
        Ok(letter) => letter,
        Err(flaw) => return findings.fail("letters", flaw.to_string()),
    };
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
